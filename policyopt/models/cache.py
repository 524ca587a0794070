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
    def write(rows, new, slot):
      return jax.lax.dynamic_update_slice(
          rows, new[None], (layer, slot, zero, zero))
    buffer = jax.vmap(write, (2, 0, 0), 2)(buffer, new, slot)
  else:
    buffer = jax.lax.dynamic_update_slice(
        buffer, jnp.swapaxes(new, 0, 1)[None], (layer, slot, zero, zero, zero))
  whole = jax.lax.dynamic_index_in_dim(buffer, layer, 0, keepdims=False)
  return buffer, jnp.swapaxes(whole, 0, 1)


def _constrain(cache):
  return jax.tree.map(
      lambda x: partitioning.constrain(
          x, 'layers', 'length', 'batch', 'kv_heads', 'head_dim'), cache)
