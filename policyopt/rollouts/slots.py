"""Decoding in slots: a row that ends makes room for the next that waits.

Rows end after very different numbers of tokens. Where all of them are decoded
at once, the loop goes on for the longest, and most of its work is lost on rows
that have ended. Here a fixed number of slots is decoded, and all of it inside
one compiled loop:

  read the prompts, each once; draw the first token of every row
  until no row waits and none is being decoded:
    put a waiting row into each slot that is free: its prompt's keys and
      values are copied into the slot's cache
    decode one token in every slot, each at its own place

A row's tokens depend on its id alone, so they are those of `sampler.decode`.

On a mesh every shard of the rows has slots, prompts and waiting rows of its
own: what is copied stays on the device, and shards wait for each other only at
the end. Tokens are recorded by slot and by step of the loop, and put together
by row at the end: inside the loop nothing is scattered.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.models import cache as kv_cache
from policyopt.models import cache_layers, partitioning, transformer, unrolled
from policyopt.models.config import ModelConfig
from policyopt.ops.signals.entropy_scale import Heat
from policyopt.rollouts.draw import Drawn, SamplerConfig, draw, ends
from policyopt.rollouts.reading import read
from policyopt.types import Array, Prompts

P = jax.sharding.PartitionSpec
_ROWS = partitioning.RULES['batch']
_BY_ROW, _BY_STEP, _CACHE = P(_ROWS), P(None, _ROWS), P(None, None, _ROWS)


class Rows(NamedTuple):
  """Rows that wait, [R], or that are being decoded, [S], one in each slot.

  Attributes:
    key: uint32[2], data of the row's random key.
    start: i32, length of its prompt.
    limit: i32, most tokens of its response.
    token: i32, the last one drawn.
    drawn: i32, how many there are.
    done: bool, whether it has ended.
  """
  key: Array
  start: Array
  limit: Array
  token: Array
  drawn: Array
  done: Array


class Seats(NamedTuple):
  """Who sits where, and since when; D shards of the rows.

  Attributes:
    rows: those in the S slots.
    next: i32[D], how many of the waiting rows have been seated.
    slot: i32[B], that each row was decoded in, counted in its shard.
    since: i32[B], step of the loop that drew its second token.
    cache: of S rows.
  """
  rows: Rows
  next: Array
  slot: Array
  since: Array
  cache: kv_cache.Cache


class Loop(NamedTuple):
  """The carry: steps taken i32[], the seats, and the record, of [steps, S]."""
  step: Array
  seats: Seats
  record: Drawn


def decode(config: ModelConfig, sampler: SamplerConfig, params: Any,
           prompts: Prompts, keys: Array, starts: Array, limits: Array,
           heat: Heat | None = None) -> tuple[Drawn, Array]:
  """Reads the prompts and draws all rows, `sampler.slots` at a time.

  Args:
    config: of the model.
    sampler: how to draw; fewer slots than rows.
    params: of the model.
    prompts: N, padded to P tokens.
    keys: [B] random keys; rows of a prompt are neighbours.
    starts: i32[B], length of each row's prompt.
    limits: i32[B], most tokens of each row.
    heat: as in `sampler.sample`.

  Returns:
    (what was drawn, [B, M]; of no meaning after a row's end; draws i32[]).

  Raises:
    ValueError: as `SamplerConfig.check_slots`.
  """
  num_prompts, rows = prompts.length.shape[0], starts.shape[0]
  sampler.check_slots(num_prompts, rows // num_prompts)
  chunks = num_prompts // (sampler.prefill_chunk or num_prompts)
  shards = _shards(sampler.slots, num_prompts // chunks)
  # As data: they lie with their rows, wherever those are moved.
  impl, keys = jax.random.key_impl(keys), jax.random.key_data(keys)
  draw_next = functools.partial(_draw, config, sampler, params, heat, impl)
  fast = unrolled.weights(config, params, sampler.slots)

  def cut(x):
    # Each chunk has prompts of every shard.
    x = x.reshape(shards, chunks, -1, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0).reshape(chunks, -1, *x.shape[3:])

  def join(x):
    x = x.reshape(chunks, shards, -1, *x.shape[2:])
    return jnp.moveaxis(x, 0, 1).reshape(rows, *x.shape[3:])

  def some(loop, chunk):
    index, prompts, keys, starts, limits = chunk
    return _chunk(config, sampler, params, fast, draw_next, loop, prompts,
                  (keys, starts, limits), index, index == chunks - 1, shards)

  loop = _empty(config, sampler, draw_next, prompts, keys, shards, chunks)
  chunk = (jnp.arange(chunks, dtype=jnp.int32),
           *jax.tree.map(cut, (prompts, keys, starts, limits)))
  if chunks == 1:
    loop, first = some(loop, jax.tree.map(lambda x: x[0], chunk))
  else:
    loop, first = jax.lax.scan(some, loop, chunk)
    first = jax.tree.map(join, first)
  local = functools.partial(_by_row, limit=sampler.max_tokens)
  drawn = _on_shards(local, shards, (_BY_ROW, _BY_STEP, _BY_ROW), _BY_ROW)(
      first, loop.record, (loop.seats.slot, loop.seats.since))
  return drawn, loop.step + 1


def _chunk(config, sampler, params, fast, draw_next, loop, prompts, rows,
           index, last, shards):
  """Reads some prompts and decodes until none of their rows waits.

  After the last of them until no row is left.
  """
  keys, starts, limits = rows
  samples = starts.shape[0] // prompts.length.shape[0]
  hidden, pool = read(config, params, prompts, sampler.max_tokens)
  pool = unrolled.by_layer(
      config, pool, prompts.tokens.shape[1] + sampler.max_tokens)
  first = draw_next(
      jnp.repeat(hidden, samples, axis=0), keys, jnp.int32(0))
  done = ends(sampler, first.token, jnp.int32(0), limits)
  waiting = Rows(keys, starts, limits, first.token,
                 jnp.ones_like(starts), done)
  # Per shard: rows that want a slot, in their order, and how many they are.
  order = jnp.argsort(done.reshape(shards, -1), axis=1, stable=True)
  order = order.astype(jnp.int32).reshape(-1)
  count = (~done).reshape(shards, -1).sum(axis=1, dtype=jnp.int32)
  seats = loop.seats._replace(next=jnp.zeros((shards,), jnp.int32))
  specs = Seats(_BY_ROW, _BY_ROW, _BY_ROW, _BY_ROW, _CACHE)
  refill = _on_shards(functools.partial(_refill, samples=samples), shards,
                      (specs, _CACHE, _BY_ROW, P()), specs)

  def go_on(loop):
    waits = (loop.seats.next < count).any()
    return waits | (last & ~loop.seats.rows.done.all())

  def body(loop):
    seats = refill(loop.seats, pool, (waiting, order, count),
                   (loop.step, index))
    rows, cache = seats.rows, seats.cache
    position = rows.start + rows.drawn - 1
    hidden, cache = transformer.forward(
        config, fast, rows.token[:, None], position[:, None], cache=cache,
        slot=position)
    drawn = draw_next(hidden[:, 0], rows.key, rows.drawn)
    record = jax.tree.map(
        lambda buffer, x: jax.lax.dynamic_update_index_in_dim(
            buffer, x, loop.step, axis=0), loop.record, drawn)
    done = rows.done | ends(sampler, drawn.token, rows.drawn, rows.limit)
    rows = rows._replace(
        token=drawn.token, drawn=rows.drawn + ~rows.done, done=done)
    return Loop(loop.step + 1, seats._replace(rows=rows, cache=cache), record)

  return jax.lax.while_loop(go_on, body, loop._replace(seats=seats)), first


def _draw(config, sampler, params, heat, impl, hidden, keys, step) -> Drawn:
  logits = transformer.logits(config, params, hidden)
  logits = partitioning.constrain(logits, 'batch', 'vocab')
  keys = jax.random.wrap_key_data(keys, impl=impl)
  return draw(sampler, logits, keys, step, heat)


def _empty(config, sampler, draw_next, prompts, keys, shards, chunks):
  """The carry before anything is decoded: no slot is taken."""
  slots, limit, rows = sampler.slots, sampler.max_tokens, keys.shape[0]
  zeros = jnp.zeros((slots,), jnp.int32)
  idle = Rows(keys[:slots], zeros, zeros, zeros, zeros + 1, zeros == 0)
  none = jnp.zeros((rows,), jnp.int32)
  length = prompts.tokens.shape[1] + limit
  cache = kv_cache.init_cache(config, slots, length)
  seats = Seats(idle, jnp.zeros((shards,), jnp.int32), none, none,
                unrolled.by_layer(config, cache, length))
  one = jax.eval_shape(
      draw_next, jnp.zeros((slots, config.width), config.dtype), idle.key,
      idle.drawn)
  steps = _most_steps(limit, rows // shards // chunks, slots // shards,
                      chunks, shards)
  record = jax.tree.map(
      lambda x: jnp.zeros((steps, *x.shape), x.dtype), one)
  return Loop(jnp.int32(0), seats, record)


def _most_steps(limit, rows, slots, chunks, shards):
  """Steps that suffice for chunks of `rows` in `slots`, both per shard.

  While rows wait, all slots draw tokens that are needed, except in the last
  step of a chunk; the last rows take limit - 1 steps at most. With several
  chunks, shards wait for each other at the end of each.
  """
  rest = limit - 1
  if shards == 1 or chunks == 1:
    return max(1, chunks * rows * rest // slots + chunks - 1 + rest)
  return max(1, chunks * (rows * rest // slots + rest + 1) + rest)


def _refill(seats, pool, queue, when, *, samples) -> Seats:
  """Seats waiting rows, one after another, while slots are free; one shard."""
  (waiting, order, count), (step, chunk) = queue, when
  put = functools.partial(jax.lax.dynamic_update_index_in_dim, axis=0)

  def go_on(seats):
    return seats.rows.done.any() & (seats.next[0] < count[0])

  def body(seats):
    slot = jnp.argmax(seats.rows.done).astype(jnp.int32)
    row = order[seats.next[0]]
    place = chunk * order.shape[0] + row
    return Seats(
        jax.tree.map(lambda held, new: put(held, new[row], slot), seats.rows,
                     waiting),
        seats.next + 1, put(seats.slot, slot, place),
        put(seats.since, step, place),
        cache_layers.copy_row(seats.cache, slot, pool, row // samples))

  return jax.lax.while_loop(go_on, body, seats)


def _by_row(first, record, seat, *, limit) -> Drawn:
  """[B, M] of what was recorded by step and slot; one shard."""
  slot, since = seat
  steps, slots = record.token.shape
  step = since[:, None] + jnp.arange(limit - 1)[None]
  index = jnp.minimum(step, steps - 1) * slots + slot[:, None]
  return jax.tree.map(
      lambda x, y: jnp.concatenate(
          [x[:, None], y.reshape(steps * slots, *y.shape[2:])[index]], axis=1),
      first, record)


def _shards(slots, prompts) -> int:
  """Shards of the rows that can have slots and prompts of their own."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  auto = {name for name, kind in zip(mesh.axis_names, mesh.axis_types)
          if kind == jax.sharding.AxisType.Auto}
  shards = math.prod(mesh.shape[axis] for axis in _ROWS if axis in auto)
  return shards if slots % shards == prompts % shards == 0 else 1


def _on_shards(function, shards, in_specs, out_specs):
  """Runs a function on each shard of the rows by itself."""
  if shards == 1:
    return function
  return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs,
                       axis_names=set(_ROWS), check_vma=False)
