"""CISPO, Clipped IS-weight Policy Optimization.

"MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
MiniMax, 2025, arXiv:2506.13585.

The clip of PPO drops the gradient of the tokens that moved furthest, which are
often the rare ones on which a response turns. Here the clipped ratio is only a
weight: every token keeps its gradient.

  Aₜ = (R − mean of the group) / std of the group
  L = (1 / N) Σ over all N tokens of
      −sg(clip(ρₜ, 1 − ε_low, 1 + ε_high))·Aₜ·log π(yₜ)

Its gradient equals that of grpo(beta=0, aggregation='token_mean') without a
clip when no bound is met.

Differs from the paper: it leaves ε_low without effect and does not state
ε_high. The default here is the bound 5 that large runs with this loss have used
("The Art of Scaling Reinforcement Learning", 2025, arXiv:2510.13786), which is
ε_low = 1 and ε_high = 4. TRL means that bound itself by its ε_high:
bounds='upper', clip_high=5.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def cispo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 1.,
    clip_high: float = 4.,
    bounds: str = 'both',
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """CISPO: the clipped ratio is a weight, and no token is dropped.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the weight may fall below 1.
    clip_high: how far it may rise above 1; with bounds='upper' its largest
      value.
    bounds: 'both' or 'upper', min(ρ, clip_high) without a lower bound.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `bounds`, `old` or `aggregation`.

  Source: "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning
    Attention", MiniMax, 2025, arXiv:2506.13585.

  Example:
    >>> sorted(cispo(bounds='upper', clip_high=5.).loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.cispo_surrogate(
          clip_low, clip_high, bounds=bounds, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
