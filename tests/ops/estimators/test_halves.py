"""Halves of groups against loops over groups."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS = 9
few = settings(max_examples=20, deadline=None)
ids_of = st.lists(st.integers(-1, 2), min_size=ROWS, max_size=ROWS)
numbers = st.lists(
    st.floats(-10, 10, width=32), min_size=ROWS, max_size=ROWS)
# Ties are common.
metrics_of = st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS)


@jax.jit
def _compare(rewards, metric, ids, mu, alpha, offset):
  high = ops.upper_half(metric, ids)
  return ops.conditional_advantages(
      rewards, high, ids, mu, alpha=alpha, offset=offset, scaled='low')


def _arrays(*lists):
  return tuple(jnp.asarray(x, jnp.float32) for x in lists[:-1]) + (
      jnp.asarray(lists[-1], jnp.int32),)


def _loop(rewards, metric, ids, mu, alpha, offset):
  expected = np.zeros(ROWS)
  for group in set(ids.tolist()) - {-1}:
    rows = np.flatnonzero(ids == group)
    rows = rows[np.argsort(metric[rows], kind='stable')]
    low, high = rows[:len(rows) // 2], rows[len(rows) // 2:]
    if not len(low):
      continue
    lower, upper = rewards[low], rewards[high]
    expected[high] = mu * (upper - alpha * lower.mean() + offset) + (
        1 - mu) * (upper - upper.mean())
    expected[low] = mu * (alpha * lower - upper.mean() - offset) + (
        1 - mu) * (lower - lower.mean())
  return expected


@few
@given(numbers, metrics_of, ids_of, st.floats(0, 1),
       st.sampled_from([1., .5]), st.sampled_from([0., .25]))
def test_equals_a_loop(rewards, metric, ids, mu, alpha, offset):
  rewards, metric, ids = (np.array(x) for x in (rewards, metric, ids))
  np.testing.assert_allclose(
      _compare(*_arrays(rewards, metric, ids), mu, alpha, offset),
      _loop(rewards, metric, ids, mu, alpha, offset), rtol=1e-4, atol=1e-4)


@few
@given(numbers, numbers)
def test_even_halves_and_no_preference_are_the_centred_reward(rewards, metric):
  ids = jnp.array([0, 0, 1, 1, 1, 1, 0, 0, -1])
  rewards, metric, _ = _arrays(rewards, metric, ids)
  np.testing.assert_allclose(
      _compare(rewards, metric, ids, .5, 1., 0.), ops.centre(rewards, ids),
      rtol=1e-4, atol=1e-4)


@few
@given(numbers, numbers, ids_of)
def test_sums_over_a_group(rewards, metric, ids):
  rewards, metric, ids = _arrays(rewards, metric, ids)
  inter, intra = (
      ops.segment_sum(_compare(rewards, metric, ids, mu, 1., 0.), ids)
      for mu in (1., 0.))
  high = ops.upper_half(metric, ids)
  low_mean, high_mean = ops.half_means(rewards, high, ids)
  gap = ops.segment_level(high_mean - low_mean, ids)
  size = ops.segment_count(ids)
  np.testing.assert_allclose(intra, jnp.zeros(ROWS), atol=1e-4)
  # The upper half of an odd group has one row more.
  np.testing.assert_allclose(
      inter, jnp.where(size > 1, gap * (size % 2), 0), atol=1e-3)


@few
@given(numbers, metrics_of, ids_of)
def test_both_comparisons_differ_by_the_gap_of_the_halves(
    rewards, metric, ids):
  rewards, metric, ids = _arrays(rewards, metric, ids)
  inter, intra = (_compare(rewards, metric, ids, mu, 1., 0.) for mu in (1., 0.))
  high = ops.upper_half(metric, ids)
  low_mean, high_mean = ops.half_means(rewards, high, ids)
  gap = jnp.where(high, 1, -1) * (high_mean - low_mean)
  alone = ops.gather(ops.segment_count(ids), ids) <= 1
  np.testing.assert_allclose(
      inter - intra, jnp.where(alone, 0, gap), atol=1e-4)


@few
@given(numbers, metrics_of, ids_of)
def test_only_the_order_of_the_metric_counts(rewards, metric, ids):
  rewards, metric, ids = _arrays(rewards, metric, ids)
  np.testing.assert_array_equal(
      _compare(rewards, metric, ids, .3, 1., 0.),
      _compare(rewards, jnp.exp(3 * metric) - 7, ids, .3, 1., 0.))


@few
@given(numbers, numbers, ids_of, st.permutations(range(ROWS)))
def test_rows_in_any_order_and_groups_of_any_name(rewards, metric, ids, order):
  # No two rows are alike.
  metric = np.array(metric, np.float32) + 100 * np.argsort(order)
  rewards, metric, ids = _arrays(rewards, metric, ids)
  order = jnp.array(order)
  whole = _compare(rewards, metric, ids, .3, .9, .1)
  moved = _compare(rewards[order], metric[order], jnp.where(
      ids < 0, -1, 7 - ids)[order], .3, .9, .1)
  np.testing.assert_allclose(moved, whole[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('value', [.1, -7e-8, 1e30])
def test_equal_rewards_give_exactly_zero(value):
  ids = jnp.array([0, 0, 0, 1, 1, 1, 1, 2, -1])
  out = _compare(jnp.full(ROWS, value), jnp.arange(9.), ids, .7, 1., 0.)
  assert (np.asarray(out) == 0).all()


@pytest.mark.parametrize('singleton, expected', [('zero', 0.), ('raw', 2.05)])
def test_groups_of_one(singleton, expected):
  # Raw: both means are 0, so ½·(2 + 0.1) + ½·2.
  out = ops.conditional_advantages(
      jnp.array([2.]), jnp.array([True]), jnp.array([0]), .5, alpha=1.,
      offset=.1, singleton=singleton)
  assert float(out[0]) == pytest.approx(expected)


def test_nothing_outside_groups_is_read():
  rewards, ids = jnp.array([jnp.nan, 1., 0.]), jnp.array([-1, 0, 0])
  gradient = jax.grad(lambda x: _compare(
      x, jnp.array([jnp.nan, 2., 1.]), ids, 1., 1., 0.)[1])(rewards)
  np.testing.assert_allclose(gradient, [0., 1., -1.])


@pytest.mark.parametrize('kw, match', [
    (dict(scaled='upper'), "scaled is 'upper'"),
    (dict(singleton='one'), "singleton is 'one'")])
def test_wrong_rules_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.conditional_advantages(
        jnp.ones(2), jnp.ones(2, bool), jnp.zeros(2, int), 1., **kw)
