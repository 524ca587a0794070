"""Who sits where: moving rows into fewer slots, and finding what they drew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import cache as kv_cache
from policyopt.models import cache_layers
from policyopt.rollouts import seats
from policyopt.rollouts.draw import Drawn

SLOTS, ROWS = 4, 6
LEFT, PLACE = (1, 3), (5, 2, 0, 4)


@pytest.fixture(params=['plain', 'layers', 'tiles'])
def sitting(request, config):
  """Rows 2 and 4 are left, in slots 1 and 3; each number tells its slot."""
  mark = jnp.arange(SLOTS)
  cache = kv_cache.init_cache(config, SLOTS, 4)
  cache = jax.tree.map(lambda x: x + mark[None, None, :, None, None], cache)
  if request.param != 'plain':
    width = 2 if request.param == 'tiles' else None
    cache = cache_layers.by_layer(cache, width)
  rows = seats.Rows(jnp.stack([mark, mark], axis=1), *[mark] * 4,
                    jnp.array([slot not in LEFT for slot in range(SLOTS)]))
  slot = jnp.zeros((3, ROWS), jnp.int32).at[0, jnp.array(PLACE)].set(mark)
  return seats.Seats(rows, jnp.array(PLACE), jnp.zeros(1, jnp.int32), slot,
                     jnp.zeros(ROWS, jnp.int32), cache)


def test_those_who_are_left_take_all_they_have_along(sitting):
  moved = seats.halve(sitting, times=2)
  assert moved.rows.token.tolist() == list(LEFT)
  assert moved.rows.key.tolist() == [[slot, slot] for slot in LEFT]
  assert not moved.rows.done.any()
  assert moved.place.tolist() == [PLACE[slot] for slot in LEFT] == [2, 4]
  # Row 2 sits in slot 0 now, and row 4 in slot 1.
  np.testing.assert_array_equal(moved.slot[:2], sitting.slot[:2])
  assert moved.slot[2].tolist() == [0, 0, 0, 0, 1, 0]
  if isinstance(moved.cache, kv_cache.Cache):
    held = [x[:, :, slot] for x in jax.tree.leaves(moved.cache)
            for slot in range(2)]
  else:
    held = [part for x in jax.tree.leaves(moved.cache)
            for part in x.reshape(2, -1)]
  for part, slot in zip(held, 2 * len(held) * LEFT):
    assert (part == slot).all()


def test_where_nobody_sat_nothing_is_noted(sitting):
  empty = jnp.full(SLOTS, ROWS)
  rows = sitting.rows._replace(done=empty > 0)
  moved = seats.halve(sitting._replace(rows=rows, place=empty), times=1)
  np.testing.assert_array_equal(moved.slot, sitting.slot)


def test_tokens_are_found_after_every_move():
  """Every row draws 100 times its number and its step, in the slots told."""
  limit, steps = 6, 5
  slot = jnp.array([[3, 2, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
  since, halved = jnp.array([0, 0, 0, 1]), jnp.array([2, 4])
  length = [6, 5, 3, 2]
  record = np.full((steps, 4), -1)
  for row in range(4):
    for step in range(since[row], since[row] + length[row] - 1):
      now = slot[int((step >= halved).sum()), row]
      assert record[step, now] == -1
      record[step, now] = 100 * row + step + 1 - since[row]
  drawn = lambda x: Drawn(x, x / 2, x / 3, x / 4, None)
  out = seats.by_row(
      drawn(100 * jnp.arange(4)), drawn(jnp.asarray(record)), slot, since,
      halved, limit=limit)
  for row in range(4):
    want = 100 * row + jnp.arange(length[row])
    assert out.token[row, :length[row]].tolist() == want.tolist()
    np.testing.assert_array_equal(out.entropy[row, :length[row]], want / 4)


def test_fewer_slots_are_noted_in_the_first():
  record = Drawn(*[jnp.zeros((3, 4), x) for x in (int, *[float] * 3)], None)
  ones = Drawn(*[jnp.ones(2, x.dtype) for x in record[:4]], None)
  out = seats.note(record, ones, jnp.int32(1))
  for x in out[:4]:
    np.testing.assert_array_equal(x, [[0] * 4, [1, 1, 0, 0], [0] * 4])
