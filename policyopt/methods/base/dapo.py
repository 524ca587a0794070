"""DAPO, Decoupled Clip and Dynamic sAmpling Policy Optimization.

"DAPO: An Open-Source LLM Reinforcement Learning System at Scale", Qiying Yu et
al., 2025, arXiv:2503.14476.

GRPO with four changes: the clip leaves more room upwards, groups that are all
right or all wrong are replaced by new ones, every token of the batch weighs the
same, and responses that come near the length limit pay for it:

  Aₜ = (R − mean of the group) / std of the group
  L = (1 / N) Σ over all N tokens of
      −min(ρₜAₜ, clip(ρₜ, 1 − ε_low, 1 + ε_high)·Aₜ)

Equals grpo(beta=0, aggregation='token_mean') when ε_high = ε_low, no group is
flat and no response is long.

Differs from the paper: resampling is bounded. After `rounds` rounds the places
that are still empty hold flat groups, which weigh nothing.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def dapo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
    rounds: int = 3,
    max_length: int | None = None,
    buffer: int | None = None,
    factor: float = 1.,
) -> Method:
  """DAPO: decoupled clip, dynamic sampling, token mean, overlong penalty.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.
    rounds: rounds of sampling at most, until enough groups are not flat; 1
      samples once.
    max_length: tokens at which the whole overlong penalty is due; None: none.
    buffer: tokens before that over which the penalty grows.
    factor: the whole penalty.

  Returns:
    A Method.

  Raises:
    ValueError: `max_length` without `buffer` or the reverse, or as `grpo`.

  Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    Yu et al., 2025, arXiv:2503.14476.

  Example:
    >>> sorted(dapo(max_length=64, buffer=16).loss.needs)
    []
  """
  if (max_length is None) != (buffer is None):
    raise ValueError(
        f'max_length is {max_length} and buffer is {buffer}; the overlong '
        'penalty needs both, or neither')
  rewards = credit.identity()
  if max_length is not None:
    rewards = credit.overlong_penalty(max_length, buffer, factor)
  return Method(
      rewards=rewards,
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.chain(
          credit.drop_flat_groups(),
          credit.aggregate(aggregation, length=max_tokens)),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.oversample(planning.uniform_prompts(), rounds),
      rollout=rollouts.refill_flat_groups(rounds),
      min_group=2)
