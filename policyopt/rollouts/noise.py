"""Gumbel noise for one token of each row."""

from __future__ import annotations

import math

import jax
from jax.extend import random as extended
import jax.numpy as jnp

from policyopt.models.attention_kernels import platform
from policyopt.types import Array

_THREEFRY = extended.threefry_prng_impl
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def gumbel(keys: Array, step: Array, size: int, dtype) -> Array:
  """-log(-log u) with u of the key fold_in(keys[b], step[b]).

  Args:
    keys: [B] random keys of the rows; not consumed.
    step: i32[] or i32[B], place in the response.
    size: V.
    dtype: of the noise.

  Returns:
    [B, V], on every platform the numbers of `jax.random.gumbel`.

  Example:
    >>> keys = jax.random.split(jax.random.key(0), 2)
    >>> ours = gumbel(keys, jnp.int32(3), 5, jnp.float32)
    >>> jnp.array_equal(ours[1], jax.random.gumbel(
    ...     jax.random.fold_in(keys[1], 3), (5,))).item()
    True
  """
  def one(key, step):
    key = jax.random.fold_in(_written_out(key), step)
    return jax.random.gumbel(key, (size,), dtype)

  return jax.vmap(one)(keys, jnp.broadcast_to(step, keys.shape))


def _written_out(key):
  """The key, on CPUs with a generator that is not a loop.

  JAX compiles the five rounds of threefry as one loop there, to compile less
  code; each pass of it copies its arrays: 3% of decoding a small model.
  """
  if (platform() != 'cpu' or jax.random.key_impl(key) != 'threefry2x32'
      or not jax.config.jax_threefry_partitionable):
    return key
  return jax.random.wrap_key_data(jax.random.key_data(key), impl=_WRITTEN_OUT)


def _hash(key, x, y):
  """Threefry-2x32 of the counts (x, y), words of a shape.

  Source: "Parallel Random Numbers: As Easy as 1, 2, 3", Salmon, Moraes, Dror
    and Shaw, 2011.
  """
  keys = (*key, key[0] ^ key[1] ^ jnp.uint32(0x1BD11BDA))
  x, y = x + keys[0], y + keys[1]
  for count in range(1, 6):
    for bits in _ROTATIONS[(count - 1) % 2]:
      x = x + y
      y = x ^ (y << bits | y >> 32 - bits)
    x = x + keys[count % 3]
    y = y + keys[(count + 1) % 3] + jnp.uint32(count)
  return x, y


def _bits(key, bit_width, shape):
  """The hash of 0, 1, 2, ..., in the given shape."""
  if bit_width != 32:
    return _THREEFRY.random_bits(key, bit_width, shape)
  # A count has two words, of which the first is 0 below 2³².
  count = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
  x, y = _hash(key, jnp.zeros_like(count), count)
  return x ^ y


def _fold_in(key, data):
  """The key that is the hash of a number, uint32[]."""
  return jnp.stack(_hash(key, jnp.zeros_like(data), data))


_WRITTEN_OUT = extended.define_prng_impl(
    key_shape=_THREEFRY.key_shape, seed=_THREEFRY.seed, split=_THREEFRY.split,
    random_bits=_bits, fold_in=_fold_in, name='threefry_written_out',
    tag='frw')
