"""A cache of rows that share prompts: each prompt's keys and values once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from policyopt.models import cache as cache_lib

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupCache:
  """Arrays of each layer, of N prompts and of the N·G rows behind them.

  The G rows of a prompt are neighbours and equally far in their responses,
  whose tokens sit in slots of their own, from 0 on. As XLA's CPU backend reads
  them: keys of responses with features before slots, and batch dimensions as
  one. And as it writes one token in place: what prompts hold in a narrow dtype,
  responses hold rounded to it, in float32.

  Attributes:
    length: i32[N], tokens of each prompt, at most P.
    prompt_keys: [N, KV, P, DH] each.
    prompt_values: [N, KV, P, DH] each.
    keys: [N·KV·G, DH, M] each.
    values: [N·KV·G, M, DH] each.
  """
  length: Array
  prompt_keys: tuple[Array, ...]
  prompt_values: tuple[Array, ...]
  keys: tuple[Array, ...]
  values: tuple[Array, ...]


def share(cache: cache_lib.Cache, length: Array, samples: int, slots: int
          ) -> GroupCache:
  """The prompts of a cache, with room for the responses of their rows.

  Args:
    cache: of N prompts, P slots; what lies behind a prompt is never read.
    length: i32[N], tokens of each prompt.
    samples: G, rows of each prompt.
    slots: M of each row.

  Returns:
    A GroupCache of N·G rows.
  """
  layers, _, rows, heads, dim = cache.keys.shape
  prompts = cache_lib.by_layer(cache)
  wide = max(cache.keys.dtype, jnp.dtype(jnp.float32), key=lambda x: x.itemsize)
  empty = lambda *shape: tuple(
      jnp.zeros((rows * heads * samples, *shape), wide)
      for _ in range(layers))
  return GroupCache(length, prompts.keys, prompts.values, empty(dim, slots),
                    empty(slots, dim))


def write(cache: GroupCache, key: Array, value: Array, layer: int,
          slot: Array) -> GroupCache:
  """Writes the keys and values of one token in each row of one layer.

  Args:
    cache: to write.
    key: [N·G, 1, KV, DH].
    value: [N·G, 1, KV, DH].
    layer: of the model.
    slot: i32[N·G], place of the tokens in their rows, prompts included.

  Returns:
    The cache.
  """
  (heads, dim), prompts = key.shape[2:], cache.length.shape[0]
  place = own_slot(cache, slot)

  def put(buffers, new, axis):
    buffer = buffers[layer]
    new = cache_lib.stored(new, cache.prompt_keys[layer].dtype)
    new = new.reshape(prompts, -1, heads, dim)
    new = jnp.expand_dims(new.swapaxes(1, 2).reshape(-1, dim), axis)
    buffer = jax.lax.dynamic_update_slice_in_dim(
        buffer, new.astype(buffer.dtype), place, axis)
    return (*buffers[:layer], buffer, *buffers[layer + 1:])

  return dataclasses.replace(cache, keys=put(cache.keys, key, 2),
                             values=put(cache.values, value, 1))


def own_slot(cache: GroupCache, slot: Array) -> Array:
  """i32[], place in all responses of the tokens that `write` puts at `slot`."""
  return slot[0] - cache.length[0]

