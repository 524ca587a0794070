"""Rows and the slots that they are decoded in: who sits where, since when.

Each shard of the rows has slots of its own, and seats its own rows: what is
copied stays on its device. The functions here see one shard; `on_shards` runs
them on each. Tokens are recorded by slot and by step of the loop, and put
together by row at the end: inside the loop nothing is scattered.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt.models import cache as kv_cache
from policyopt.models import cache_layers, partitioning
from policyopt.rollouts.draw import Drawn
from policyopt.types import Array

P = jax.sharding.PartitionSpec
_ROWS = partitioning.RULES['batch']
BY_ROW, BY_STEP, CACHE = P(_ROWS), P(None, _ROWS), P(None, None, _ROWS)


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
    place: i32[S], of these among the rows of their shard; past the last where
      nobody has sat yet.
    next: i32[D], how many of the waiting rows have been seated.
    slot: i32[H, B], that each row was decoded in, counted in its shard: when
      it was seated, and after each time that the slots were halved.
    since: i32[B], step of the loop that drew its second token.
    cache: of S rows.
  """
  rows: Rows
  place: Array
  next: Array
  slot: Array
  since: Array
  cache: kv_cache.Cache


SPECS = Seats(BY_ROW, BY_ROW, BY_ROW, BY_STEP, BY_ROW, CACHE)


def refill(seats: Seats, pool: kv_cache.Cache, queue: tuple, when: tuple, *,
           samples: int) -> Seats:
  """Seats waiting rows, one after another, while slots are free; one shard.

  Args:
    seats: of S slots.
    pool: the cache of the prompts.
    queue: (Rows that wait; their order, i32[R], those that want a slot first;
      how many these are, i32[1]).
    when: (step of the loop, chunk of the rows), i32[] each.
    samples: G, rows of each prompt.

  Returns:
    The seats.
  """
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
        put(seats.place, place, slot), seats.next + 1,
        jax.lax.dynamic_update_slice(seats.slot, slot[None, None], (0, place)),
        put(seats.since, step, place),
        cache_layers.copy_row(seats.cache, slot, pool, row // samples))

  return jax.lax.while_loop(go_on, body, seats)


def halve(seats: Seats, *, times: int) -> Seats:
  """Moves the rows that are left into half as many slots; one shard.

  Args:
    seats: of S slots, half of them free.
    times: that it has been done, this one included.

  Returns:
    Seats of S / 2 slots.
  """
  count = len(seats.place) // 2
  stay = jnp.argsort(seats.rows.done, stable=True)[:count]
  rows, place = jax.tree.map(lambda x: x[stay], (seats.rows, seats.place))
  slot = seats.slot.at[times, place].set(
      jnp.arange(count, dtype=jnp.int32), mode='drop')
  return Seats(rows, place, seats.next, slot, seats.since,
               cache_layers.take(seats.cache, stay))


def note(record: Drawn, drawn: Drawn, step: Array) -> Drawn:
  """Records what one step drew in the first slots; one shard.

  Args:
    record: of [steps, S].
    drawn: of the S or fewer slots that there are now.
    step: i32[].

  Returns:
    The record.
  """
  def put(buffer, new):
    start = (step, *[jnp.zeros((), jnp.int32)] * new.ndim)
    return jax.lax.dynamic_update_slice(buffer, new[None], start)

  return jax.tree.map(put, record, drawn)


def by_row(first: Drawn, record: Drawn, slot: Array, since: Array,
           halved: Array, *, limit: int) -> Drawn:
  """Puts together by row what was recorded by step and slot; one shard.

  Args:
    first: [B], of each row.
    record: [steps, S], of what came after.
    slot: i32[H, B], as in `Seats`.
    since: i32[B], as in `Seats`.
    halved: i32[H - 1], steps of the loop before which the slots were halved.
    limit: M.

  Returns:
    [B, M]; of no meaning after a row's end.
  """
  steps, slots = record.token.shape
  step = since[:, None] + jnp.arange(limit - 1)[None]
  where = slot[0, :, None]
  for moved, then in zip(halved, slot[1:], strict=True):
    where = jnp.where(step < moved, where, then[:, None])
  index = jnp.minimum(step, steps - 1) * slots + where
  return jax.tree.map(
      lambda x, y: jnp.concatenate(
          [x[:, None], y.reshape(steps * slots, *y.shape[2:])[index]], axis=1),
      first, record)


def shards_of(slots: int, prompts: int) -> int:
  """Shards of the rows that can have slots and prompts of their own.

  Args:
    slots: S, of all shards.
    prompts: that are read at a time, of all shards.

  Returns:
    D of the mesh in context, or 1 where it does not divide both.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  auto = {name for name, kind in zip(mesh.axis_names, mesh.axis_types)
          if kind == jax.sharding.AxisType.Auto}
  shards = math.prod(mesh.shape[axis] for axis in _ROWS if axis in auto)
  return shards if slots % shards == prompts % shards == 0 else 1


def on_shards(function, shards: int, in_specs, out_specs):
  """The function on each shard of the rows by itself.

  Args:
    function: of one shard.
    shards: D, from `shards_of`; 1 leaves the function as it is.
    in_specs: of its arguments, as `jax.shard_map` takes them.
    out_specs: of its result.

  Returns:
    The function of all shards.
  """
  if shards == 1:
    return function
  return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs,
                       axis_names=set(_ROWS), check_vma=False)
