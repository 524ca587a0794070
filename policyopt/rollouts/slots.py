"""Decoding in slots: a row that ends makes room for the next that waits.

Rows end after very different numbers of tokens. Where all of them are decoded
at once, the loop goes on for the longest, and most of its work is lost on rows
that have ended. Here a fixed number of slots is decoded, and all of it inside
one compiled loop:

  read the prompts, each once; draw the first token of every row
  until no row waits and half of the slots are free:
    put a waiting row into each slot that is free: its prompt's keys and
      values are copied into the slot's cache
    decode one token in every slot, each at its own place
  move the rows that are left into half as many slots, and so on

A row's tokens depend on its id alone, so they are those of `sampler.decode`.

On a mesh every shard of the rows has slots, prompts and waiting rows of its
own (`seats`), and shards wait for each other only at the end.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.models import cache as kv_cache
from policyopt.models import partitioning, transformer, unrolled
from policyopt.models.config import ModelConfig
from policyopt.ops.signals.entropy_scale import Heat
from policyopt.rollouts import seats as seating
from policyopt.rollouts.draw import Drawn, SamplerConfig, draw, ends
from policyopt.rollouts.reading import read
from policyopt.rollouts.seats import BY_ROW, BY_STEP, CACHE, P, Rows, Seats
from policyopt.types import Array, Prompts

# Each compiles the decode step again, for half as many slots.
_MOST_HALVINGS = 2
# Slots of a shard. Of fewer rows XLA's CPU backend rounds products otherwise.
_FEWEST = 4


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
  shards = seating.shards_of(sampler.slots, num_prompts // chunks)
  # As data: they lie with their rows, wherever those are moved.
  impl, keys = jax.random.key_impl(keys), jax.random.key_data(keys)
  draw_next = functools.partial(_draw, config, sampler, params, heat, impl)
  fast = unrolled.weights(config, params, sampler.slots)
  one_token = functools.partial(
      _one_token, config, sampler, fast, draw_next, shards)

  def cut(x):
    # Each chunk has prompts of every shard.
    x = x.reshape(shards, chunks, -1, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0).reshape(chunks, -1, *x.shape[3:])

  def join(x):
    x = x.reshape(chunks, shards, -1, *x.shape[2:])
    return jnp.moveaxis(x, 0, 1).reshape(rows, *x.shape[3:])

  def some(loop, chunk):
    index, prompts, keys, starts, limits = chunk
    return _chunk(config, sampler, params, draw_next, one_token, loop, prompts,
                  (keys, starts, limits), index, index == chunks - 1, shards)

  loop = _empty(config, sampler, draw_next, prompts, keys, shards, chunks)
  chunk = (jnp.arange(chunks, dtype=jnp.int32),
           *jax.tree.map(cut, (prompts, keys, starts, limits)))
  if chunks == 1:
    loop, first = some(loop, jax.tree.map(lambda x: x[0], chunk))
  else:
    loop, first = jax.lax.scan(some, loop, chunk)
    first = jax.tree.map(join, first)
  loop, halved = _tail(one_token, loop, shards)
  local = functools.partial(seating.by_row, limit=sampler.max_tokens)
  drawn = seating.on_shards(
      local, shards, (BY_ROW, BY_STEP, BY_STEP, BY_ROW, P()), BY_ROW)(
          first, loop.record, loop.seats.slot, loop.seats.since, halved)
  return drawn, loop.step + 1


def _chunk(config, sampler, params, draw_next, one_token, loop, prompts, rows,
           index, last, shards):
  """Reads some prompts and decodes until none of their rows waits.

  After the last of them until half of the slots are free.
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
  refill = seating.on_shards(
      functools.partial(seating.refill, samples=samples), shards,
      (seating.SPECS, CACHE, BY_ROW, P()), seating.SPECS)

  def go_on(loop):
    waits = (loop.seats.next < count).any()
    return waits | (last & _crowded(loop, shards, 0))

  def body(loop):
    seats = refill(loop.seats, pool, (waiting, order, count),
                   (loop.step, index))
    return one_token(loop._replace(seats=seats))

  return jax.lax.while_loop(go_on, body, loop._replace(seats=seats)), first


def _tail(one_token, loop, shards):
  """Decodes the rows that are left in fewer and fewer slots.

  Returns:
    (the loop; i32[H - 1], its steps when the slots were halved).
  """
  halved = []
  for times in range(1, len(loop.seats.slot)):
    halve = functools.partial(seating.halve, times=times)
    halve = seating.on_shards(halve, shards, (seating.SPECS,), seating.SPECS)
    halved.append(loop.step)
    loop = jax.lax.while_loop(
        functools.partial(_crowded, shards=shards, times=times), one_token,
        loop._replace(seats=halve(loop.seats)))
  return loop, jnp.array(halved, jnp.int32)


def _crowded(loop, shards, times):
  """Whether some shard needs more slots than it would have if halved again."""
  rows, final = loop.seats.rows, len(loop.seats.slot) - 1
  active = (~rows.done).reshape(shards, -1)
  room = 0 if times == final else active.shape[1] // 2
  return (active.sum(axis=1) > room).any()


def _one_token(config, sampler, fast, draw_next, shards, loop):
  """Draws the next token in every slot."""
  rows, cache = loop.seats.rows, loop.seats.cache
  position = rows.start + rows.drawn - 1
  hidden, cache = transformer.forward(
      config, fast, rows.token[:, None], position[:, None], cache=cache,
      slot=position)
  drawn = draw_next(hidden[:, 0], rows.key, rows.drawn)
  note = seating.on_shards(
      seating.note, shards, (BY_STEP, BY_ROW, P()), BY_STEP)
  done = rows.done | ends(sampler, drawn.token, rows.drawn, rows.limit)
  rows = rows._replace(
      token=drawn.token, drawn=rows.drawn + ~rows.done, done=done)
  return Loop(loop.step + 1, loop.seats._replace(rows=rows, cache=cache),
              note(loop.record, drawn, loop.step))


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
  length = prompts.tokens.shape[1] + limit
  cache = kv_cache.init_cache(config, slots, length)
  seats = Seats(
      idle, zeros + rows, jnp.zeros((shards,), jnp.int32),
      jnp.zeros((1 + _halvings(slots // shards), rows), jnp.int32),
      jnp.zeros((rows,), jnp.int32), unrolled.by_layer(config, cache, length))
  one = jax.eval_shape(
      draw_next, jnp.zeros((slots, config.width), config.dtype), idle.key,
      idle.drawn)
  steps = _most_steps(limit, rows // shards // chunks, slots // shards,
                      chunks, shards)
  record = jax.tree.map(
      lambda x: jnp.zeros((steps, *x.shape), x.dtype), one)
  return Loop(jnp.int32(0), seats, record)


def _halvings(slots):
  """How often so many slots, of one shard, are halved."""
  times = 0
  while (times < _MOST_HALVINGS and slots % 2 == 0
         and slots // 2 >= _FEWEST):
    slots, times = slots // 2, times + 1
  return times


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
