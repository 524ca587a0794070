"""GRPO for pass@k: only the best of a group is credited, by its margin.

"Optimizing Language Models for Inference Time Objectives using Reinforcement
Learning", Yunhao Tang, Kunhao Zheng, Gabriel Synnaeve, Rémi Munos, 2025,
arXiv:2503.19595.

The objective is the best reward of the group, which for right and wrong answers
is pass@k with k the size of the group. What the group would lose without a
response is its leave-one-out advantage: the margin over the second best for the
best one, and nothing for the others:

  A = (R − second best) / std of the group for the best, else 0
  L = token mean of −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ)

A best reward that two responses share gets 0, so learning ends where a second
answer of the group is right as a rule.

Differs from the paper: the division by the spread, as verl has it (`std='none'`
leaves it out); and a group of one gets 0, which verl refuses.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def passk_grpo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """GRPO for pass@k: A = margin of the group's best over its second best.

  Args:
    std: what the margin is divided by: 'sample', 'population' or 'none'.
    eps: added to the standard deviation.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `std`, `old` or `aggregation`.

  Source: "Optimizing Language Models for Inference Time Objectives using
    Reinforcement Learning", Tang, Zheng, Synnaeve, Munos, 2025,
    arXiv:2503.19595.

  Example:
    >>> passk_grpo(std='none').min_group
    2
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.best_margin(std=std, eps=eps),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
