"""The cache as one CPU reads and writes it: each layer apart."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from policyopt.models import cache as cache_lib

Array = jax.Array

# Slots. XLA's CPU backend reads more of them at strides: half as fast.
_TILE = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
  """Of N prompts that rows share: those of a prompt are neighbours.

  Attributes:
    length: i32[N], tokens of each, at most P.
    keys: [N, KV, P, DH] of each layer.
    values: [N, KV, P, DH] of each layer.
  """
  length: Array
  keys: tuple[Array, ...]
  values: tuple[Array, ...]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['keys', 'values', 'prompts'], meta_fields=['heads', 'dtype'])
@dataclasses.dataclass(frozen=True)
class LayerCache:
  """Arrays of each layer, for B rows of T slots.

  As the products of one token in each row read them: batch dimensions as one,
  keys with features before slots, nothing that XLA's CPU backend would copy
  into another order; many slots in tiles, so that memory is read from front to
  back. And as one token is written in place: what a cache of narrow numbers
  would hold is held rounded to them, but in float32.

  With prompts all rows are equally far in their responses, whose tokens sit in
  the slots from 0 on. Without them a prompt sits there itself, and each row has
  a place of its own.

  Attributes:
    keys: [B·KV, DH, T] each, or [B·KV, T / W, DH, W] in tiles of W slots.
    values: [B·KV, T, DH] each.
    prompts: that rows share, or None.
    heads: KV.
    dtype: of the numbers.
  """
  keys: tuple[Array, ...]
  values: tuple[Array, ...]
  prompts: Prompts | None
  heads: int
  dtype: jnp.dtype


def tile(slots: int) -> int | None:
  """W for so many slots: None for few, narrow where much would be added."""
  if slots <= _TILE:
    return None
  return _TILE // 2 if 2 * slots <= 3 * _TILE else _TILE


def by_layer(cache: cache_lib.Cache, width: int | None) -> LayerCache:
  """A cache in this form.

  Args:
    cache: of any slots.
    width: W; what is missing in the last tile is added. None: no tiles.

  Returns:
    A LayerCache.
  """
  heads, dim = cache.keys.shape[3:]
  cache = cache_lib.extend(cache, -cache.slots % (width or 1))
  layers, wide = len(cache.keys), _wide(cache)
  keys = cache.keys.transpose(0, 2, 3, 1, 4).astype(wide)
  values = cache.values.transpose(0, 2, 3, 1, 4).astype(wide)
  tiles = (cache.slots // width, width) if width else (cache.slots,)
  keys = keys.reshape(layers, -1, *tiles, dim)
  return LayerCache(tuple(keys.swapaxes(-1, -2)),
                    tuple(values.reshape(layers, -1, cache.slots, dim)),
                    None, heads, cache.keys.dtype)


def share(cache: cache_lib.Cache, length: Array, samples: int, slots: int
          ) -> LayerCache:
  """The prompts of a cache, with room for the responses of their rows.

  Args:
    cache: of N prompts, P slots; what lies behind a prompt is never read.
    length: i32[N], tokens of each prompt.
    samples: G, rows of each prompt.
    slots: T of each row.

  Returns:
    A LayerCache of N·G rows.
  """
  layers, _, prompts, heads, dim = cache.keys.shape
  keys, values = (tuple(jnp.moveaxis(x, (2, 3), (1, 2)))
                  for x in (cache.keys, cache.values))
  empty = lambda *shape: tuple(
      jnp.zeros((prompts * heads * samples, *shape), _wide(cache))
      for _ in range(layers))
  tiles = (dim, slots)
  if width := tile(slots):
    slots += -slots % width
    tiles = (slots // width, dim, width)
  return LayerCache(empty(*tiles), empty(slots, dim),
                    Prompts(length, keys, values), heads, cache.keys.dtype)


def shares(cache: LayerCache | cache_lib.Cache) -> bool:
  """Whether it is one of `share`."""
  return isinstance(cache, LayerCache) and cache.prompts is not None


def grow(cache: LayerCache, slots: int) -> LayerCache:
  """Appends empty slots to rows that share prompts.

  Args:
    cache: of whole tiles, or of none.
    slots: of the result, no fewer than before; what is missing in the last
      tile is added.

  Returns:
    The cache.
  """
  tiled = cache.keys[0].ndim > 3
  width = cache.keys[0].shape[-1] if tiled else 1
  tiles = -(-slots // width)

  def append(arrays, axis, size):
    pad = [(0, 0)] * arrays[0].ndim
    pad[axis] = 0, size - arrays[0].shape[axis]
    return tuple(jnp.pad(x, pad) for x in arrays)

  return dataclasses.replace(
      cache, keys=append(cache.keys, 1 if tiled else 2, tiles),
      values=append(cache.values, 1, tiles * width))


def write(cache: LayerCache, key: Array, value: Array, layer: int,
          slot: Array) -> LayerCache:
  """Writes the keys and values of one token in each row of one layer.

  Args:
    cache: to write.
    key: [B, 1, KV, DH].
    value: [B, 1, KV, DH].
    layer: of the model.
    slot: i32[B], place of the tokens in their rows, prompts included.

  Returns:
    The cache.
  """
  place = own_slot(cache, slot)
  at = None, place
  if cache.keys[layer].ndim > 3:
    tile, inner = divmod(place, cache.keys[layer].shape[-1])
    at = tile, None, inner

  def put(buffers, new, at):
    buffer = buffers[layer]
    new = cache_lib.stored(_by_head(cache, new), cache.dtype)
    new = new.astype(buffer.dtype)
    if cache.prompts is not None:
      start = [0 if x is None else x for x in (None, *at)]
      new = jnp.expand_dims(
          new, [1 + axis for axis, x in enumerate(at) if x is not None])
      buffer = jax.lax.dynamic_update_slice(buffer, new, start)
    else:
      at = [slice(None) if x is None else jnp.repeat(x, cache.heads)
            for x in at]
      buffer = buffer.at[jnp.arange(len(new)), *at].set(
          new, unique_indices=True, mode='promise_in_bounds')
    return (*buffers[:layer], buffer, *buffers[layer + 1:])

  return dataclasses.replace(
      cache, keys=put(cache.keys, key, at),
      values=put(cache.values, value, (place, None)))


def own_slot(cache: LayerCache, slot: Array) -> Array:
  """Where `write` puts the tokens at `slot`: i32[B], or i32[] with prompts."""
  return slot if cache.prompts is None else slot[0] - cache.prompts.length[0]


def copy_row(cache: LayerCache | cache_lib.Cache, row: Array,
             source: LayerCache | cache_lib.Cache, origin: Array
             ) -> LayerCache | cache_lib.Cache:
  """`cache.copy_row` of a cache in either form."""
  if isinstance(cache, cache_lib.Cache):
    return cache_lib.copy_row(cache, row, source, origin)
  heads = cache.heads

  def copy(to, whence):
    part = jax.lax.dynamic_slice_in_dim(whence, origin * heads, heads)
    start = (row * heads, *[jnp.zeros((), jnp.int32)] * (to.ndim - 1))
    return jax.lax.dynamic_update_slice(to, part, start)

  return jax.tree.map(copy, cache, source)


def take(cache: LayerCache | cache_lib.Cache, rows: Array
         ) -> LayerCache | cache_lib.Cache:
  """`cache.take` of a cache in either form, without shared prompts."""
  if isinstance(cache, cache_lib.Cache):
    return cache_lib.take(cache, rows)
  part = jnp.arange(cache.heads, dtype=rows.dtype)
  rows = (rows[:, None] * cache.heads + part[None]).reshape(-1)
  return jax.tree.map(
      lambda x: jnp.take(x, rows, axis=0, mode='clip'), cache)


def _by_head(cache, x):
  """[B, 1, KV, DH] -> [B·KV, DH], in the order of the cache's rows."""
  if cache.prompts is not None:
    # Heads before the rows of a prompt: each reads the same keys.
    x = x.reshape(len(cache.prompts.length), -1, *x.shape[2:]).swapaxes(1, 2)
  return x.reshape(-1, x.shape[-1])


def _wide(cache):
  return max(cache.keys.dtype, jnp.dtype(jnp.float32),
             key=lambda dtype: dtype.itemsize)
