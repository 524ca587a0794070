"""Sequence rewards against a baseline of their group, beyond mean and spread.

Groups are ids in [0, B) in any order and of any size; rows with any other id
get 0. `singleton` says what a group of one gets: 'zero', or 'raw' for its own
reward, as most code of others gives it.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.names import check_name
from policyopt.ops import masking, normalizers, segments

Array = jax.Array

SCALES = ('valid', 'nonzero', 'none')
NONPOSITIVE = ('zero', 'divide')


def _enter(rewards: Array, ids: Array) -> tuple[Array, Array]:
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  chex.assert_rank([rewards, ids], 1)
  chex.assert_equal_shape((rewards, ids))
  return jnp.where(ids >= 0, rewards, 0), ids


def _alone(ids: Array) -> Array:
  return segments.gather(segments.segment_count(ids), ids) == 1


def length_weighted_centre(
    rewards: Array, lengths: Array, ids: Array, *,
    singleton: str = 'zero') -> Array:
  """R − Σ n·R / Σ n over the row's group, itself included.

  That baseline has the least variance where a row's squared gradient norm
  grows with its length n.

  Args:
    rewards: f32[B], one number per row.
    lengths: f32[B] or i32[B], n, the chosen tokens of each row.
    ids: i32[B] in [0, B).
    singleton: what a group of one gets: 'zero' or 'raw'.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal, and in those
    without a chosen token.

  Raises:
    ValueError: an unknown `singleton`.

  Source: "On-Policy RL with Optimal Reward Baseline", Hao, Dong, Wu, Huang,
    Chi, Wei, 2025, arXiv:2505.23585.

  Example:
    >>> rewards, lengths = jnp.array([1., 0.]), jnp.array([1, 3])
    >>> length_weighted_centre(rewards, lengths, jnp.array([0, 0])).tolist()
    [0.75, -0.25]
  """
  normalizers.check_rules(singleton=singleton)
  rewards, ids = _enter(rewards, ids)
  chex.assert_equal_shape((rewards, lengths))
  lengths = jnp.asarray(lengths, rewards.dtype)
  # Measured from the smallest, equal rewards are exactly 0.
  above = rewards - segments.gather(segments.segment_min(rewards, ids), ids)
  weighted, total = (
      segments.gather(segments.segment_sum(x, ids), ids)
      for x in (lengths * above, lengths))
  advantages = jnp.where(
      total > 0, above - masking.safe_divide(weighted, total), 0)
  if singleton == 'raw':
    advantages = jnp.where(_alone(ids), rewards, advantages)
  return advantages


def divide_by_mean(
    rewards: Array, ids: Array, *, eps: float = 1e-6, singleton: str = 'zero',
    nonpositive: str = 'zero') -> Array:
  """(R − μ) / (μ + eps) with the mean of the row's group.

  With rewards of 0 and 1 this is the gradient of log pass rate, of which the
  pass rate itself is the first order.

  Args:
    rewards: f32[B], one number per row, meant to be at least 0.
    ids: i32[B] in [0, B).
    eps: added to μ.
    singleton: what a group of one gets: 'zero' or 'raw'.
    nonpositive: what a group with μ ≤ 0 gets: 'zero', or 'divide' for the
      quotient as it comes, whose sign is then turned.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal.

  Raises:
    ValueError: an unknown `singleton` or `nonpositive`.

  Source: "Maximum Likelihood Reinforcement Learning", Tajwar et al., 2026,
    arXiv:2602.02710.

  Example:
    >>> rewards, ids = jnp.array([1., 0., 0., 0.]), jnp.array([0, 0, 0, 0])
    >>> divide_by_mean(rewards, ids, eps=0.).tolist()
    [3.0, -1.0, -1.0, -1.0]
  """
  normalizers.check_rules(singleton=singleton)
  check_name('nonpositive', nonpositive, NONPOSITIVE)
  rewards, ids = _enter(rewards, ids)
  mean = segments.gather(segments.segment_mean(rewards, ids), ids)
  advantages = masking.safe_divide(
      segments.centre(rewards, ids), mean + jnp.asarray(eps, mean.dtype))
  if nonpositive == 'zero':
    advantages = jnp.where(mean > 0, advantages, 0)
  if singleton == 'raw':
    advantages = jnp.where(_alone(ids), rewards, advantages)
  return advantages


def live_scale(rewards: Array, ids: Array, by: str = 'valid') -> Array:
  """α = B / max(1, live rows), which makes up for rows that teach nothing.

  Args:
    rewards: f32[B], one number per row.
    ids: i32[B] in [0, B); the others do not count in B either.
    by: which rows are live: 'valid', those of groups whose rewards are not
      all equal; 'nonzero', those whose own reward is not 0; 'none' for α = 1.

  Returns:
    f32[], α ≥ 1, or 0 when there are no rows.

  Raises:
    ValueError: an unknown `by`.

  Source: "GPG: A Simple and Strong Reinforcement Learning Baseline for Model
    Reasoning", Chu, Huang, Zhang, Wei, Wang, 2025, arXiv:2504.02546
    ('nonzero' is verl's reading of it).

  Example:
    >>> rewards, ids = jnp.array([0., 0., 1., 0.]), jnp.array([0, 0, 1, 1])
    >>> [float(live_scale(rewards, ids, by)) for by in SCALES]
    [2.0, 4.0, 1.0]
  """
  check_name('by', by, SCALES)
  rewards, ids = _enter(rewards, ids)
  if by == 'none':
    return jnp.ones((), rewards.dtype)
  live = ~normalizers.flat_groups(rewards, ids) if by == 'valid' else (
      rewards != 0)
  rows, live = (jnp.sum((m & (ids >= 0)).astype(rewards.dtype))
                for m in (jnp.ones_like(live), live))
  return rows / jnp.maximum(live, 1)


def standardize_channels(
    rewards: Array, ids: Array, weights: Array | None = None, *,
    std: str = 'sample', eps: float = 1e-6, singleton: str = 'zero') -> Array:
  """Σ_c w_c·(R_c − μ_c) / (σ_c + eps): every channel against its own group.

  Equals `group_standardize` for one channel of weight 1.

  Args:
    rewards: f32[B, C], one number per row and channel.
    ids: i32[B] in [0, B).
    weights: f32[C]; None: all 1.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to σ.
    singleton: what a group of one gets: 'zero' or 'raw'.

  Returns:
    f32[B].

  Raises:
    ValueError: an unknown `std` or `singleton`.

  Source: "GDPO: Group reward-Decoupled Normalization Policy Optimization for
    Multi-reward RL Optimization", Liu et al., 2026, arXiv:2601.05242.

  Example:
    >>> rewards, ids = jnp.array([[1., 7.], [0., 7.]]), jnp.array([0, 0])
    >>> standardize_channels(rewards, ids, std='population').round(3).tolist()
    [1.0, -1.0]
  """
  rewards = masking.as_float(rewards)
  chex.assert_rank(rewards, 2)

  def one(column):
    return normalizers.group_standardize(
        column, ids, std=std, eps=eps, singleton=singleton)

  columns = jax.vmap(one, in_axes=1, out_axes=1)(rewards)
  if weights is not None:
    weights = jnp.asarray(weights, columns.dtype)
    chex.assert_shape(weights, (columns.shape[1],))
    columns = columns * weights[None]
  return jnp.sum(columns, axis=1)


def standardize_rows(
    x: Array, where: Array, *, ddof: int = 1, eps: float = 1e-6) -> Array:
  """(x − x̄) / (σ + eps) over the rows that count, 0 for the others.

  Args:
    x: f32[B].
    where: bool[B], rows that count.
    ddof: 1 for the sample's σ, 0 for the population's.
    eps: added to σ.

  Returns:
    f32[B]; 0 when fewer than two rows count, and exactly 0 for rows that are
    no further from the mean than rounding.

  Example:
    >>> x, where = jnp.array([1., 3., 9.]), jnp.array([True, True, False])
    >>> standardize_rows(x, where, ddof=0, eps=0.).tolist()
    [-1.0, 1.0, 0.0]
  """
  x, ids = _enter(x, jnp.where(where, 0, -1))
  centred = segments.centre(x, ids)
  # Rows that earned the batch's mean must not get the sign of its rounding.
  noise = 8 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(centred), initial=0.)
  centred = jnp.where(jnp.abs(centred) <= noise, 0, centred)
  spread = segments.segment_std(x, ids, 1, ddof=ddof)[0]
  return masking.safe_divide(centred, spread + jnp.asarray(eps, x.dtype))
