"""ORPO, Odds Ratio Preference Optimization, online.

"ORPO: Monolithic Preference Optimization without Reference Model", Jiwoo Hong,
Noah Lee, James Thorne, 2024, arXiv:2403.07691.

The likelihood of the better response, and a term that prefers it by the ratio
of the odds. With y⁺ the best-rewarded response of a group, y⁻ its worst, and p
the geometric mean of a response's token probabilities,

  odds(y) = p(y) / (1 − p(y))
  L = −c·mean over the tokens of all y⁺ of log π
      − β·mean over pairs of log σ(log odds(y⁺) − log odds(y⁻))

Equals the likelihood of the chosen rows alone as β goes to 0.

Differs from the paper: its pairs were collected before; here they are drawn
from the policy and ranked by the reward. The mean of the likelihood runs over
the tokens of the batch, as in TRL; the paper's over those of each response
first. The odds of a response that is certain are bounded.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def orpo(*, beta: float = 0.1, nll_coef: float = 1.) -> Method:
  """ORPO: likelihood of the best response and its odds against the worst's.

  Args:
    beta: β, weight of the odds ratio (the paper's λ).
    nll_coef: c, weight of the likelihood.

  Returns:
    A Method.

  Raises:
    ValueError: `beta` is not positive or `nll_coef` is negative.

  Source: "ORPO: Monolithic Preference Optimization without Reference Model",
    Hong, Lee, Thorne, 2024, arXiv:2403.07691.

  Example:
    >>> sorted(orpo().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.mark_pairs(),
      weights=credit.weigh_pairs(),
      loss=losses.orpo_loss(beta=beta, nll_coef=nll_coef),
      derived=credit.chosen_length() if nll_coef else None,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
