"""The adaptive coefficient, and the entropy of logits."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

few = settings(max_examples=20, deadline=None)


@few
@given(st.floats(0, 100), st.integers(0, 1000))
def test_the_coefficient_moves_towards_the_target(measured, count):
  new = float(ops.adapt_coefficient(
      .5, measured, 6., count=count, horizon=1000))
  error = max(-.2, min(.2, measured / 6 - 1))
  assert new == pytest.approx(.5 * (1 + error * count / 1000), rel=1e-5)
  assert 0 < new < 1


@pytest.mark.parametrize('measured', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_moves_nothing(measured):
  assert float(ops.adapt_coefficient(
      .5, measured, 6., count=100, horizon=10)) == .5


@few
@given(st.integers(0, 2**16), st.floats(0, 300))
def test_entropy_equals_its_definition(seed, scale):
  rng = np.random.default_rng(seed)
  logits = scale * rng.normal(size=(3, 5))
  log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)))
  expected = -(np.exp(log_p) * log_p).sum(-1)
  ours = ops.entropy_from_logits(jnp.asarray(logits, jnp.float32))
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
  assert (ours >= -1e-6).all() and (ours <= np.log(5) + 1e-5).all()


def test_removed_logits_have_no_share_and_no_gradient():
  logits = jnp.array([[1., -jnp.inf, 2.], [-jnp.inf] * 3, [jnp.nan, 0., 0.]])
  entropy, pull = jax.vjp(ops.entropy_from_logits, logits)
  assert entropy[0] == pytest.approx(
      float(ops.entropy_from_logits(jnp.array([1., 2.]))))
  assert entropy[1] == 0 and entropy[2] == pytest.approx(np.log(2))
  gradient = np.asarray(pull(jnp.ones(3))[0])
  assert np.isfinite(gradient).all()
  assert (gradient[~np.isfinite(logits)] == 0).all()
