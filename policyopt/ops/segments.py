"""Sums, means and spreads over groups that are given by ids.

Ids lie in [0, num_segments), in any order and of any multiplicity. Any other
id, -1 among them, belongs to no group: it enters no sum and gets 0 back.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def _inside(ids: Array, num_segments: int) -> Array:
  return (ids >= 0) & (ids < num_segments)


def _route(ids: Array, num_segments: int) -> Array:
  # One bin past the end takes what belongs to no group, and is cut off.
  return jnp.where(_inside(ids, num_segments), ids, num_segments)


def _expand(x: Array, like: Array) -> Array:
  return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def segment_sum(
    x: Array, ids: Array, num_segments: int | None = None) -> Array:
  """Σ of the rows of x with the same id.

  Args:
    x: [B, ...].
    ids: i32[B].
    num_segments: number of groups S; B when None.

  Returns:
    [S, ...]; 0 for a group with no row.

  Example:
    >>> segment_sum(jnp.array([1., 2., 4.]), jnp.array([1, -1, 1])).tolist()
    [0.0, 5.0, 0.0]
  """
  x, ids = masking.as_float(x), jnp.asarray(ids)
  chex.assert_rank(ids, 1)
  chex.assert_equal_shape_prefix((x, ids), 1)
  size = ids.shape[0] if num_segments is None else num_segments
  keep = _expand(_inside(ids, size), x)
  x = jnp.where(keep, x, 0)
  return jax.ops.segment_sum(x, _route(ids, size), size + 1)[:size]


def segment_count(
    ids: Array, num_segments: int | None = None, *,
    where: Array | None = None) -> Array:
  """Number of rows of each id.

  Args:
    ids: i32[B].
    num_segments: number of groups S; B when None.
    where: bool[B], rows to count; all when None.

  Returns:
    f32[S].

  Example:
    >>> segment_count(jnp.array([1, -1, 1])).tolist()
    [0.0, 2.0, 0.0]
  """
  ids = jnp.asarray(ids)
  ones = jnp.ones(ids.shape, jnp.float32)
  if where is not None:
    ones = masking.fill(ones, where)
  return segment_sum(ones, ids, num_segments)


def segment_mean(
    x: Array, ids: Array, num_segments: int | None = None) -> Array:
  """Mean of the rows of x with the same id.

  Args:
    x: [B, ...].
    ids: i32[B].
    num_segments: number of groups S; B when None.

  Returns:
    [S, ...]; 0 for a group with no row.

  Example:
    >>> segment_mean(jnp.array([1., 2., 4.]), jnp.array([0, 1, 1])).tolist()
    [1.0, 3.0, 0.0]
  """
  total = segment_sum(x, ids, num_segments)
  count = segment_count(ids, num_segments).astype(total.dtype)
  return masking.safe_divide(total, _expand(count, total))


def segment_max(
    x: Array, ids: Array, num_segments: int | None = None) -> Array:
  """Largest of the rows of x with the same id.

  Args:
    x: [B, ...].
    ids: i32[B].
    num_segments: number of groups S; B when None.

  Returns:
    [S, ...]; 0 for a group with no row.

  Example:
    >>> segment_max(jnp.array([1., 2., 4.]), jnp.array([0, 1, 1])).tolist()
    [1.0, 4.0, 0.0]
  """
  x, ids = masking.as_float(x), jnp.asarray(ids)
  chex.assert_equal_shape_prefix((x, ids), 1)
  size = ids.shape[0] if num_segments is None else num_segments
  top = jax.ops.segment_max(x, _route(ids, size), size + 1)[:size]
  filled = _expand(segment_count(ids, size) > 0, top)
  return jnp.where(filled, top, 0)


def segment_min(
    x: Array, ids: Array, num_segments: int | None = None) -> Array:
  """Smallest of the rows of x with the same id.

  Args:
    x: [B, ...].
    ids: i32[B].
    num_segments: number of groups S; B when None.

  Returns:
    [S, ...]; 0 for a group with no row.

  Example:
    >>> segment_min(jnp.array([1., 2., 4.]), jnp.array([0, 1, 1])).tolist()
    [1.0, 2.0, 0.0]
  """
  lowest = -segment_max(-masking.as_float(x), ids, num_segments)
  return lowest + 0.  # turns -0 into 0


def segment_std(
    x: Array,
    ids: Array,
    num_segments: int | None = None,
    *,
    ddof: int = 1,
) -> Array:
  """Standard deviation of the entries of x with the same id.

  Args:
    x: [B].
    ids: i32[B].
    num_segments: number of groups S; B when None.
    ddof: 1 for the sample's, 0 for the population's.

  Returns:
    [S]; exactly 0 for equal entries and for groups of at most `ddof` rows.

  Example:
    >>> x, ids = jnp.array([1., 3., 4.]), jnp.array([0, 0, 1])
    >>> segment_std(x, ids, ddof=0).tolist()
    [1.0, 0.0, 0.0]
  """
  centred = centre(x, ids, num_segments)
  count = segment_count(ids, num_segments).astype(centred.dtype)
  total = segment_sum(jnp.square(centred), ids, num_segments)
  variance = masking.safe_divide(total, jnp.maximum(count - ddof, 0))
  # The root's slope at 0 is infinite; flat groups must not poison gradients.
  flat = variance == 0
  return jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, variance)))


def gather(values: Array, ids: Array) -> Array:
  """Hands each row the value of its group.

  Args:
    values: [S, ...].
    ids: i32[...] of any shape.

  Returns:
    ids.shape + values.shape[1:]; 0 for an id outside [0, S).

  Example:
    >>> gather(jnp.array([5., 7.]), jnp.array([1, -1, 0])).tolist()
    [7.0, 0.0, 5.0]
  """
  ids = jnp.asarray(ids)
  size = values.shape[0]
  taken = values[jnp.clip(ids, 0, size - 1)]
  return jnp.where(_expand(_inside(ids, size), taken), taken, 0)


def centre(x: Array, ids: Array, num_segments: int | None = None) -> Array:
  """x minus the mean of its group.

  Args:
    x: [B].
    ids: i32[B].
    num_segments: number of groups S; B when None.

  Returns:
    [B]; exactly 0 where all of a group are equal, whatever the rounding of
    their mean; 0 for rows of no group.

  Example:
    >>> centre(jnp.array([1., 3., 9.]), jnp.array([0, 0, -1])).tolist()
    [-1.0, 1.0, 0.0]
  """
  x, ids = masking.as_float(x), jnp.asarray(ids)
  size = ids.shape[0] if num_segments is None else num_segments
  x = jnp.where(_inside(ids, size), x, 0)
  # Measured from the smallest, equal entries are exactly 0 and so is the mean.
  x = x - gather(segment_min(x, ids, size), ids)
  return x - gather(segment_mean(x, ids, size), ids)


def segment_level(
    x: Array, ids: Array, num_segments: int | None = None) -> Array:
  """Mean of the entries of x with the same id, exact where they are equal.

  Equals `segment_mean` up to rounding; equal entries give that very number,
  so that groups which differ in size alone do not differ by rounding.

  Args:
    x: [B].
    ids: i32[B].
    num_segments: number of groups S; B when None.

  Returns:
    [S]; 0 for a group with no row.

  Example:
    >>> x, ids = jnp.array([.1, .1, .1, 4.]), jnp.array([0, 0, 0, 1])
    >>> (segment_level(x, ids)[0] == x[0]).tolist()
    True
  """
  x, ids = masking.as_float(x), jnp.asarray(ids)
  size = ids.shape[0] if num_segments is None else num_segments
  x = jnp.where(_inside(ids, size), x, 0)
  low = segment_min(x, ids, size)
  return low + segment_mean(x - gather(low, ids), ids, size)


def running_sums(x: Array, starts: Array) -> Array:
  """Cumulative sums over rows that begin anew where `starts` is True.

  Args:
    x: [B, K], the rows of a group side by side.
    starts: bool[B], the first row of each group.

  Returns:
    [B, K], each row's own entry included.

  Example:
    >>> x, starts = jnp.array([[1.], [2.], [4.]]), jnp.array([1, 0, 1]) > 0
    >>> running_sums(x, starts)[:, 0].tolist()
    [1.0, 3.0, 4.0]
  """
  chex.assert_rank([x, starts], [2, 1])
  chex.assert_equal_shape_prefix((x, starts), 1)

  def join(left, right):
    left_starts, left_sum = left
    right_starts, right_sum = right
    total = jnp.where(right_starts, right_sum, left_sum + right_sum)
    return left_starts | right_starts, total

  # Differences of one long cumulative sum would lose a small group's digits.
  starts = jnp.broadcast_to(starts[:, None], x.shape)
  return jax.lax.associative_scan(join, (starts, x))[1]


def compact_ids(ids: Array) -> Array:
  """Renames arbitrary ids to [0, B), keeping who is with whom.

  Args:
    ids: int[B]; negative ids stay outside every group.

  Returns:
    i32[B], -1 where the id was negative.

  Example:
    >>> compact_ids(jnp.array([700, -5, 700, 12])).tolist()
    [2, -1, 2, 1]
  """
  ids = jnp.asarray(ids)
  chex.assert_rank(ids, 1)
  _, inverse = jnp.unique(
      ids, return_inverse=True, size=ids.shape[0], fill_value=0)
  return jnp.where(ids < 0, -1, inverse.reshape(ids.shape)).astype(jnp.int32)
