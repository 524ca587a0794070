"""Advantages against baselines other than the group's mean or a critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.advantages import spread_rows, taking_part
from policyopt.credit.rewards import environment_rewards, row_rewards
from policyopt.names import check_name
from policyopt.ops import masking, normalizers, returns
from policyopt.ops.estimators import baselines, others
from policyopt.types import Array, CreditTransform, Rollout, read_extra

WHITENING = ('sequence', 'token', 'none')


def _by_row(
    fn: Callable[[Array, Rollout], Array]) -> CreditTransform:
  """From (f32[B] rewards, rollout) -> f32[B], on every chosen token."""
  return base.stateless(lambda x, rollout: spread_rows(
      fn(row_rewards(x, rollout), rollout), rollout))


def subtract_greedy_reward() -> CreditTransform:
  """Aₜ = Σ_{s ≥ t} r_s − b, b what the greedy response to the prompt earned.

  Returns:
    A CreditTransform for advantages; needs 'greedy_reward'.

  Source: "ReMax: A Simple, Effective, and Efficient Reinforcement Learning
    Method for Aligning Large Language Models", Li et al., 2023,
    arXiv:2310.10505.
  """
  def subtract(x, rollout):
    greedy = read_extra(rollout, 'greedy_reward', 'subtract_greedy_reward')
    mask = taking_part(rollout)
    return masking.fill(
        returns.discounted_returns(x, mask) - greedy[:, None], mask)

  return base.stateless(subtract, {'greedy_reward'})


def subtract_length_weighted_mean(
    *, singleton: str = 'zero') -> CreditTransform:
  """Aₜ = R − Σ n·R / Σ n over the row's group, n the chosen tokens of a row.

  Args:
    singleton: what a group of one gets: 'zero' or 'raw', its reward.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `singleton`.

  Source: "On-Policy RL with Optimal Reward Baseline", Hao et al., 2025,
    arXiv:2505.23585.
  """
  normalizers.check_rules(singleton=singleton)

  def subtract(rewards, rollout):
    lengths = jnp.sum(rollout.mask, axis=1)
    return baselines.length_weighted_centre(
        rewards, lengths, rollout.group, singleton=singleton)

  return _by_row(subtract)


def centre_and_rescale(
    *,
    scale_by: str = 'valid',
    f_norm: float = 1.,
    std: str = 'none',
    eps: float = 1e-6,
    singleton: str = 'zero',
) -> CreditTransform:
  """Aₜ = α·(R − μ) / F, α = rows of the batch / rows that teach something.

  Args:
    scale_by: which rows those are: 'valid', 'nonzero' or 'none' for α = 1 (see
      `ops.live_scale`).
    f_norm: F, a constant.
    std: divides by the group's spread as well, unless 'none' (see
      `group_standardize`).
    eps: added to that spread.
    singleton: what a group of one gets: 'zero' or 'raw'.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `scale_by`, `std` or `singleton`, or F is not
      positive.

  Source: "GPG: A Simple and Strong Reinforcement Learning Baseline for Model
    Reasoning", Chu et al., 2025, arXiv:2504.02546.
  """
  check_name('scale_by', scale_by, baselines.SCALES)
  normalizers.check_rules(std=std, singleton=singleton)
  if not f_norm > 0:
    raise ValueError(f'f_norm is {f_norm}; it must be a positive number')

  def rescale(rewards, rollout):
    centred = normalizers.group_standardize(
        rewards, rollout.group, std=std, eps=eps, singleton=singleton)
    alpha = baselines.live_scale(rewards, rollout.group, scale_by)
    return centred * (alpha / f_norm)

  return _by_row(rescale)


def best_margin(
    *, std: str = 'sample', eps: float = 1e-6) -> CreditTransform:
  """Aₜ = (R − second best) / (σ + eps) for the best of a group, 0 for others.

  Args:
    std: σ, 'sample', 'population' or 'none' (no division).
    eps: added to σ.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `std`.

  Source: "Optimizing Language Models for Inference Time Objectives using
    Reinforcement Learning", Tang et al., 2025, arXiv:2503.19595.
  """
  normalizers.check_rules(std=std)
  return _by_row(lambda rewards, rollout: others.best_margin(
      rewards, rollout.group, std=std, eps=eps))


def divide_by_mean(
    *,
    eps: float = 1e-6,
    singleton: str = 'zero',
    nonpositive: str = 'zero',
) -> CreditTransform:
  """Aₜ = (R − μ) / (μ + eps) with the mean of the row's group.

  Args:
    eps: added to μ.
    singleton: what a group of one gets: 'zero' or 'raw'.
    nonpositive: what a group with μ ≤ 0 gets: 'zero', or 'divide' for the
      quotient as it comes.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `singleton` or `nonpositive`.

  Source: "Maximum Likelihood Reinforcement Learning", Tajwar et al., 2026,
    arXiv:2602.02710.
  """
  normalizers.check_rules(singleton=singleton)
  check_name('nonpositive', nonpositive, baselines.NONPOSITIVE)
  return _by_row(lambda rewards, rollout: baselines.divide_by_mean(
      rewards, rollout.group, eps=eps, singleton=singleton,
      nonpositive=nonpositive))


def leave_one_out_standardize(
    *, eps: float = 1e-6, singleton: str = 'zero') -> CreditTransform:
  """Aₜ = (R − μ₋) / (σ₋ + eps), mean and spread of the others of the group.

  Equals `leave_one_out` where σ₋ is 0.

  Args:
    eps: added to σ₋.
    singleton: what a group of one gets: 'zero' or 'raw'.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `singleton`.

  Source: the default of NeMo RL.
  """
  normalizers.check_rules(singleton=singleton)
  return _by_row(lambda rewards, rollout: others.leave_one_out_standardize(
      rewards, rollout.group, eps=eps, singleton=singleton))


def standardize_channels(
    channels: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    whiten: str = 'sequence',
) -> CreditTransform:
  """Aₜ = Σ_c w_c·(R_c − μ_c) / (σ_c + eps), then whitened over the batch.

  Each channel is compared with its own group as the environment gave it; what
  reward transforms did is not seen.

  Args:
    channels: keys of `Rollout.rewards`; all of them when None.
    weights: w, one per channel; all 1 when None.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to σ.
    singleton: what a group of one gets: 'zero' or 'raw'.
    whiten: the sums are whitened over 'sequence', the batch's rows, each
      counting once (with eps added to the spread); over 'token', its chosen
      tokens, so that long rows count more (with 1e-8 added to the variance);
      or 'none'.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `std`, `singleton` or `whiten`, or weights that do
      not fit the channels; at update, an unknown channel.

  Source: "GDPO: Group reward-Decoupled Normalization Policy Optimization for
    Multi-reward RL Optimization", Liu et al., 2026, arXiv:2601.05242.
  """
  normalizers.check_rules(std=std, singleton=singleton)
  check_name('whiten', whiten, WHITENING)
  if weights is not None and len(weights) != len(channels or ()):
    raise ValueError(
        f'weights is {weights} and channels is {channels}; give one weight '
        'for each named channel, or no weights')

  def standardize(x, rollout):
    rewards = environment_rewards(
        rollout, channels, reader='standardize_channels')
    rows = baselines.standardize_channels(
        jnp.stack(list(rewards.values()), axis=1).astype(x.dtype),
        rollout.group, None if weights is None else jnp.asarray(weights),
        std=std, eps=eps, singleton=singleton)
    mask = taking_part(rollout)
    if whiten == 'sequence':
      rows = baselines.standardize_rows(
          rows, jnp.any(mask, axis=1), eps=eps)
    advantages = spread_rows(rows, rollout)
    return (masking.masked_whiten(advantages, mask) if whiten == 'token'
            else advantages)

  return base.stateless(standardize)
