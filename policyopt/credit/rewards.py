"""Transforms of the reward before it becomes an advantage."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.ops import divergences, masking
from policyopt.ops.ratios import Limit
from policyopt.types import Array, CreditTransform, Rollout, read_extra


def last_chosen(mask: Array) -> Array:
  """Marks the last chosen token of every row.

  Args:
    mask: bool[B, T].

  Returns:
    bool[B, T]; all False in rows without a chosen token.

  Example:
    >>> last_chosen(jnp.array([[False, True, True, False]])).tolist()
    [[False, False, True, False]]
  """
  mask = mask.astype(jnp.int32)
  after = jnp.cumsum(mask[:, ::-1], axis=1)[:, ::-1]
  return (mask == 1) & (after == 1)


def overlong_penalty(
    max_length: int,
    buffer: int,
    factor: float = 1.,
    *,
    cap: bool = True,
) -> CreditTransform:
  """Adds −factor·clip((n − (max_length − buffer)) / buffer, 0, 1).

  n is the number of chosen tokens of the row; the penalty is placed on the
  last of them.

  Args:
    max_length: tokens at which the whole penalty is due.
    buffer: tokens before that over which it grows.
    factor: the whole penalty.
    cap: False lets it grow further beyond `max_length`.

  Returns:
    A CreditTransform for rewards.

  Raises:
    ValueError: `buffer` is not in [1, max_length].

  Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    Yu et al., 2025, arXiv:2503.14476 (soft overlong punishment).
  """
  if not 1 <= buffer <= max_length:
    raise ValueError(
        f'buffer is {buffer}; it must lie in [1, max_length = {max_length}]')

  def penalise(x, rollout):
    length = masking.masked_sum(jnp.ones_like(x), rollout.mask, axis=1)
    excess = jnp.maximum((length - (max_length - buffer)) / buffer, 0)
    excess = jnp.minimum(excess, 1) if cap else excess
    return x - jnp.where(
        last_chosen(rollout.mask), factor * excess[:, None], 0)

  return base.stateless(penalise)


def kl_in_reward(
    beta: float,
    *,
    estimator: str = 'k1',
    policy: str = 'log_probs',
    k3_input_limit: Limit = 20.,
    k3_output_limit: Limit = None,
    input_limit: Limit = None,
    output_limit: Limit = None,
) -> CreditTransform:
  """rₜ − β·KLₜ, the distance from the reference as a cost of every token.

  Args:
    beta: β.
    estimator: 'k1', 'k2', 'k3' or 'abs' (see `ops.kl_estimate`).
    policy: whose tokens they are: 'log_probs', the sampler's, or
      'old_log_probs', the learner's before its update.
    k3_input_limit: the log-ratio is clamped to ±limit inside k3.
    k3_output_limit: k3 is clamped to ±limit.
    input_limit: the log-ratio is clamped to ±limit for every estimator.
    output_limit: every estimate is clamped to ±limit.

  Returns:
    A CreditTransform for rewards.

  Raises:
    ValueError: an unknown `policy` or `estimator`.

  Source: "Fine-Tuning Language Models from Human Preferences", Ziegler et al.,
    2019, arXiv:1909.08593.
  """
  needs = check_kl(estimator, policy)
  limits = dict(
      k3_input_limit=k3_input_limit, k3_output_limit=k3_output_limit,
      input_limit=input_limit, output_limit=output_limit)
  return base.stateless(
      lambda x, rollout: x - beta * reference_kl(
          rollout, estimator, policy, reader='kl_in_reward', **limits), needs)


def check_kl(estimator: str, policy: str) -> frozenset[str]:
  """What `reference_kl` needs, once its arguments are known to be right.

  Args:
    estimator: one of `ops.divergences.ESTIMATORS`.
    policy: 'log_probs' or 'old_log_probs'.

  Returns:
    Names of `Rollout.extras`.

  Raises:
    ValueError: an unknown `policy` or `estimator`.

  Example:
    >>> check_kl('k1', 'log_probs')
    frozenset({'ref_log_probs'})
  """
  if policy not in ('log_probs', 'old_log_probs'):
    raise ValueError(
        f"policy is {policy!r}; it must be 'log_probs' or 'old_log_probs'")
  if estimator not in divergences.ESTIMATORS:
    raise ValueError(
        f'estimator is {estimator!r}; it must be one of '
        f'{divergences.ESTIMATORS}')
  return frozenset({'ref_log_probs', policy} - {'log_probs'})


def reference_kl(
    rollout: Rollout, estimator: str, policy: str, *, reader: str,
    **limits: Limit) -> Array:
  """The distance of the tokens that were drawn from the reference.

  Args:
    rollout: with 'ref_log_probs'.
    estimator: 'k1', 'k2', 'k3' or 'abs' (see `ops.kl_estimate`).
    policy: whose tokens they are, 'log_probs' or 'old_log_probs'.
    reader: who asks, for the error.
    **limits: as in `ops.kl_estimate`.

  Returns:
    f32[B, T], 0 outside the mask.

  Raises:
    ValueError: the rollout lacks one of them.
  """
  ref = read_extra(rollout, 'ref_log_probs', reader)
  log_probs = rollout.log_probs
  if policy != 'log_probs':
    log_probs = read_extra(rollout, policy, reader)
  return divergences.kl_estimate(
      masking.fill(log_probs, rollout.mask),
      masking.fill(ref, rollout.mask), value=estimator, **limits)


def row_rewards(x: Array, rollout: Rollout) -> Array:
  """Rₜ summed over a row: what a sequence earned.

  Args:
    x: f32[B, T], token rewards.
    rollout: only its `group` is read: rows of no group earn 0.

  Returns:
    f32[B].
  """
  total = jnp.sum(masking.as_float(x), axis=1)
  return jnp.where(rollout.group >= 0, total, 0)


def environment_rewards(
    rollout: Rollout,
    channels: Sequence[str] | None = None,
    *,
    reader: str = 'environment_rewards',
) -> dict[str, Array]:
  """What each row earned in each channel, as the environment gave it.

  Args:
    rollout: the rollout; rows of no group earn 0.
    channels: keys of `Rollout.rewards`, in the order that is wanted; all of
      them in alphabetical order when None.
    reader: who asks, for the error.

  Returns:
    channel -> f32[B].

  Raises:
    ValueError: an unknown channel, or none at all.
  """
  names = sorted(rollout.rewards) if channels is None else list(channels)
  unknown = [name for name in names if name not in rollout.rewards]
  if unknown or not names:
    raise ValueError(
        f'{reader}: there are no reward channels {unknown}; this environment '
        f'gives {sorted(rollout.rewards)}')
  return {name: row_rewards(rollout.rewards[name], rollout) for name in names}


def row_success(
    rollout: Rollout,
    channel: str | None = None,
    *,
    reader: str = 'row_success',
) -> Array:
  """How well a row did by the environment's own judgement.

  Unlike the reward that is credited it knows of no penalty that a method adds.

  Args:
    rollout: the rollout.
    channel: the channel that judges; the sum of all when None.
    reader: who asks, for the error.

  Returns:
    f32[B]; 0 for rows of no group.

  Raises:
    ValueError: an unknown channel.
  """
  names = None if channel is None else (channel,)
  return sum(environment_rewards(rollout, names, reader=reader).values())
