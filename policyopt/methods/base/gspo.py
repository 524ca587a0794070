"""GSPO, Group Sequence Policy Optimization.

"Group Sequence Policy Optimization", Chujie Zheng, Shixuan Liu, Mingze Li,
Xiong-Hui Chen, Bowen Yu, Chang Gao, Kai Dang, Yuqiong Liu, Rui Men, An Yang,
Jingren Zhou, Junyang Lin, 2025, arXiv:2507.18071.

GRPO whose unit is the response: one ratio for the row, the geometric mean of
its token ratios, and so one clip for the row:

  s = exp((1 / n) Σₜ (log π(yₜ) − log π_old(yₜ)))
  L = −mean over rows of min(s·A, clip(s, 1 − ε_low, 1 + ε_high)·A)

Equals grpo's surrogate when every response has one token.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def gspo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    gradient: str = 'sequence',
    old: str = 'log_probs',
    beta: float = 0.,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
) -> Method:
  """GSPO: sequence-level ratio and clip.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the sequence ratio may fall below 1.
    clip_high: how far it may rise above 1.
    gradient: 'sequence', or 'token' for the paper's GSPO-token.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `gradient`, `old`, `kl` or `aggregation`.

  Source: "Group Sequence Policy Optimization", Zheng et al., 2025,
    arXiv:2507.18071.

  Example:
    >>> sorted(gspo().loss.needs)
    []
  """
  loss = losses.clipped_surrogate(
      clip_low, clip_high, level='sequence', gradient=gradient, old=old)
  if beta:
    loss = losses.add(
        loss, losses.kl_penalty(beta, value=kl, gradient=kl_gradient))
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=loss,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
