"""λ-returns and V-trace against loops and against each other."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from policyopt import ops

SHAPE = ROWS, WIDTH = 3, 6
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)


def _draw(seed):
  rng = np.random.default_rng(seed)
  rewards, values, after = rng.normal(size=(3, *SHAPE)).astype(np.float32)
  discounts, lam, ratios = rng.random((3, *SHAPE)).astype(np.float32)
  discounts[rng.random(SHAPE) < .2] = 0
  return rewards, values, after, discounts, lam, 2 * ratios, (
      rng.random(SHAPE) < .7)


@few
@given(seeds)
def test_both_equal_loops_over_the_steps_that_count(seed):
  rewards, values, after, discounts, lam, ratios, mask = _draw(seed)
  returns = ops.lambda_returns(rewards, discounts, after, mask, lam=lam)
  traced = ops.vtrace(values, rewards, discounts, ratios, after, mask,
                      lam=lam, clip_rho=1.5, clip_pg_rho=.8)
  expected = np.zeros((4, *SHAPE))
  for row in range(ROWS):
    steps, error, g, later = np.flatnonzero(mask[row])[::-1], 0., None, None
    for t in steps:
      r, v, next_v, d, rate, rho = (
          x[row, t] for x in (rewards, values, after, discounts, lam, ratios))
      g = next_v if g is None else g
      later = next_v if later is None else later
      g = r + d * ((1 - rate) * next_v + rate * g)
      q = r + d * (later + rate * error)
      error = min(rho, 1.5) * (r + d * next_v - v) + (
          d * rate * min(rho, 1.) * error)
      expected[:, row, t] = g, error, min(rho, .8) * (q - v), q
      later = v
  np.testing.assert_allclose(
      np.stack([returns, *traced]), expected, rtol=1e-4, atol=1e-5)


@few
@given(seeds)
def test_on_policy_the_errors_are_gae(seed):
  rewards, values, _, _, _, _, mask = _draw(seed)
  discounts, ones = np.full(SHAPE, .9, np.float32), np.ones(SHAPE, np.float32)
  traced = ops.vtrace(values, rewards, discounts, ones, mask=mask, lam=.7)
  gae = ops.generalized_advantages(
      rewards, values, mask, gamma=.9, lam=.7)
  np.testing.assert_allclose(
      traced.errors, ops.fill(gae, mask), rtol=1e-4, atol=1e-5)


def test_junk_outside_the_mask_reaches_no_gradient():
  rewards, values, after, discounts, _, ratios, mask = _draw(0)
  dirty = [np.where(mask, x, np.nan)
           for x in (values, rewards, discounts, ratios, after)]

  def total(*xs):
    traced = ops.vtrace(*xs, mask)
    return sum(x.sum() for x in traced) + ops.lambda_returns(
        xs[1], xs[2], xs[4], mask).sum()

  for gradient in jax.grad(total, range(5))(*dirty):
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~mask] == 0).all()


def test_nothing_that_counts_gives_nothing():
  one = jnp.ones(SHAPE)
  traced = ops.vtrace(one, one, one, one, mask=jnp.zeros(SHAPE, bool))
  assert all((x == 0).all() for x in traced)
