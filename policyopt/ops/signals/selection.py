"""Which rows to keep so that what is kept differs most."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.ops import masking, segments
from policyopt.ops.signals import ordering

Array = jax.Array


def _scan(x: Array, ids: Array, count: Array):
  """Per row: its rank, its group's size and count, variance, rounding."""
  x, ids = masking.as_float(x), jnp.asarray(ids)
  rows = ids.shape[0]
  inside = (ids >= 0) & (ids < rows)
  x = segments.centre(x, ids)
  order, start, size = ordering.sorted_groups(x, ids)
  group = jnp.where(inside, ids, 0)
  rank = ordering.rank_in_group(x, ids)
  start, size = start[group], size[group]
  count = jnp.clip(jnp.asarray(count, jnp.int32)[group], 1, size)
  powers = jnp.stack([x, jnp.square(x)], axis=1)[order]
  sums = segments.running_sums(powers, (rank == 0)[order])

  def lowest(number):
    place = jnp.clip(start + number - 1, 0, rows - 1)
    return jnp.where((number > 0)[:, None], sums[place], 0)

  # Of the row's group: as many of the largest as the row's rank says.
  total = lowest(count - rank) + lowest(size) - lowest(size - rank)
  first, second = (total / jnp.maximum(count, 1).astype(x.dtype)[:, None]).T
  variance = jnp.maximum(second - jnp.square(first), 0)
  valid = inside & (rank <= count)
  rounding = 32 * jnp.finfo(x.dtype).eps * second
  return rank, size, count, jnp.where(valid, variance, -1), rounding


def extreme_variances(x: Array, ids: Array, count: Array) -> Array:
  """Variance of the j largest and the count − j smallest of each group.

  Args:
    x: f32[B].
    ids: i32[B] in [0, B); any other id belongs to no group.
    count: i32[B], how many rows of each group are taken; kept within 1 and
      the group's size.

  Returns:
    f32[B], population variances; j is the row's own rank in its group (see
    `rank_in_group`). -1 where j is larger than count, and in no group.

  Example:
    >>> x, ids = jnp.array([-2., 2., 0.]), jnp.zeros(3, jnp.int32)
    >>> extreme_variances(x, ids, jnp.full(3, 2)).tolist()
    [1.0, 1.0, 4.0]
  """
  return _scan(x, ids, count)[3]


def max_variance_rows(x: Array, ids: Array, count: Array) -> Array:
  """Of each group the `count` rows whose entries vary most.

  The best subset consists of the j largest and the count − j smallest for some
  j, so j is all that is searched: O(B log B).

  Args:
    x: f32[B].
    ids: i32[B] in [0, B); any other id belongs to no group. All zeros: one
      subset of the whole batch.
    count: i32[B], how many rows of each group are taken; kept within 1 and
      the group's size.

  Returns:
    bool[B]; False in no group. Of subsets that vary alike the one with the
    fewest of the largest, and of equal entries at its edges the first rows
    count as smaller.

  Source: "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework
    for Efficient Policy Optimization", Wang et al., 2025, arXiv:2509.22115.

  Example:
    >>> x, ids = jnp.array([0., 4., 1., 3.]), jnp.zeros(4, jnp.int32)
    >>> max_variance_rows(x, ids, jnp.full(4, 2)).tolist()
    [True, True, False, False]
  """
  ids = jnp.asarray(ids)
  rank, size, count, variance, rounding = _scan(x, ids, count)
  best = segments.gather(segments.segment_max(variance, ids), ids)
  near = (variance >= 0) & (variance + rounding >= best)
  rows = ids.shape[0]
  largest = segments.segment_min(jnp.where(near, rank, rows), ids)
  largest = segments.gather(largest, ids).astype(jnp.int32)
  chosen = (rank < count - largest) | (rank >= size - largest)
  return chosen & (rank >= 0)
