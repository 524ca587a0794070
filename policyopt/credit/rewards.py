"""Transforms of the reward before it becomes an advantage."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.ops import divergences, masking
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
) -> CreditTransform:
  """rₜ − β·KLₜ, the distance from the reference as a cost of every token.

  Args:
    beta: β.
    estimator: 'k1', 'k2', 'k3' or 'abs' (see `ops.kl_estimate`).
    policy: whose tokens they are: 'log_probs', the sampler's, or
      'old_log_probs', the learner's before its update.

  Returns:
    A CreditTransform for rewards.

  Raises:
    ValueError: an unknown `policy` or `estimator`.

  Source: "Fine-Tuning Language Models from Human Preferences", Ziegler et al.,
    2019, arXiv:1909.08593.
  """
  if policy not in ('log_probs', 'old_log_probs'):
    raise ValueError(
        f"policy is {policy!r}; it must be 'log_probs' or 'old_log_probs'")
  if estimator not in divergences.ESTIMATORS:
    raise ValueError(
        f'estimator is {estimator!r}; it must be one of '
        f'{divergences.ESTIMATORS}')
  needs = {'ref_log_probs'} | ({policy} - {'log_probs'})

  def charge(x, rollout):
    ref = read_extra(rollout, 'ref_log_probs', 'kl_in_reward')
    log_probs = rollout.log_probs
    if policy != 'log_probs':
      log_probs = read_extra(rollout, policy, 'kl_in_reward')
    kl = divergences.kl_estimate(
        masking.fill(log_probs, rollout.mask),
        masking.fill(ref, rollout.mask), value=estimator)
    return x - beta * kl

  return base.stateless(charge, needs)


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
