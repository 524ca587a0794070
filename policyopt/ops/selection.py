"""Order statistics without sorting: bit by bit, in a few passes.

Sorting all the tokens of a batch takes ten times as long.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def ordered_bits(x: Array) -> Array:
  """Unsigned integers that lie in the order of the numbers they stand for.

  Args:
    x: floats, or unsigned integers, which stay.

  Returns:
    u32 or u64, of the same shape.
  """
  if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
    return x
  x = masking.as_float(x) + 0.  # Negative zero equals zero.
  kind = jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint64
  bits = jax.lax.bitcast_convert_type(x, kind)
  sign = jnp.asarray(1, kind) << (jnp.iinfo(kind).bits - 1)
  return jnp.where(bits & sign, ~bits, bits | sign)


def _number(bits: Array, like: Array) -> Array:
  """The number that ordered bits stand for."""
  if jnp.issubdtype(like.dtype, jnp.unsignedinteger):
    return bits
  sign = jnp.asarray(1, bits.dtype) << (jnp.iinfo(bits.dtype).bits - 1)
  bits = jnp.where(bits & sign, bits ^ sign, ~bits)
  return jax.lax.bitcast_convert_type(bits, masking.as_float(like).dtype)


def largest_bits(holds, shape: tuple[int, ...], dtype) -> Array:
  """The largest b of which `holds(b)` is true; 0 if there is none.

  Args:
    holds: unsigned integers of the shape -> bool of the shape; true up to
      some number and false from there on.
    shape: of the result.
    dtype: unsigned.

  Returns:
    Unsigned integers of the shape.
  """
  width = jnp.iinfo(dtype).bits

  def step(i, best):
    bit = jnp.asarray(1, dtype) << (width - 1 - i).astype(dtype)
    return jnp.where(holds(best | bit), best | bit, best)

  return jax.lax.fori_loop(0, width, step, jnp.zeros(shape, dtype))


def kth_smallest(
    x: Array, candidates: Array, k: Array, *, axis: int | None = None) -> Array:
  """The k-th smallest candidate, counted from 1.

  Args:
    x: f32[B, T]; constants.
    candidates: bool[B, T].
    k: i32[], or i32[B] with axis 1; at least 1 and at most their number.
    axis: None for the whole batch, 1 for each row.

  Returns:
    f32[], or f32[B].

  Example:
    >>> x = jnp.array([[3., -1., 2., 9.]])
    >>> float(kth_smallest(x, x < 9, jnp.array(2)))
    2.0
  """
  chex.assert_equal_shape((x, candidates))
  x = jax.lax.stop_gradient(x)
  inside, keys = jnp.asarray(candidates) != 0, ordered_bits(x)
  spread = (lambda b: b) if axis is None else (lambda b: b[:, None])

  def fewer(bits):
    below = inside & (keys < spread(bits))
    return jnp.sum(below, axis=axis, dtype=jnp.int32) < k

  shape = () if axis is None else x.shape[:1]
  return _number(largest_bits(fewer, shape, keys.dtype), x)


def first_tokens(candidates: Array, score: Array, count: Array, *,
                 ties: str = 'first') -> Array:
  """The `count` candidates with the smallest scores, over the whole batch.

  Args:
    candidates: bool[B, T].
    score: f32 or u32[B, T], what they are sorted by.
    count: i32[], how many; all when there are fewer.
    ties: of equal scores, whether the 'first' in the batch come first, or
      the 'last'.

  Returns:
    bool[B, T].

  Raises:
    ValueError: an unknown `ties`.

  Example:
    >>> score = jnp.array([[3., 1., 2.], [0., 1., 9.]])
    >>> first_tokens(score > 0, score, jnp.array(2)).tolist()
    [[False, True, False], [False, True, False]]
  """
  if ties not in ('first', 'last'):
    raise ValueError(f"ties is {ties!r}; it must be 'first' or 'last'")
  chex.assert_equal_shape((candidates, score))
  inside, keys = jnp.asarray(candidates) != 0, ordered_bits(score)

  def fewer(bits):
    return jnp.sum(inside & (keys < bits), dtype=jnp.int32) < count

  # The last score that is taken.
  last = largest_bits(fewer, (), keys.dtype)
  less, same = inside & (keys < last), inside & (keys == last)
  room = count - jnp.sum(less, dtype=jnp.int32)
  place = jnp.cumsum(same.reshape(-1), dtype=jnp.int32).reshape(same.shape)
  if ties == 'last':
    place = jnp.sum(same, dtype=jnp.int32) + 1 - place
  return less | (same & (place <= room))
