"""Ranks, and the top of what is ranked."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, selection

Array = jax.Array


def rank_in_group(x: Array, ids: Array) -> Array:
  """Place of each row among its group when sorted by x, from 0 upwards.

  Args:
    x: f32[B]; equal entries keep their order of rows.
    ids: i32[B] in [0, B); any other id belongs to no group.

  Returns:
    i32[B]; -1 for rows of no group.

  Example:
    >>> x, ids = jnp.array([3., 1., 7., 9.]), jnp.array([0, 0, 1, -1])
    >>> rank_in_group(x, ids).tolist()
    [1, 0, 0, -1]
  """
  order, start, _ = sorted_groups(x, ids)
  place = jnp.arange(order.shape[0], dtype=jnp.int32)
  place = jnp.zeros_like(place).at[order].set(place)
  inside, first = _look_up(start, ids)
  return jnp.where(inside, place - first, -1)


def sorted_groups(x: Array, ids: Array) -> tuple[Array, Array, Array]:
  """The rows sorted by group, then by x, then by row.

  Args:
    x: f32[B].
    ids: i32[B] in [0, B); rows with any other id come last.

  Returns:
    (i32[B] the rows in that order, i32[B] where each group starts in it,
    i32[B] how many rows each group has).

  Example:
    >>> x, ids = jnp.array([3., 1., 7.]), jnp.array([1, 1, 0])
    >>> [part.tolist() for part in sorted_groups(x, ids)]
    [[2, 1, 0], [0, 1, 3], [1, 2, 0]]
  """
  x, ids = masking.as_float(x), jnp.asarray(ids)
  chex.assert_rank([x, ids], 1)
  chex.assert_equal_shape((x, ids))
  rows = ids.shape[0]
  inside = (ids >= 0) & (ids < rows)
  ids = jnp.where(inside, ids, rows)
  order = jnp.lexsort((jnp.where(inside, x, 0), ids)).astype(jnp.int32)
  ones = jnp.ones(rows, jnp.int32)
  size = jax.ops.segment_sum(ones, ids, rows + 1)[:rows]
  return order, jnp.cumsum(size) - size, size


def _look_up(values: Array, ids: Array) -> tuple[Array, Array]:
  """(bool: the id is a group, the group's integer)."""
  ids = jnp.asarray(ids)
  rows = values.shape[0]
  return (ids >= 0) & (ids < rows), values[jnp.clip(ids, 0, rows - 1)]


def fraction_count(fraction: Array | float, size: Array) -> Array:
  """max(1, ⌈fraction·size⌉): how many a fraction of `size` things are.

  A product that only rounding lifts above an integer is that integer.

  Args:
    fraction: in [0, 1]; a number or an array that broadcasts against `size`.
    size: i32[...].

  Returns:
    i32[...], at most `size`; 0 where there is nothing.

  Example:
    >>> fraction_count(.2, jnp.array([0, 1, 5, 6])).tolist()
    [0, 1, 1, 2]
  """
  size = jnp.asarray(size)
  fraction = masking.as_float(fraction)
  exact = fraction * size.astype(fraction.dtype)
  slack = 4 * jnp.finfo(exact.dtype).eps * exact
  count = jnp.ceil(exact - slack).astype(size.dtype)
  # Large sizes are not exact as floats; the whole must be the whole.
  count = jnp.where(fraction >= 1, size, count)
  return jnp.minimum(jnp.maximum(count, 1), size)


def top_fraction(
    score: Array, mask: Array, fraction: Array | float) -> Array:
  """The places of a mask with the largest scores, over the whole array.

  Args:
    score: f32[...].
    mask: bool[...], places that are candidates.
    fraction: of them to keep, in [0, 1]; at least one is kept.

  Returns:
    bool[...], `fraction_count` of the candidates; of equal scores the first
    places are kept.

  Example:
    >>> score = jnp.array([[5., 1., 9.], [5., 0., 7.]])
    >>> top_fraction(score, score < 9, .4).tolist()
    [[True, False, False], [False, False, True]]
  """
  score, mask = masking.as_float(score), jnp.asarray(mask) != 0
  chex.assert_equal_shape((score, mask))
  count = fraction_count(fraction, jnp.sum(mask, dtype=jnp.int32))
  return selection.first_tokens(mask, -score, count)


def lowest_mean(x: Array, mask: Array, fraction: float) -> Array:
  """Mean of the smallest entries of each row.

  Args:
    x: f32[B, T].
    mask: bool[B, T], the entries of a row that count.
    fraction: of them to take, in (0, 1]; at least one is taken.

  Returns:
    f32[B]; 0 for a row without entries.

  Example:
    >>> x = jnp.array([[-1., -5., -3., -9.]])
    >>> lowest_mean(x, x > -9, .5).tolist()
    [-4.0]
  """
  x = masking.fill(masking.as_float(x), mask)
  mask = jnp.asarray(mask) != 0
  chex.assert_rank(x, 2)
  chex.assert_equal_shape((x, mask))
  count = fraction_count(fraction, jnp.sum(mask, axis=1, dtype=jnp.int32))
  last = selection.kth_smallest(x, mask, count, axis=1)
  less, same = mask & (x < last[:, None]), mask & (x == last[:, None])
  room = count - jnp.sum(less, axis=1, dtype=jnp.int32)
  place = jnp.cumsum(same, axis=1, dtype=jnp.int32)
  return masking.masked_mean(
      x, less | (same & (place <= room[:, None])), axis=1)
