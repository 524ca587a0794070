"""Ranks and tops against numpy."""

from fractions import Fraction
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops
from policyopt.ops.signals import ordering

ROWS, COLUMNS = 4, 6
few = settings(max_examples=20, deadline=None)
ids_of = st.lists(st.integers(-2, 5), min_size=9, max_size=9)
# Ties are common.
numbers = st.lists(st.integers(-3, 3), min_size=9, max_size=9)
cells = st.lists(st.integers(-3, 3), min_size=ROWS * COLUMNS,
                 max_size=ROWS * COLUMNS)
masks = st.lists(st.booleans(), min_size=ROWS * COLUMNS,
                 max_size=ROWS * COLUMNS)
top_fraction = jax.jit(ops.top_fraction)
fractions = st.sampled_from(['0', '.05', '.2', '.3', '.55', '.7', '1'])


def _grid(x, kind):
  return np.array(x, kind).reshape(ROWS, COLUMNS)


@few
@given(numbers, ids_of)
def test_ranks_equal_a_stable_sort(x, ids):
  x, ids = np.array(x, np.float32), np.array(ids)
  expected = np.full(9, -1)
  for group in set(ids.tolist()):
    if group >= 0:
      rows = np.flatnonzero(ids == group)
      expected[rows[np.argsort(x[rows], kind='stable')]] = np.arange(len(rows))
  ours = ops.rank_in_group(jnp.array(x), jnp.array(ids))
  np.testing.assert_array_equal(ours, expected)


def test_ranks_ignore_what_is_in_no_group():
  x = jnp.array([jnp.nan, 2., 1., jnp.nan])
  assert ops.rank_in_group(x, jnp.array([-1, 3, 3, 9])).tolist() == [
      -1, 1, 0, -1]


def test_groups_lie_one_after_the_other():
  order, start, size = ordering.sorted_groups(
      jnp.array([3., 1., 2., 0.]), jnp.array([1, 1, -1, 0]))
  assert order.tolist() == [3, 1, 0, 2]
  assert start.tolist()[:2] == [0, 1] and size.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize('text', ['0', '.05', '.1', '.2', '.3', '.55', '1'])
def test_counts_are_those_of_exact_arithmetic(text):
  sizes = np.arange(300)
  expected = [min(n, max(1, math.ceil(Fraction(text) * n))) for n in sizes]
  np.testing.assert_array_equal(
      ops.fraction_count(float(text), jnp.asarray(sizes)), expected)


def test_all_of_very_many_are_all():
  many = 2**24 + 1  # The first integer that float32 does not have.
  assert int(ops.fraction_count(1., jnp.int32(many))) == many


@few
@given(cells, masks, fractions)
def test_the_top_equals_a_stable_sort(score, mask, fraction):
  score, mask = _grid(score, np.float32), _grid(mask, bool)
  inside = np.flatnonzero(mask)
  order = inside[np.argsort(-score.reshape(-1)[inside], kind='stable')]
  count = max(1, math.ceil(Fraction(fraction) * len(inside)))
  expected = np.zeros(mask.size, bool)
  expected[order[:count]] = True
  ours = top_fraction(
      jnp.where(mask, score, jnp.nan), jnp.array(mask), float(fraction))
  np.testing.assert_array_equal(ours.reshape(-1), expected)
  # Padding moves nothing.
  wide = np.pad(mask, ((0, 2), (0, 3)))
  padded = top_fraction(
      jnp.pad(jnp.array(score), ((0, 2), (0, 3)), constant_values=9.),
      jnp.array(wide), float(fraction))
  np.testing.assert_array_equal(padded[:ROWS, :COLUMNS], ours)
  assert not padded[ROWS:].any() and not padded[:, COLUMNS:].any()


def test_infinite_scores_are_scores():
  score = jnp.array([-jnp.inf, 1., jnp.inf, 5.])
  mask = jnp.array([True, True, True, False])
  assert ops.top_fraction(score, mask, 1.).tolist() == mask.tolist()
  assert ops.top_fraction(score, mask, .3).tolist() == [
      False, False, True, False]


def _total_of_lowest(x, mask, fraction):
  lowest = ops.lowest_mean(x, mask, fraction)
  return jnp.sum(lowest), lowest


_lowest = jax.jit(
    jax.value_and_grad(_total_of_lowest, has_aux=True), static_argnums=2)


@few
@given(cells, masks, st.sampled_from([.2, .5, 1.]))
def test_the_mean_of_the_lowest(x, mask, fraction):
  x, mask = _grid(x, np.float32), _grid(mask, bool)
  expected = np.zeros(ROWS)
  for row in range(ROWS):
    values = np.sort(x[row][mask[row]])
    if len(values):
      expected[row] = values[:max(1, math.ceil(fraction * len(values)))].mean()
  dirty = jnp.where(mask, x, jnp.nan)
  (_, ours), slope = _lowest(dirty, jnp.array(mask), fraction)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
  assert np.isfinite(slope).all()
  np.testing.assert_allclose(slope.sum(1), mask.any(1), rtol=1e-5)
