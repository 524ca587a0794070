"""Several rewards of a row, weighed by their spread in the group."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

CHANNELS, ROWS = 3, 10
few = settings(max_examples=20, deadline=None)
kernels = {std: jax.jit(lambda r, ids, w, std=std: (
    ops.spread_weighted(r, ids, w, std=std, eps=1e-3),
    ops.spread_weights(r, ids, w, std=std, eps=1e-3)))
           for std in ('population', 'sample')}


def _batch(seed):
  rng = np.random.default_rng(seed)
  rewards = rng.normal(size=(CHANNELS, ROWS)).astype(np.float32)
  rewards[1] = rewards[1] > 0
  ids = rng.integers(-1, 4, ROWS)
  return rewards, ids, rng.uniform(size=CHANNELS).astype(np.float32)


@few
@given(st.integers(0, 2**31), st.sampled_from(['population', 'sample']))
def test_equals_a_loop(seed, std):
  rewards, ids, weights = _batch(seed)
  advantages, shares = kernels[std](rewards, ids, weights)
  expected = np.zeros(ROWS)
  for group in set(ids[ids >= 0]):
    rows = np.flatnonzero(ids == group)
    own = rewards[:, rows].astype(np.float64)
    ddof = int(std == 'sample')
    spread = own.std(1, ddof=ddof) if len(rows) > ddof else np.zeros(CHANNELS)
    total = (weights * spread).sum() + 1e-3
    expected[rows] = weights @ (own - own.mean(1, keepdims=True)) / total
    np.testing.assert_allclose(
        shares[group], weights * spread / total, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(advantages, expected, rtol=1e-3, atol=1e-4)


@few
@given(st.integers(0, 2**31))
def test_ids_are_only_names_and_rows_have_no_order(seed):
  rewards, ids, weights = _batch(seed)
  rng = np.random.default_rng(seed)
  order, names = rng.permutation(ROWS), rng.permutation(ROWS)
  loud = np.where(ids[None] < 0, np.nan, rewards).astype(np.float32)
  moved, shares = kernels['population'](
      loud[:, order], np.where(ids < 0, -1, names[ids])[order], weights)
  plain, plain_shares = kernels['population'](rewards, ids, weights)
  np.testing.assert_allclose(moved, plain[order], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      shares[names], plain_shares, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('eps', [0., 1e-8])
def test_nothing_to_tell_apart(eps):
  rewards = jnp.full((2, 4), .1)
  ids, weights = jnp.array([0, 0, 1, -1]), jnp.ones(2)

  def total(rewards):
    return jnp.sum(jnp.square(ops.spread_weighted(
        rewards, ids, weights, eps=eps)))

  assert (ops.spread_weighted(rewards, ids, weights, eps=eps) == 0).all()
  assert (ops.spread_weights(rewards, ids, weights, eps=eps) == 0).all()
  assert np.isfinite(jax.grad(total)(rewards)).all()
  assert np.isfinite(jax.grad(total)(rewards.at[0, 0].set(1e18))).all()


def test_a_channel_that_is_the_same_for_all_drops_out():
  rewards, ids, weights = _batch(0)
  rewards[2] = 5.
  with_it, shares = kernels['population'](rewards, ids, weights)
  without = ops.spread_weighted(rewards[:2], ids, weights[:2], eps=1e-3)
  np.testing.assert_allclose(with_it, without, rtol=1e-4, atol=1e-6)
  assert (shares[:, 2] == 0).all()


def test_unknown_std():
  with pytest.raises(ValueError, match="unknown std 'none'"):
    ops.spread_weighted(
        jnp.zeros((1, 2)), jnp.zeros(2, int), jnp.ones(1), std='none')
