"""Keys and values of the tokens seen so far: explicit, functional, one layout.

The layout [L, T, B, KV, DH] puts time before rows: as the carry of the scan
over layers, and donated, it is updated in place on TPU without a layout copy.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from policyopt.models import config as config_lib
from policyopt.models import partitioning

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values, [L, T, B, KV, DH]: layers, slots, rows, heads, features.

  Slots are filled from 0 on without gaps; how far is the caller's knowledge.
  """
  keys: Array
  values: Array

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
    dtype: of the stored keys and values; None means the compute dtype.

  Returns:
    A Cache of zeros.

  Example:
    >>> from policyopt.models import presets
    >>> init_cache(presets.preset('nano'), batch=2, slots=5).keys.shape
    (2, 5, 2, 2, 16)
  """
  shape = (config.num_layers, slots, batch, config.num_kv_heads,
           config.head_dim)
  zeros = jnp.zeros(shape, dtype or config.dtype)
  return _constrain(Cache(zeros, jnp.zeros_like(zeros)))


def repeat(cache: Cache, samples: int) -> Cache:
  """Gives each row `samples` copies.

  Row b becomes rows b·samples … b·samples + samples − 1.
  """
  return _constrain(jax.tree.map(
      lambda x: jnp.repeat(x, samples, axis=2), cache))


def extend(cache: Cache, slots: int) -> Cache:
  """Appends `slots` empty slots to each row; old slots keep their place."""
  pad = [(0, 0), (0, slots), (0, 0), (0, 0), (0, 0)]
  return _constrain(jax.tree.map(lambda x: jnp.pad(x, pad), cache))


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
  zero = jnp.zeros((), jnp.int32)

  def copy(to, whence):
    part = jax.lax.dynamic_slice_in_dim(whence, origin, 1, axis=2)
    return jax.lax.dynamic_update_slice(to, part, (zero, zero, row, zero, zero))

  return jax.tree.map(copy, cache, source)


def update_layer(buffer: Array, new: Array, layer: Array,
                 slot: Array) -> tuple[Array, Array]:
  """Writes one layer's new keys (or values), and reads that layer back.

  Args:
    buffer: [L, T, B, KV, DH].
    new: [B, S, KV, DH], for slots slot … slot + S − 1.
    layer: i32 scalar.
    slot: i32 scalar, or i32[B] when each row has a place of its own.

  Returns:
    The buffer, and the layer's [B, T, KV, DH].
  """
  zero = jnp.zeros((), jnp.int32)
  new = new.astype(buffer.dtype)
  if slot.ndim:
    one = new.shape[1] == 1
    buffer = jax.lax.platform_dependent(
        buffer, new, layer, slot, default=_write_rows,
        cpu=_write_tokens if one else _write_rows)
  else:
    buffer = jax.lax.dynamic_update_slice(
        buffer, jnp.swapaxes(new, 0, 1)[None], (layer, slot, zero, zero, zero))
  whole = jax.lax.dynamic_index_in_dim(buffer, layer, 0, keepdims=False)
  return buffer, jnp.swapaxes(whole, 0, 1)


def _write_rows(buffer, new, layer, slot):
  zero = jnp.zeros((), jnp.int32)

  def write(rows, new, slot):
    return jax.lax.dynamic_update_slice(
        rows, new[None], (layer, slot, zero, zero))

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
          x, 'layers', 'length', 'batch', 'kv_heads', 'head_dim'), cache)
