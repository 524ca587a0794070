"""Objectives and weights other than the clip, and the ratio's new bounds."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

SHAPE = (4, 6)
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
EXTREME = jnp.array([[-1e4, -60., -1e-3, 0., 60., 1e4]])


def _draw(seed, scale=1.):
  """Log-ratios and advantages, some of them 0, and a mask with holes."""
  rng = np.random.default_rng(seed)
  x, advantages = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  advantages[rng.random(SHAPE) < .2] = 0
  mask = rng.random(SHAPE) < .7
  return jnp.asarray(scale * x), jnp.asarray(advantages), jnp.asarray(mask)


def test_the_cap_bounds_the_other_side():
  ratio = jnp.array([[.5, 3., 9.]])
  down, up = (jnp.full((1, 3), a) for a in (-1., 1.))
  kw = dict(ratio_cap=4.)
  np.testing.assert_allclose(
      ops.clipped_objective(ratio, down, .2, .2, **kw), [[-.8, -3., -4.]])
  np.testing.assert_allclose(
      ops.clipped_objective(ratio, up, .2, .2, **kw),
      ops.clipped_objective(ratio, up, .2, .2))
  slope = jax.grad(lambda r: ops.clipped_objective(
      r, down, .2, .2, **kw).sum())(ratio)
  np.testing.assert_allclose(slope, [[0., -1., 0.]])


@few
@given(seeds)
def test_the_weight_of_a_row_is_the_product_of_its_ratios(seed):
  x, _, mask = _draw(seed)
  weight = jnp.exp(ops.sequence_log_weight(x, mask, limit=None))
  product = np.prod(np.where(mask, np.exp(x), 1), axis=1, keepdims=True)
  np.testing.assert_allclose(
      weight, np.where(mask, product, 1), rtol=1e-4)


def test_limits_of_a_row_s_weight():
  mask = jnp.array([[True, True]])
  x = jnp.array([[30., -5.]])
  np.testing.assert_allclose(ops.sequence_log_weight(x, mask), [[20., 20.]])
  np.testing.assert_allclose(ops.sequence_log_weight(
      x, mask, token_limit=10., limit=None), [[5., 5.]])


@few
@given(seeds)
def test_the_one_sided_clip_stops_only_what_the_advantage_pushes(seed):
  x, advantages, _ = _draw(seed)
  low, high = .3, .2
  slope = jax.grad(lambda x: ops.one_sided_clip(
      x, advantages, low, high).sum())(x)
  ratio = jnp.exp(x)
  stopped = ops.clipped_away(
      ratio, advantages, 1 - math.exp(-low), math.exp(high) - 1)
  np.testing.assert_array_equal(
      slope, np.where(advantages == 0, 0, np.where(stopped, 0, 1)))


@few
@given(seeds)
def test_the_gate_has_slope_one_at_one_and_is_never_steeper(seed):
  x, advantages, _ = _draw(seed)

  def slope(ratio):
    return jax.grad(lambda r: ops.soft_gate(
        r, advantages, 1., 1.7).sum())(ratio)

  np.testing.assert_allclose(slope(jnp.ones(SHAPE)), 1., rtol=1e-6)
  steep = slope(jnp.exp(x))
  assert (steep <= 1).all() and (steep >= 0).all()


@few
@given(seeds, st.floats(0., 4.), st.floats(0., 4.))
def test_the_gamma_weight_is_one_at_one_and_largest_at_k_over_lambda(
    seed, power, rate):
  x, advantages, _ = _draw(seed)
  both = (power, rate)
  at_one = ops.gamma_weight(jnp.zeros(SHAPE), advantages, both, both)
  np.testing.assert_allclose(at_one, 1., rtol=1e-5)
  if power > .1 and rate > .1:
    top = ops.gamma_weight(jnp.full(SHAPE, math.log(power / rate)),
                           advantages, both, both)
    weight = ops.gamma_weight(x, advantages, both, both)
    assert (weight <= top * (1 + 1e-5)).all()


@few
@given(seeds)
def test_gamma_weights_without_a_shape_are_none(seed):
  x, advantages, _ = _draw(seed)
  np.testing.assert_allclose(
      ops.gamma_weight(x, advantages, (0., 0.), (1., 0.)),
      np.where(advantages < 0, np.exp(x), 1.), rtol=1e-5)


@few
@given(seeds)
def test_tapered_weights_stay_in_the_range_of_their_sign(seed):
  x, advantages, _ = _draw(seed, 30.)
  weight = ops.tapered_weight(x, advantages, (1., 1.), (0., 1.))
  assert (weight >= 0).all() and (weight <= 1).all()
  np.testing.assert_array_equal(weight[advantages >= 0], 1.)
  np.testing.assert_allclose(
      weight[advantages < 0],
      np.exp(np.minimum(x, 0))[advantages < 0], rtol=1e-5, atol=1e-30)


def test_the_quadratic_objective_has_its_top_where_beta_x_is_a():
  def objective(x):
    return ops.quadratic_objective(
        x - 1., x, jnp.full((1, 1), .6), 3.).sum()

  assert float(jax.grad(objective)(jnp.full((1, 1), .2)).sum()) == (
      pytest.approx(0., abs=1e-6))


@pytest.mark.parametrize('sign', [-1., 0., 1.])
def test_everything_is_finite_at_extreme_ratios(sign):
  advantages = jnp.full(EXTREME.shape, sign)
  mask = jnp.ones(EXTREME.shape, bool)

  def total(x):
    ratio = jnp.exp(ops.clamp(x, 20.))
    weight = ops.sequence_log_weight(x, mask)
    parts = (
        ops.clipped_objective(ratio, advantages, .2, .2, ratio_cap=4.),
        ops.one_sided_clip(x, advantages, .4, .4),
        ops.soft_gate(ratio, advantages, 1., 1.05) * advantages,
        ops.weighted_likelihood(x, advantages, ops.gamma_weight(
            ops.clamp(x, 20.), advantages, (2., 3.), (3., 2.))),
        ops.weighted_likelihood(x, advantages, ops.tapered_weight(
            x, advantages, (1., 1.), (0., 1.))),
        ops.quadratic_objective(x, x, advantages, .5), weight)
    return sum(jnp.sum(part) for part in parts)

  value, gradient = jax.value_and_grad(total)(EXTREME)
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def test_weights_carry_no_gradient():
  x, advantages, mask = _draw(0)

  def weights(x):
    return (ops.gamma_weight(x, advantages, (2., 3.), (3., 2.)).sum()
            + ops.tapered_weight(x, advantages, (0., 9.), (0., 9.)).sum()
            + ops.token_covariance(advantages, x, mask).sum())

  assert (jax.grad(weights)(x) == 0).all()
