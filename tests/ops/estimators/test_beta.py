"""The Beta normalisation: its fit, its limits, and over many devices."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from policyopt import ops

SHARDS, ROWS = 8, 6
few = settings(max_examples=20, deadline=None)
normalize = jax.jit(lambda rewards, ids: ops.beta_normalize(rewards, ids)[0])
seeds = st.integers(0, 2**31)


def _batch(seed=0, graded=False):
  """Rewards and ids [SHARDS, ROWS]; no group reaches across shards."""
  rng = np.random.default_rng(seed)
  easy = rng.uniform(size=(SHARDS, ROWS))
  ids = rng.integers(-1, ROWS, (SHARDS, ROWS)) // 2 * 2
  chance = np.take_along_axis(easy, np.maximum(ids, 0), 1)
  rewards = (rng.uniform(size=ids.shape) < chance).astype(np.float32)
  if graded:
    rewards = np.clip(chance + .3 * rng.normal(size=ids.shape), 0, 1)
  return rewards.astype(np.float32), ids.astype(np.int32)


def _whole(rewards, ids):
  """The same batch in one piece."""
  first = ROWS * np.arange(SHARDS)[:, None]
  return rewards.reshape(-1), np.where(ids < 0, -1, ids + first).reshape(-1)


def _loop(rewards, ids):
  """The published steps, one prompt after the other."""
  groups = [np.flatnonzero(ids == name) for name in set(ids[ids >= 0])]
  groups = [rows for rows in groups if len(rows) > 1]
  p = np.array([rewards[rows].astype(np.float64).mean() for rows in groups])
  mean, variance = p.mean(), p.var(ddof=1)
  c = mean * (1 - mean) / variance - 1
  alpha, beta = max(1, 1 + c * mean / 3), max(1, 1 + c * (1 - mean) / 3)
  advantages = np.zeros(len(rewards))
  for rows, rate in zip(groups, p):
    density = scipy.stats.beta(alpha, beta).pdf(rate)
    weight = 1e6 if density == 0 else min(1 / density, 1e6)
    advantages[rows] = weight * (rewards[rows] - rate)
  return advantages, alpha, beta


@few
@given(seeds, st.booleans())
def test_equals_a_loop(seed, graded):
  rewards, ids = _whole(*_batch(seed, graded))
  expected, alpha, beta = _loop(rewards, ids)
  advantages, fit = jax.jit(ops.beta_normalize)(rewards, ids)
  np.testing.assert_allclose(fit.alpha, alpha, rtol=1e-4)
  np.testing.assert_allclose(fit.beta, beta, rtol=1e-4)
  np.testing.assert_allclose(advantages, expected, rtol=1e-3, atol=1e-5)


def _mesh():
  return jax.make_mesh(
      (SHARDS,), ('shard',), axis_types=(jax.sharding.AxisType.Auto,))


def _five_ways(kernel, rewards, ids):
  """name -> what `kernel(rewards, ids, axis_name)` makes of the batch."""
  local = functools.partial(kernel, axis_name='shard')
  rows = jax.sharding.PartitionSpec('shard')
  flat = rewards.reshape(-1), ids.reshape(-1)
  whole = _whole(rewards, ids)
  sharded = jax.device_put(whole, jax.sharding.NamedSharding(_mesh(), rows))
  return {
      'eager': kernel(*whole),
      'jit': jax.jit(kernel)(*whole),
      'vmap': jax.vmap(local, axis_name='shard')(rewards, ids),
      'pmap': jax.pmap(local, axis_name='shard')(rewards, ids),
      'shard_map': jax.jit(jax.shard_map(
          local, mesh=_mesh(), in_specs=(rows, rows), out_specs=rows))(*flat),
      'sharded jit': jax.jit(kernel)(*sharded)}


def _advantages(rewards, ids, axis_name=None):
  return ops.beta_normalize(rewards, ids, axis_name=axis_name)[0]


def _competence(rewards, ids, axis_name=None, over='rows'):
  omega = ops.competence(rewards, ids, over=over, axis_name=axis_name)
  return jnp.broadcast_to(omega, rewards.shape)


@pytest.mark.parametrize('kernel', [
    _advantages, _competence, functools.partial(_competence, over='prompts')])
def test_many_devices_equal_one(kernel):
  found = _five_ways(kernel, *_batch(graded=True))
  expected = np.asarray(found.pop('eager')).reshape(-1)
  assert np.abs(expected).max() > .1
  for name, ours in found.items():
    np.testing.assert_allclose(
        np.asarray(ours).reshape(-1), expected, rtol=1e-5, atol=1e-6,
        err_msg=name)


def test_without_the_axis_every_shard_is_a_batch_of_its_own():
  rewards, ids = _batch(graded=True)
  mapped = jax.jit(jax.vmap(_advantages))(rewards, ids)
  for shard in range(SHARDS):
    np.testing.assert_allclose(
        mapped[shard], normalize(rewards[shard], ids[shard]), rtol=1e-5)
  together = jax.jit(jax.vmap(functools.partial(
      _advantages, axis_name='shard'), axis_name='shard'))(rewards, ids)
  assert np.abs(mapped - together).max() > 1e-3


@few
@given(seeds)
def test_ids_are_only_names_and_rows_have_no_order(seed):
  rewards, ids = _whole(*_batch(seed, graded=True))
  rng = np.random.default_rng(seed)
  order, names = rng.permutation(len(ids)), rng.permutation(len(ids))
  renamed = np.where(ids < 0, -1, names[ids])
  # A row of no group may hold anything.
  loud = np.where(ids < 0, np.nan, rewards).astype(np.float32)
  np.testing.assert_allclose(
      normalize(loud[order], renamed[order]), normalize(rewards, ids)[order],
      rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('rewards, ids, expected', [
    ([1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2], [.5, -.5] * 3),  # equal rates
    ([1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2], [0] * 6),     # all right or wrong
    ([1, 1, 1, 0, 1, 0], [0] * 6, [1/3, 1/3, 1/3, -2/3, 1/3, -2/3]),  # one
    ([1, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5], [0] * 6),     # groups of one
    ([1, 0, 1, 0, 0, 1], [-1] * 6, [0] * 6)])              # no group
def test_what_tells_nothing_of_a_distribution_is_not_weighed(
    rewards, ids, expected):
  out, fit = ops.beta_normalize(jnp.array(rewards, float), jnp.array(ids))
  np.testing.assert_allclose(out, expected, rtol=1e-5)
  assert float(fit.alpha) == float(fit.beta) == 1
  assert np.isfinite(np.stack(fit)).all()


def test_rates_that_differ_by_rounding_alone_are_equal():
  rewards = jnp.asarray(np.tile([.1, .3], 20), jnp.float32)
  ids = np.repeat([0, 1, 2], [6, 14, 20])
  out, fit = ops.beta_normalize(rewards, jnp.asarray(ids))
  assert float(fit.alpha) == 1
  np.testing.assert_allclose(np.abs(out), .1, rtol=1e-4)


def test_groups_of_one_follow_their_rule():
  rewards = jnp.array([1., 1., 0., 0., 0.])
  ids = jnp.array([0, 1, 1, 2, 2])
  zero = ops.beta_normalize(rewards, ids)[0]
  raw, fit = ops.beta_normalize(
      rewards, ids, singleton='raw', max_weight=50.)
  assert float(zero[0]) == 0
  assert float(fit.mean) == pytest.approx(.5 / 3)
  # It counts with a rate of 0, where the Beta density vanishes or is 1 / β.
  assert 0 < float(raw[0]) <= 50


@functools.partial(jax.jit, static_argnames=('singleton', 'shape'))
@functools.partial(jax.value_and_grad, has_aux=True)
def _squares(rewards, ids, **kw):
  out = ops.beta_normalize(rewards, ids, **kw)[0]
  return jnp.sum(jnp.square(out)), out


@pytest.mark.parametrize('rewards', [
    [1., 0., 1., 1.], [1e30, -1e30, 0., 1.], [.1] * 4, [7., 8., 9., 10.]])
def test_gradients_are_finite(rewards):
  ids = jnp.array([0, 0, 1, 1])

  for kw in ({}, dict(singleton='raw'), dict(shape=1.5)):
    rewards = jnp.asarray(rewards)
    (_, out), _ = _squares(rewards, ids, **kw)
    assert np.isfinite(out).all()
    _, gradient = _squares(rewards / 1e20, ids, **kw)
    assert np.isfinite(gradient).all()


def test_extreme_parameters_give_finite_weights():
  rates = jnp.array([0., 1e-30, .5, 1 - 1e-7, 1., -3., 4.])
  for alpha, beta in ((1., 1.), (1., 1e8), (1e8, 1.), (1e8, 1e8), (3., 1.)):
    weights = np.asarray(ops.beta_weights(rates, alpha, beta))
    assert np.isfinite(weights).all()
    assert (weights >= 0).all() and (weights <= 1e6).all()


@pytest.mark.parametrize('kw, match', [
    (dict(reward_max=0.), 'reward_max is 0'), (dict(shape=.5), 'shape is 0.5'),
    (dict(singleton='one'), "singleton is 'one'"),
    (dict(max_weight=0.), 'max_weight is 0')])
def test_wrong_arguments(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.beta_normalize(jnp.zeros(2), jnp.zeros(2, int), **kw)
