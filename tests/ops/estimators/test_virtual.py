"""Groups that virtual rollouts have joined, against plain statistics."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS = 9
few = settings(max_examples=20, deadline=None)
ids_of = st.lists(st.integers(-1, ROWS - 1), min_size=ROWS, max_size=ROWS)
rewards_of = st.lists(st.floats(-2, 2, width=16), min_size=ROWS, max_size=ROWS)
kinds = {
    (std, virtual): jax.jit(functools.partial(
        ops.virtual_standardize, std=std, virtual=virtual, eps=1e-2,
        reward_max=1.5))
    for std in ('sample', 'population') for virtual in (0, 1, 3)}


@few
@given(rewards_of, ids_of, st.sampled_from(sorted(kinds)))
def test_equals_statistics_of_the_joined_group(rewards, ids, kind):
  rewards, ids, (std, virtual) = np.array(rewards), np.array(ids), kind
  expected = np.zeros(ROWS)
  for group in set(ids[ids >= 0]):
    rows = np.flatnonzero(ids == group)
    joined = np.append(rewards[rows], [1.5] * virtual)
    ddof = int(std == 'sample')
    spread = joined.std(ddof=ddof) if len(joined) > ddof else 0
    expected[rows] = (rewards[rows] - joined.mean()) / (spread + 1e-2)
  ours = kinds[kind](rewards.astype(np.float32), ids)
  np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


@few
@given(rewards_of, ids_of, st.randoms())
def test_ids_are_only_names_and_rows_have_no_order(rewards, ids, random):
  rewards, ids = np.array(rewards, np.float32), np.array(ids)
  order, names = list(range(ROWS)), list(range(ROWS))
  random.shuffle(order)
  random.shuffle(names)
  kernel = kinds['sample', 1]
  renamed = np.where(ids < 0, -1, np.array(names)[ids])
  loud = np.where(ids < 0, np.nan, rewards)
  np.testing.assert_allclose(
      kernel(loud[order], renamed[order]),
      kernel(rewards, ids)[np.array(order)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('reward', [1., .1, -7e-8, 1e20])
@pytest.mark.parametrize('eps', [0., 1e-6])
def test_a_group_at_the_top_gets_exactly_zero(reward, eps):
  out = ops.virtual_standardize(
      jnp.full(7, reward), jnp.zeros(7, int), reward_max=reward, eps=eps)
  assert (np.asarray(out) == 0).all()


@pytest.mark.parametrize('singleton, expected', [
    ('virtual', -1 / np.sqrt(2)), ('zero', 0.), ('raw', -1.)])
def test_groups_of_one_follow_their_rule(singleton, expected):
  out = ops.virtual_standardize(
      jnp.array([-1., 0., 1.]), jnp.array([0, 1, 1]), eps=0.,
      singleton=singleton)
  assert float(out[0]) == pytest.approx(expected)


@pytest.mark.parametrize('virtual', [0, 1])
@pytest.mark.parametrize('rewards', [
    [.1] * 4, [1.] * 4, [0., 1., 0., 0.], [1e18, 0., 1., -1e18]])
def test_gradients_are_finite(rewards, virtual):
  def total(rewards):
    return jnp.sum(jnp.square(ops.virtual_standardize(
        rewards, jnp.array([0, 0, 1, -1]), virtual=virtual)))

  value, gradient = jax.value_and_grad(total)(jnp.asarray(rewards))
  assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize('kw, match', [
    (dict(virtual=-1), 'virtual is -1'),
    (dict(std='none'), "unknown std 'none'"),
    (dict(singleton='row'), "did you mean 'raw'")])
def test_wrong_arguments(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.virtual_standardize(jnp.zeros(2), jnp.zeros(2, int), **kw)
