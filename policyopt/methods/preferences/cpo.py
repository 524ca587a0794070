"""CPO, Contrastive Preference Optimization, online.

"Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance
in Machine Translation", Haoran Xu, Amr Sharaf, Yunmo Chen, Weiting Tan,
Lingfeng Shen, Benjamin Van Durme, Kenton Murray, Young Jin Kim, 2024,
arXiv:2401.08417.

DPO without a reference model, held up by the likelihood of what is preferred.
With y⁺ the best-rewarded response of a group and y⁻ its worst,

  L = −mean over pairs of log σ(β(log π(y⁺) − log π(y⁻)))
      − c·mean over the tokens of all y⁺ of log π

or another first term, by `kind` (see `ops.cpo_pair_losses`).

Equals simpo when kind is 'simpo' and c = 0.

Differs from the paper: its pairs were collected before; here they are drawn
from the policy and ranked by the reward. The mean of the second term runs over
tokens, as in TRL; the paper sums a response and takes the mean over responses.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def cpo(
    *,
    kind: str = 'sigmoid',
    beta: float = 0.1,
    label_smoothing: float = 0.,
    margin: float = 0.5,
    alpha: float = 0.,
    nll_coef: float = 1.,
    average: bool | None = None,
) -> Method:
  """CPO: the best response against the worst, plus the best one's likelihood.

  Args:
    kind: 'sigmoid', 'hinge', 'ipo' or 'simpo'.
    beta: β.
    label_smoothing: ε of 'sigmoid' and 'simpo'.
    margin: γ of 'simpo'.
    alpha: shape of the reward, (1 − p⁻ᵅ) / α; 0 is log p.
    nll_coef: c; 0 leaves the likelihood out.
    average: log-probabilities in the first term are means over the tokens of a
      response, not sums; None: means for 'ipo' and 'simpo', sums for the
      others.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `kind`, or an unsuitable `label_smoothing`, `beta` or
      `nll_coef`.

  Source: "Contrastive Preference Optimization: Pushing the Boundaries of LLM
    Performance in Machine Translation", Xu et al., 2024, arXiv:2401.08417.

  Example:
    >>> sorted(cpo().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.mark_pairs(),
      weights=credit.weigh_pairs(),
      loss=losses.cpo_loss(
          kind=kind, beta=beta, label_smoothing=label_smoothing, margin=margin,
          alpha=alpha, nll_coef=nll_coef, average=average),
      derived=credit.chosen_length() if nll_coef else None,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
