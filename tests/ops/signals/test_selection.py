"""Subsets of largest variance against all subsets."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from policyopt import ops

ROWS = 8
few = settings(max_examples=25, deadline=None)
numbers = st.lists(
    st.floats(-3, 3, width=32) | st.sampled_from([0., 1.]), min_size=ROWS,
    max_size=ROWS)
ids_of = st.lists(st.integers(-1, 2), min_size=ROWS, max_size=ROWS)
counts_of = st.lists(st.integers(0, ROWS + 1), min_size=ROWS, max_size=ROWS)
select = jax.jit(ops.max_variance_rows)


def _groups(ids):
  return [(g, np.flatnonzero(ids == g)) for g in set(ids.tolist()) - {-1}]


@few
@given(numbers, ids_of, counts_of)
def test_no_subset_of_a_group_varies_more(x, ids, count):
  x, ids, count = np.array(x, np.float32), np.array(ids), np.array(count)
  chosen = np.asarray(select(x, ids, count))
  assert not chosen[ids < 0].any()
  for group, rows in _groups(ids):
    size = np.clip(count[group], 1, len(rows))
    ours = rows[chosen[rows]]
    assert len(ours) == size
    best = max(np.var(x[list(subset)].astype(np.float64))
               for subset in itertools.combinations(rows, size))
    variance = np.var(x[ours].astype(np.float64))
    np.testing.assert_allclose(variance, best, rtol=1e-4, atol=1e-4)
    if size > 1:
      # Subsets have the group's sample variance on average, so the best of
      # them has at least that; of the population's this would not be true.
      sample = np.var(x[rows].astype(np.float64), ddof=1)
      assert variance * size / (size - 1) >= sample - 1e-4


@few
@given(numbers, ids_of, counts_of)
def test_what_is_left_out_is_one_block_of_the_sorted_group(x, ids, count):
  # What differs by less than the rounding of the largest is equal.
  x = np.array(x, np.float32).round(3)
  ids, count = np.array(ids), np.array(count)
  chosen = np.asarray(select(x, ids, count))
  for _, rows in _groups(ids):
    out = ~chosen[rows[np.argsort(x[rows], kind='stable')]]
    places = np.flatnonzero(out)
    assert len(places) == 0 or places[-1] - places[0] == len(places) - 1


@few
@given(numbers, st.integers(1, ROWS), st.permutations(range(ROWS)))
def test_order_of_rows_and_names_of_groups(x, count, order):
  # Sums of different powers: no two subsets vary alike.
  x = np.array(x, np.float32) + np.arange(ROWS) ** 2
  ids, order = np.zeros(ROWS, np.int32), np.array(order)
  plain = np.asarray(select(x, ids, np.full(ROWS, count)))
  moved = np.asarray(select(x[order], ids + 5, np.full(ROWS, count)))
  np.testing.assert_allclose(
      np.var(x[order][moved]), np.var(x[plain]), rtol=1e-4)


@few
@given(numbers, ids_of, counts_of)
def test_rows_of_no_group_change_nothing(x, ids, count):
  x, ids, count = np.array(x, np.float32), np.array(ids), np.array(count)
  dirty = np.where(ids < 0, np.nan, x).astype(np.float32)
  np.testing.assert_array_equal(
      select(dirty, ids, count), select(x, ids, count))


def test_everything_is_kept_when_asked_for():
  ids = jnp.array([0, 1, 1, 1, 0, 2, -1, 2])
  kept = select(jnp.arange(8.), ids, jnp.full(8, 8))
  assert kept.tolist() == (ids >= 0).tolist()


def test_equal_entries_leave_the_first_rows():
  kept = select(jnp.full(8, .3), jnp.zeros(8, jnp.int32), jnp.full(8, 3))
  assert kept.tolist() == [True] * 3 + [False] * 5


def test_two_levels_are_split_evenly():
  x = jnp.array([0., 1., 1., 0., 0., 1., 0., 0.])
  kept = np.asarray(select(x, jnp.zeros(8, jnp.int32), jnp.full(8, 4)))
  assert sorted(np.asarray(x)[kept].tolist()) == [0, 0, 1, 1]


def test_small_groups_among_many_lose_no_digits():
  rng = np.random.default_rng(0)
  groups, size = 1000, 4
  x = rng.normal(size=(groups, size)).astype(np.float32)
  ids = np.repeat(np.arange(groups), size)
  kept = np.asarray(select(
      x.reshape(-1), ids, np.full(groups * size, 2))).reshape(groups, size)
  spread = np.where(kept, x, -np.inf).max(1) - np.where(kept, x, np.inf).min(1)
  np.testing.assert_allclose(spread, np.ptp(x, axis=1), rtol=1e-6)


def test_the_variance_of_each_split():
  x, ids = jnp.array([0., 1., 5., 9., 7.]), jnp.array([0, 0, 0, 0, -1])
  variances = ops.extreme_variances(x, ids, jnp.full(5, 2))
  expected = [np.var([0, 1]), np.var([0, 9]), np.var([5, 9]), -1, -1]
  np.testing.assert_allclose(variances, expected, rtol=1e-5)
