"""Importance ratios of the policy to the one that sampled, and their clips."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array

Limit = float | tuple[float | None, float | None] | None


def clamp(x: Array, limit: Limit) -> Array:
  """x kept within ±limit, or within (low, high); the gradient is 0 outside.

  Args:
    x: float array.
    limit: one number for both sides, a pair whose parts may be None, or None.

  Returns:
    Array of the shape of x.

  Example:
    >>> clamp(jnp.array([-30., 30.]), 20.).tolist()
    [-20.0, 20.0]
    >>> clamp(jnp.array([-30., 30.]), (None, 10.)).tolist()
    [-30.0, 10.0]
  """
  if limit is None:
    return x
  low, high = limit if isinstance(limit, tuple) else (-limit, limit)
  if low is not None:
    x = jnp.where(x < low, jnp.asarray(low, x.dtype), x)
  if high is not None:
    x = jnp.where(x > high, jnp.asarray(high, x.dtype), x)
  return x


def log_ratio(
    log_probs: Array,
    old_log_probs: Array,
    mask: Array,
    *,
    limit: Limit = 20.,
) -> Array:
  """log ρₜ = log π(yₜ) − log π_old(yₜ), 0 outside the mask.

  Args:
    log_probs: f32[B, T], of the policy being trained.
    old_log_probs: f32[B, T], of the policy that sampled; a constant.
    mask: bool[B, T], chosen tokens.
    limit: the result is clamped to ±limit; see `clamp`.

  Returns:
    f32[B, T].

  Example:
    >>> mask = jnp.array([[True, False]])
    >>> log_ratio(jnp.array([[-1., 0.]]), jnp.array([[-2., 5.]]), mask).tolist()
    [[1.0, 0.0]]
  """
  chex.assert_equal_shape((log_probs, old_log_probs, mask))
  old = jax.lax.stop_gradient(masking.fill(old_log_probs, mask))
  return clamp(masking.fill(log_probs, mask) - old, limit)


def sequence_log_ratio(
    log_ratios: Array,
    mask: Array,
    *,
    gradient: str = 'sequence',
    count_eps: float = 0.,
) -> Array:
  """log s = mean over the row of log ρₜ, spread over its chosen tokens.

  Args:
    log_ratios: f32[B, T].
    mask: bool[B, T], chosen tokens.
    gradient: 'sequence' differentiates the mean; 'token' keeps its value but
      lets each token carry its own gradient: sg(log s) + log ρₜ − sg(log ρₜ).
      Both sum to the same when the advantage is constant in a row.
    count_eps: added to the number of tokens that the mean divides by.

  Returns:
    f32[B, T], 0 outside the mask.

  Raises:
    ValueError: an unknown `gradient`.

  Source: "Group Sequence Policy Optimization", Zheng et al., 2025,
    arXiv:2507.18071.

  Example:
    >>> mask = jnp.array([[True, True, False]])
    >>> sequence_log_ratio(jnp.array([[1., 3., 9.]]), mask).tolist()
    [[2.0, 2.0, 0.0]]
  """
  if gradient not in ('sequence', 'token'):
    raise ValueError(
        f"gradient is {gradient!r}; it must be 'sequence' or 'token'")
  chex.assert_equal_shape((log_ratios, mask))
  log_ratios = masking.fill(log_ratios, mask)
  mean = masking.masked_mean(
      log_ratios, mask, axis=1, count_eps=count_eps)[:, None]
  if gradient == 'token':
    stop = jax.lax.stop_gradient
    mean = stop(mean) + log_ratios - stop(log_ratios)
  return masking.fill(jnp.broadcast_to(mean, log_ratios.shape), mask)


def sequence_log_weight(
    log_ratios: Array,
    mask: Array,
    *,
    token_limit: Limit = None,
    limit: Limit = 20.,
) -> Array:
  """log w = Σₜ log ρₜ of the row, spread over its chosen tokens.

  The product of the token ratios: the ratio of the whole responses.

  Args:
    log_ratios: f32[B, T].
    mask: bool[B, T], chosen tokens.
    token_limit: each log ρₜ is clamped to it first; see `clamp`.
    limit: the sum is clamped to it.

  Returns:
    f32[B, T], 0 outside the mask.

  Example:
    >>> mask = jnp.array([[True, True, False]])
    >>> sequence_log_weight(jnp.array([[1., 3., 9.]]), mask).tolist()
    [[4.0, 4.0, 0.0]]
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((log_ratios, mask))
  log_ratios = clamp(masking.fill(log_ratios, mask), token_limit)
  total = clamp(jnp.sum(log_ratios, axis=1), limit)[:, None]
  return masking.fill(jnp.broadcast_to(total, log_ratios.shape), mask)


def clipped_objective(
    ratio: Array,
    advantages: Array,
    clip_low: float,
    clip_high: float,
    *,
    dual_clip: float | None = None,
    ratio_cap: float | None = None,
) -> Array:
  """min(ρA, clip(ρ, 1 − clip_low, 1 + clip_high)·A), to be maximised.

  With `dual_clip` c, where A < 0 the result is no smaller than c·A. With
  `ratio_cap` δ, min(ρ, δ) takes the place of the first ρ: the same bound
  where A < 0, and for δ ≥ 1 + clip_high no change where A > 0.

  Args:
    ratio: f32[B, T], ρ.
    advantages: f32[B, T].
    clip_low: how far the ratio may fall below 1.
    clip_high: how far it may rise above 1.
    dual_clip: c > 1, or None.
    ratio_cap: δ, or None.

  Returns:
    f32[B, T].

  Source: "Proximal Policy Optimization Algorithms", Schulman, Wolski,
    Dhariwal, Radford, Klimov, 2017, arXiv:1707.06347; the dual clip:
    "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning",
    Ye et al., 2019, arXiv:1912.09729; the cap (two-sided clip): "INTELLECT-2:
    A Reasoning Model Trained Through Globally Decentralized Reinforcement
    Learning", 2025, arXiv:2505.07291.

  Example:
    >>> ratio, advantage = jnp.array([[2., 5.]]), jnp.array([[1., -1.]])
    >>> clipped_objective(ratio, advantage, 0.2, 0.5).tolist()
    [[1.5, -5.0]]
    >>> clipped_objective(ratio, advantage, 0.2, 0.5, dual_clip=3.).tolist()
    [[1.5, -3.0]]
  """
  chex.assert_equal_shape((ratio, advantages))
  clipped = clamp(ratio, (1 - clip_low, 1 + clip_high))
  free = clamp(ratio, (None, ratio_cap))
  objective = jnp.minimum(free * advantages, clipped * advantages)
  if dual_clip is not None:
    floor = dual_clip * advantages
    objective = jnp.where(
        advantages < 0, jnp.maximum(objective, floor), objective)
  return objective


def clipped_away(
    ratio: Array, advantages: Array, clip_low: float, clip_high: float
) -> Array:
  """Where the clip removes the gradient of `clipped_objective`.

  Args:
    ratio: f32[B, T].
    advantages: f32[B, T].
    clip_low: as in `clipped_objective`.
    clip_high: as in `clipped_objective`.

  Returns:
    bool[B, T].

  Example:
    >>> ratio, advantage = jnp.array([[2., 2.]]), jnp.array([[1., -1.]])
    >>> clipped_away(ratio, advantage, 0.2, 0.2).tolist()
    [[True, False]]
  """
  rise = (advantages > 0) & (ratio > 1 + clip_high)
  fall = (advantages < 0) & (ratio < 1 - clip_low)
  return rise | fall
