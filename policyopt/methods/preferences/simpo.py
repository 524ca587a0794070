"""SimPO, Simple Preference Optimization, online.

"SimPO: Simple Preference Optimization with a Reference-Free Reward", Yu Meng,
Mengzhou Xia, Danqi Chen, 2024, arXiv:2405.14734; other reward shapes: "AlphaPO:
Reward Shape Matters for LLM Alignment", Gupta et al., 2025, arXiv:2501.03884.

The implicit reward is the mean log-probability of a token, which is what a
sampler goes by, and the better response has to win by a margin. With y⁺ the
best-rewarded response of a group, y⁻ its worst, and n⁺, n⁻ their lengths,

  L = −mean over pairs of log σ(β·log π(y⁺) / n⁺ − β·log π(y⁻) / n⁻ − γ)

Equals cpo(kind='simpo', nll_coef=0).

Differs from the paper: its pairs come from a fixed model; here they are drawn
from the policy and ranked by the reward.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def simpo(
    *,
    beta: float = 2.,
    margin: float = 0.5,
    label_smoothing: float = 0.,
    alpha: float = 0.,
) -> Method:
  """SimPO: length-normalised likelihoods and a margin, no reference.

  Args:
    beta: β.
    margin: γ, by how much the better response should win.
    label_smoothing: ε, the chance that a preference is the wrong way round.
    alpha: AlphaPO's shape of the reward, (1 − p⁻ᵅ) / α with p the geometric
      mean of the token probabilities; 0 is log p, SimPO.

  Returns:
    A Method.

  Raises:
    ValueError: an unsuitable `beta` or `label_smoothing`.

  Source: "SimPO: Simple Preference Optimization with a Reference-Free Reward",
    Meng, Xia, Chen, 2024, arXiv:2405.14734.

  Example:
    >>> simpo().derived is None
    True
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.mark_pairs(),
      weights=credit.weigh_pairs(),
      loss=losses.cpo_loss(
          kind='simpo', beta=beta, label_smoothing=label_smoothing,
          margin=margin, alpha=alpha, nll_coef=0.),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
