"""GDPO, Group reward-Decoupled Normalization Policy Optimization.

"GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward
RL Optimization", Shih-Yang Liu, Xin Dong, Ximing Lu, Shizhe Diao, Peter Belcak,
Mingjie Liu, Min-Hung Chen, Hongxu Yin, Yu-Chiang Frank Wang, Kwang-Ting Cheng,
Yejin Choi, Jan Kautz, Pavlo Molchanov, 2026, arXiv:2601.05242.

Rewards that are summed before they are standardised collapse: different mixes
of them end at the same advantage. So each is standardised by itself, and the
sum over the batch brings the scale back:

  S = Σ_c w_c·(R_c − μ_c) / (σ_c + eps) within the group
  A = (S − mean) / (std + eps) over the rows of the batch
  L = token mean of −min(ρₜAₜ, clip(ρₜ, 1 − ε_low, 1 + ε_high)·Aₜ)

Equals grpo for one channel and whiten='none'.

verl whitens over tokens, so that long responses count more (`whiten='token'`).
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def gdpo(
    *,
    channels: tuple[str, ...] | None = None,
    channel_weights: tuple[float, ...] | None = None,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    whiten_over: str = 'sequence',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """GDPO: reward channels standardised one by one, then summed and whitened.

  Args:
    channels: names of the environment's reward channels; all when None.
    channel_weights: w, one per named channel; all 1 when None.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviations.
    singleton: what a group of one gets: 'zero' or 'raw'.
    whiten_over: what the sums are whitened over: 'sequence', the batch's rows,
      'token', its chosen tokens, or 'none'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `std`, `singleton`, `whiten_over`, `old` or
      `aggregation`, or weights that do not fit the channels; when credit is
      assigned, a channel that the environment does not give.

  Source: "GDPO: Group reward-Decoupled Normalization Policy Optimization for
    Multi-reward RL Optimization", Liu et al., 2026, arXiv:2601.05242.

  Example:
    >>> gdpo(channels=('right', 'form'), channel_weights=(1., .2)).min_group
    2
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.standardize_channels(
          channels, channel_weights, std=std, eps=eps, singleton=singleton,
          whiten=whiten_over),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
