"""Keys and values of the tokens seen so far: explicit, functional, one layout.

The layout [L, T, B, KV, DH] puts time before rows: as the carry of the scan
over layers, and donated, it is updated in place on TPU without a layout copy.
Where a kernel reads it, XLA puts rows before time in memory, and that, too, is
updated in place. One CPU reads another form of it: see `cache_layers`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from policyopt.models import config as config_lib
from policyopt.models import partitioning, quantized

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values, [L, T, B, KV, DH]: layers, slots, rows, heads, features.

  Slots are filled from 0 on without gaps; how far is the caller's knowledge.
  Where they are int8, key_scales and value_scales, f32[L, T, B, KV], are what
  the features of a token and head are multiplied by.
  """
  keys: Array
  values: Array
  key_scales: Array | None = None
  value_scales: Array | None = None

  @property
  def slots(self) -> int:
    """Number of slots T."""
    return self.keys.shape[1]

  @property
  def rows(self) -> int:
    """Number of rows B."""
    return self.keys.shape[2]


def init_cache(config: config_lib.ModelConfig, batch: int, slots: int,
               dtype=None) -> Cache:
  """An empty cache.

  Args:
    config: of the model.
    batch: B, rows.
    slots: T, tokens that each row can hold.
    dtype: of the stored keys and values; None means `cache_dtype`, or the
      compute dtype without one.

  Returns:
    A Cache of zeros.

  Example:
    >>> from policyopt.models import presets
    >>> init_cache(presets.preset('nano'), batch=2, slots=5).keys.shape
    (2, 5, 2, 2, 16)
  """
  shape = (config.num_layers, slots, batch, config.num_kv_heads,
           config.head_dim)
  zeros = jnp.zeros(shape, dtype or config.cache_dtype or config.dtype)
  cache = Cache(zeros, jnp.zeros_like(zeros))
  if zeros.dtype == jnp.int8:
    ones = jnp.ones(shape[:-1])
    cache = Cache(cache.keys, cache.values, ones, jnp.ones_like(ones))
  return _constrain(cache)


def repeat(cache: Cache, samples: int) -> Cache:
  """Gives each row `samples` copies.

  Row b becomes rows b·samples … b·samples + samples − 1.
  """
  return _constrain(jax.tree.map(
      lambda x: jnp.repeat(x, samples, axis=2), cache))


def extend(cache: Cache, slots: int) -> Cache:
  """Appends `slots` empty slots to each row; old slots keep their place."""
  return _constrain(jax.tree.map(lambda x: jnp.pad(
      x, [(0, 0), (0, slots), *[(0, 0)] * (x.ndim - 2)]), cache))


def take(cache: Cache, rows: Array) -> Cache:
  """The cache of the given rows, i32[B'], in that order."""
  return _constrain(jax.tree.map(
      lambda x: jnp.take(x, rows, axis=2, mode='clip'), cache))


def copy_row(cache: Cache, row: Array, source: Cache, origin: Array) -> Cache:
  """Gives a row the first slots of a row of another cache.

  Args:
    cache: of T slots.
    row: i32[], that is written.
    source: of T or fewer slots.
    origin: i32[], row of `source` that is read.

  Returns:
    The cache; slots that `source` lacks keep what they held.
  """
  def copy(to, whence):
    part = jax.lax.dynamic_slice_in_dim(whence, origin, 1, axis=2)
    start = [jnp.zeros((), jnp.int32)] * to.ndim
    start[2] = row
    return jax.lax.dynamic_update_slice(to, part, start)

  return jax.tree.map(copy, cache, source)


def write(cache: Cache, key: Array, value: Array, layer: Array,
          slot: Array) -> Cache:
  """Writes the keys and values of new tokens of one layer.

  Args:
    cache: of all layers.
    key: [B, S, KV, DH], for slots slot … slot + S − 1.
    value: [B, S, KV, DH].
    layer: i32 scalar.
    slot: i32 scalar, or i32[B] when each row has a place of its own.

  Returns:
    The cache.
  """
  put = lambda buffer, new: update_layer(buffer, new, layer, slot)
  if cache.key_scales is None:
    return Cache(put(cache.keys, key), put(cache.values, value))
  key, value = (quantized.quantize(x, (3,), 'int8') for x in (key, value))
  return Cache(put(cache.keys, key.values), put(cache.values, value.values),
               put(cache.key_scales, key.scale[..., 0]),
               put(cache.value_scales, value.scale[..., 0]))


def read(cache: Cache, layer: Array) -> tuple[Array, Array]:
  """One layer's keys and values, each [B, T, KV, DH].

  Args:
    cache: of all layers.
    layer: i32 scalar.
  """
  return read_layer(cache.keys, layer), read_layer(cache.values, layer)


def read_scales(cache: Cache, layer: Array) -> dict[str, Array]:
  """What `attention.attend` multiplies by: f32[B, T, KV] each, or nothing.

  Args:
    cache: of all layers.
    layer: i32 scalar.
  """
  if cache.key_scales is None:
    return {}
  return dict(key_scale=read_layer(cache.key_scales, layer),
              value_scale=read_layer(cache.value_scales, layer))


def update_layer(buffer: Array, new: Array, layer: Array,
                 slot: Array) -> Array:
  """Writes one layer's new keys (or values).

  Args:
    buffer: [L, T, B, KV, ...].
    new: [B, S, KV, ...], for slots slot … slot + S − 1.
    layer: i32 scalar.
    slot: i32 scalar, or i32[B] when each row has a place of its own.

  Returns:
    The buffer.
  """
  new = stored(new, buffer.dtype)
  if slot.ndim:
    one = new.shape[1] == 1
    return jax.lax.platform_dependent(
        buffer, new, layer, slot, default=_write_rows,
        cpu=_write_tokens if one else _write_rows)
  return jax.lax.dynamic_update_slice(
      buffer, jnp.swapaxes(new, 0, 1)[None], _start(buffer, layer, slot))


def read_layer(buffer: Array, layer: Array) -> Array:
  """One layer's keys (or values), [B, T, KV, ...].

  Args:
    buffer: [L, T, B, KV, ...].
    layer: i32 scalar.
  """
  whole = jax.lax.dynamic_index_in_dim(buffer, layer, 0, keepdims=False)
  return jnp.swapaxes(whole, 0, 1)


def stored(new: Array, dtype: Any) -> Array:
  """In the dtype of the cache; float8 has no ∞, and would say NaN."""
  top = quantized.TOPS.get(str(dtype))
  if top is not None and new.dtype != dtype:
    new = jnp.clip(new, -top, top)
  return new.astype(dtype)


def _start(buffer, layer, slot):
  return (layer, slot, *[jnp.zeros((), jnp.int32)] * (buffer.ndim - 2))


def _write_rows(buffer, new, layer, slot):
  def write(rows, new, slot):
    return jax.lax.dynamic_update_slice(
        rows, new[None], _start(rows, layer, slot))

  return jax.vmap(write, (2, 0, 0), 2)(buffer, new, slot)


def _write_tokens(buffer, new, layer, slot):
  """The same for one token in each row, without a bound on the slots.

  XLA's CPU backend does the other as one loop over the rows that copies the
  whole buffer each time a layer writes: most of the time of a decode step.
  """
  return buffer.at[layer, slot, jnp.arange(len(slot))].set(
      new[:, 0], unique_indices=True, mode='promise_in_bounds')


def _constrain(cache):
  return jax.tree.map(
      lambda x: partitioning.constrain(
          x, *('layers', 'length', 'batch', 'kv_heads', 'head_dim')[:x.ndim]),
      cache)
