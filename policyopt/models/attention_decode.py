"""Attention of one new token in each row to what its cache holds, on TPUs.

What bounds decoding is the memory that it reads. The kernel reads keys and
values where they lie: those of one layer, and in each block of rows only the
blocks of slots that some row of it sees.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from policyopt.models import attention_kernels as kernels

Array = jax.Array
P = jax.sharding.PartitionSpec

IMPLEMENTATIONS = ('auto', 'xla', 'ragged')

_MASKED = -1e30
_LANES = 128
# Of keys that a step of the grid fetches: enough to hide its own cost.
_BLOCK_BYTES = 2**20
_MOST_ROWS = 8


def choose(implementation: str, query: Array, cache: Any) -> str:
  """The implementation that will run; see `attention_kernels.choose`.

  Args:
    implementation: 'auto' or a name that is to be taken where each row has one
      new token; prompts are read by 'xla'.
    query: [B, S, H, DH].
    cache: of B rows.

  Returns:
    'xla' or 'ragged'.

  Raises:
    ValueError: for an unknown name, or one that cannot do it, and why.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'decode_attention = {implementation!r} must be one of '
                     f'{", ".join(IMPLEMENTATIONS)}')
  if implementation == 'xla' or query.shape[1] != 1:
    return 'xla'
  reason = _not_ragged(query, cache)
  if implementation == 'ragged' and reason:
    raise ValueError("decode_attention = 'ragged' cannot be used here: "
                     f"{reason}; 'auto' takes what can")
  return 'xla' if reason else 'ragged'


def ragged(query: Array, cache: Any, layer: Array, first: Array, last: Array, *,
           scale: float, softcap: float | None, interpret: bool = False
           ) -> Array:
  """One token of each row attends to a range of slots; see `attention.decode`.

  In a mesh every device runs the kernel on its rows and heads.

  Args:
    query: [B, 1, H, DH].
    cache: of all layers.
    layer: i32[].
    first: i32[B], the first slot that each row's token sees.
    last: i32[B], the last.
    scale: of the scores.
    softcap: of the scores, or None.
    interpret: runs the kernel step by step on any platform, for tests.

  Returns:
    [B, 1, H, DH].
  """
  batch, heads, mesh = kernels.shard_axes()
  run = functools.partial(_local, scale=scale, softcap=softcap,
                          interpret=interpret)
  if mesh is not None:
    of_query, rows = P(batch, heads, None), P(batch)
    held = P(None, None, batch, heads, None)
    run = jax.shard_map(
        run, in_specs=(of_query, held, held, P(), rows, rows),
        out_specs=of_query, check_vma=False)
  return run(query[:, 0], cache.keys, cache.values, layer, first, last)[:, None]


