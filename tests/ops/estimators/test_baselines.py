"""Baselines of a group against loops, and what must hold for any of them."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS = 7
LENGTHS = np.array([3, 0, 1, 9, 4, 4, 2])
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
ids_of = st.lists(st.integers(-1, ROWS - 1), min_size=ROWS, max_size=ROWS)

# (rewards, ids) -> f32[B]; what a group of one gets is 0 in all of them.
KERNELS = {
    'length': lambda r, ids: ops.length_weighted_centre(
        r, jnp.asarray(LENGTHS), ids),
    'mean': lambda r, ids: ops.divide_by_mean(r, ids, eps=.5),
    'mean/divide': lambda r, ids: ops.divide_by_mean(
        r, ids, nonpositive='divide'),
    'margin': ops.best_margin,
    'margin/none': functools.partial(ops.best_margin, std='none'),
    'others': ops.leave_one_out_standardize,
    'others/std': ops.others_std,
    'channels': lambda r, ids: ops.standardize_channels(
        jnp.stack([r, r * r], 1), ids, jnp.array([1., .5])),
}
SHIFT_FREE = ('length', 'margin', 'margin/none', 'others', 'others/std')
every = pytest.mark.parametrize('name', KERNELS)
compiled = {name: jax.jit(kernel) for name, kernel in KERNELS.items()}
graded = {
    name: jax.jit(jax.value_and_grad(
        lambda r, ids, kernel=kernel: jnp.sum(kernel(r, ids))))
    for name, kernel in KERNELS.items()}


def _draw(seed, levels=4):
  """Rewards with many ties."""
  return np.random.default_rng(seed).integers(
      -1, levels, ROWS).astype(np.float32)


def _groups(ids):
  return [np.flatnonzero(ids == g) for g in range(ROWS) if (ids == g).any()]


@few
@given(seeds, ids_of)
def test_kernels_equal_loops(seed, ids):
  rewards, ids = _draw(seed), np.array(ids)
  expected = {name: np.zeros(ROWS) for name in KERNELS}
  for m in _groups(ids):
    r, n = rewards[m].astype(np.float64), LENGTHS[m]
    if len(m) == 1:
      continue
    if n.sum():
      expected['length'][m] = r - (n * r).sum() / n.sum()
    if r.mean() > 0:
      expected['mean'][m] = (r - r.mean()) / (r.mean() + .5)
    expected['mean/divide'][m] = (r - r.mean()) / (r.mean() + 1e-6)
    best = np.argmax(r)
    margin = r[best] - np.max(np.delete(r, best))
    expected['margin/none'][m[best]] = margin
    expected['margin'][m[best]] = margin / (r.std(ddof=1) + 1e-6)
    for i, row in enumerate(m):
      others = np.delete(r, i)
      spread = others.std(ddof=1) if len(others) > 1 else 0.
      expected['others/std'][row] = spread
      expected['others'][row] = (r[i] - others.mean()) / (
          spread + 1e-6 if spread else 1.)
    for weight, x in ((1., r), (.5, r * r)):
      expected['channels'][m] += weight * (x - x.mean()) / (
          x.std(ddof=1) + 1e-6)
  for name, kernel in compiled.items():
    ours = np.asarray(kernel(jnp.asarray(rewards), jnp.asarray(ids)))
    np.testing.assert_allclose(
        ours, expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


@every
@few
@given(seeds, ids_of, st.permutations(range(ROWS)))
def test_rows_come_in_any_order_and_ids_are_names(name, seed, ids, order):
  if name == 'length':
    return  # Its lengths are bound to the rows here; the loop covers it.
  rewards, ids, order = _draw(seed), np.array(ids), np.array(order)
  plain = compiled[name](jnp.asarray(rewards), jnp.asarray(ids))
  renamed = np.append(order, -1)[ids[order]]
  moved = compiled[name](jnp.asarray(rewards[order]), jnp.asarray(renamed))
  np.testing.assert_allclose(moved, plain[order], rtol=1e-4, atol=1e-5)


@every
@few
@given(seeds, st.floats(-50, 50, width=32))
def test_flat_groups_and_strangers_get_exactly_zero(name, seed, level):
  rewards = np.full(ROWS, level, np.float32)
  rewards[-1] = 1e4
  ids = np.random.default_rng(seed).integers(0, 3, ROWS)
  ids[-1] = -1
  out = compiled[name](jnp.asarray(rewards), jnp.asarray(ids))
  assert (np.asarray(out) == 0).all()


@pytest.mark.parametrize('name', SHIFT_FREE)
@few
@given(seeds, ids_of)
def test_a_constant_changes_nothing(name, seed, ids):
  rewards = _draw(seed)
  plain, shifted = (compiled[name](jnp.asarray(r), jnp.asarray(ids))
                    for r in (rewards, rewards + 64))
  np.testing.assert_allclose(shifted, plain, rtol=1e-4, atol=1e-4)


@every
@pytest.mark.parametrize('rewards', [
    np.zeros(ROWS), np.arange(ROWS) * 1e-30, np.arange(ROWS) * 1e15,
    np.array([0, 0, 0, 1, 0, 0, 0.]), np.array([1, -1, 0, 0, 2, -2, 0.])])
@pytest.mark.parametrize('ids', [
    np.zeros(ROWS, int), np.arange(ROWS), np.full(ROWS, -1)])
def test_values_and_gradients_are_finite(name, rewards, ids):
  value, gradient = graded[name](
      jnp.asarray(rewards, jnp.float32), jnp.asarray(ids))
  assert np.isfinite(value) and np.isfinite(gradient).all()


def test_nearly_equal_others_keep_their_spread():
  """One far row must not drown the spread of the others in rounding."""
  rewards = jnp.array([1e-4, 2e-4, 3e-4, 1.])
  spread = ops.others_std(rewards, jnp.zeros(4, int))
  assert float(spread[3]) == pytest.approx(1e-4, rel=1e-3)


def test_the_only_right_answer_is_not_divided():
  rewards = jnp.array([0., 0., 0., 1.])
  out = ops.leave_one_out_standardize(rewards, jnp.zeros(4, int))
  assert float(out[3]) == 1


@few
@given(seeds, ids_of)
def test_the_second_best_of_a_shared_best_is_the_best(seed, ids):
  rewards, ids = _draw(seed), np.array(ids)
  first, second, holds = map(np.asarray, ops.top_two(rewards, ids))
  for m in _groups(ids):
    ranked = np.sort(rewards[m])[::-1]
    assert (first[m] == ranked[0]).all()
    assert (second[m] == ranked[min(1, len(m) - 1)]).all()
    np.testing.assert_array_equal(holds[m], rewards[m] == ranked[0])
  assert not holds[ids < 0].any()


def test_the_scale_makes_up_for_flat_groups():
  rewards = jnp.array([1., 0., 1., 1., 0., 9.])
  ids = jnp.array([0, 0, 1, 1, 3, -1])
  assert float(ops.live_scale(rewards, ids)) == 5 / 2
  assert float(ops.live_scale(rewards, ids, 'nonzero')) == pytest.approx(5 / 3)
  assert float(ops.live_scale(0 * rewards, ids)) == 5
  assert float(ops.live_scale(rewards, jnp.full(6, -1))) == 0


def test_raw_groups_of_one_and_unknown_rules():
  rewards, ids = jnp.array([2., 1., 1.]), jnp.array([2, 0, 0])
  for out in (
      ops.divide_by_mean(rewards, ids, singleton='raw'),
      ops.leave_one_out_standardize(rewards, ids, singleton='raw'),
      ops.length_weighted_centre(
          rewards, jnp.ones(3), ids, singleton='raw')):
    assert out.tolist() == [2, 0, 0]
  with pytest.raises(ValueError, match="nonpositive 'zer'.*'zero'"):
    ops.divide_by_mean(rewards, ids, nonpositive='zer')
  with pytest.raises(ValueError, match="unknown by 'live'"):
    ops.live_scale(rewards, ids, 'live')


def test_a_negative_mean_turns_no_sign_unless_asked():
  rewards, ids = jnp.array([-1., -3.]), jnp.zeros(2, int)
  assert ops.divide_by_mean(rewards, ids).tolist() == [0, 0]
  turned = ops.divide_by_mean(rewards, ids, nonpositive='divide')
  assert turned[0] < 0 < turned[1]


@few
@given(seeds, st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))
def test_standardized_rows_have_mean_zero_and_spread_one(seed, where):
  rewards, where = _draw(seed, 9), np.array(where)
  out = np.asarray(ops.standardize_rows(rewards, jnp.asarray(where), eps=0.))
  assert (out[~where] == 0).all()
  if len(set(rewards[where])) > 1:
    assert out[where].mean() == pytest.approx(0, abs=1e-5)
    assert out[where].std(ddof=1) == pytest.approx(1, abs=1e-5)
  else:
    assert (out == 0).all()