def _local(query, keys, values, layer, first, last, *, scale, softcap,
           interpret):
  """The kernel on one device: [B, H, DH] of its own rows and heads."""
  # Here, because Pallas takes half a second to import.
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu
  batch, heads, dim = query.shape
  slots, kv_heads = keys.shape[1], keys.shape[3]
  rows, length = _block(batch, slots, dim, keys.dtype.itemsize)
  low = first.reshape(-1, rows).min(axis=1) // length
  high = last.reshape(-1, rows).max(axis=1) // length
  # XLA lays the cache out in this order when asked so, and nothing is moved.
  keys, values = (x.transpose(0, 3, 2, 1, 4) for x in (keys, values))
  query = query.reshape(batch, kv_heads, -1, dim).swapaxes(0, 1)

  def held(head, block, step, layer, low, high):
    # A block that has been fetched is not fetched anew.
    return (layer[0], head, block,
            jnp.minimum(low[block] + step, high[block]), 0)

  in_rows = pl.BlockSpec((rows, 1, 1), lambda head, block, *_: (block, 0, 0))
  of_query = pl.BlockSpec((None, rows, heads // kv_heads, dim),
                          lambda head, block, *_: (head, block, 0, 0))
  of_cache = pl.BlockSpec((None, None, rows, length, dim), held)
  scratch = [pltpu.VMEM((rows, heads // kv_heads, size), jnp.float32)
             for size in (1, 1, dim)]
  out = pl.pallas_call(
      functools.partial(_kernel, slots=slots, scale=scale, softcap=softcap),
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=3, scratch_shapes=scratch, out_specs=of_query,
          grid=(kv_heads, batch // rows, (high - low).max() + 1),
          in_specs=[in_rows, in_rows, of_query, of_cache, of_cache]),
      out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('parallel', 'parallel', 'arbitrary')),
      cost_estimate=pl.CostEstimate(
          flops=4 * slots * query.size, transcendentals=slots * batch * heads,
          bytes_accessed=2 * keys[0].nbytes),
      interpret=interpret, name='ragged_decode')(
          layer.reshape(1), low, high, first[:, None, None],
          last[:, None, None], query, keys, values)
  return out.swapaxes(0, 1).reshape(batch, heads, dim)


def _kernel(layer, low, high, first, last, query, keys, values, out, top,
            total, mean, *, slots, scale, softcap):
  """A block of rows and of slots, of one key head; a softmax as it goes."""
  from jax.experimental import pallas as pl
  del layer
  block, step = pl.program_id(1), pl.program_id(2)
  length = keys.shape[1]

  @pl.when(step == 0)
  def _():
    top[...] = jnp.full_like(top, _MASKED)
    total[...] = jnp.zeros_like(total)
    mean[...] = jnp.zeros_like(mean)

  @pl.when(low[block] + step <= high[block])
  def _():
    start = (low[block] + step) * length
    q = query[...]
    k, v = (x[...].astype(q.dtype) for x in (keys, values))
    scores = scale * jnp.einsum('bgd,btd->bgt', q, k,
                                preferred_element_type=jnp.float32)
    if softcap is not None:
      scores = softcap * jnp.tanh(scores / softcap)
    place = start + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 2)
    seen = (place >= first[...]) & (place <= last[...])
    scores = jnp.where(seen, scores, _MASKED)
    if slots % length:
      # Behind the last slot there may be anything, and 0 · NaN is NaN.
      place = start + jax.lax.broadcasted_iota(jnp.int32, v.shape, 1)
      v = jnp.where(place < slots, v, 0)
    before, now = top[...], scores.max(axis=2, keepdims=True)
    now = jnp.maximum(before, now)
    # A row that sees nothing of the block has all masked: weight 0 later.
    probs, shrink = jnp.exp(scores - now), jnp.exp(before - now)
    top[...] = now
    total[...] = total[...] * shrink + probs.sum(axis=2, keepdims=True)
    mean[...] = mean[...] * shrink + jnp.einsum(
        'bgt,btd->bgd', probs.astype(q.dtype), v,
        preferred_element_type=jnp.float32)

  @pl.when(step == pl.num_programs(2) - 1)
  def _():
    out[...] = (mean[...] / total[...]).astype(out.dtype)


def _block(batch, slots, dim, itemsize):
  """Rows and slots that a step of the grid handles."""
  rows = max(x for x in range(1, _MOST_ROWS + 1) if batch % x == 0)
  most = _BLOCK_BYTES // (rows * dim * itemsize)
  if slots <= most:
    return rows, slots
  return rows, max(most // _LANES * _LANES, _LANES)


def _not_ragged(query, cache):
  """Why the kernel cannot do it, or None."""
  (rows, _, _, dim), keys = query.shape, cache.keys
  if kernels.platform() != 'tpu':
    return f'the platform is {kernels.platform()}, not tpu'
  for array in (query, keys):
    if array.dtype not in (jnp.bfloat16, jnp.float32):
      return f'the dtype is {array.dtype}, not bfloat16 or float32'
  if dim % _LANES:
    # XLA then puts slots last; any other way the cache would be padded.
    return f'head_dim is {dim}, not a multiple of {_LANES}'
  batch, heads, mesh = kernels.shard_axes()
  shards = kernels.shard_count(mesh, batch)
  tensor = kernels.shard_count(mesh, heads)
  if rows % shards:
    return f'{rows} rows are not a multiple of {shards} shards of the mesh'
  if keys.shape[3] % tensor:
    return (f'{keys.shape[3]} key heads do not divide into {tensor} shards of '
            'the mesh')
  return None
