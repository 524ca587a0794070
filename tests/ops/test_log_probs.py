"""Log-probabilities of tokens out of logits."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 300))
def test_they_are_those_of_log_softmax(seed, scale):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(scale * rng.normal(size=(3, 2, 5)), jnp.float32)
  tokens = jnp.asarray(rng.integers(0, 5, (3, 2)), jnp.int32)
  weights = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)

  def plain(logits):
    return jnp.take_along_axis(
        jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]

  ours, pull = jax.vjp(
      lambda x: ops.log_probs_from_logits(x, tokens), logits)
  expected, pull_plain = jax.vjp(plain, logits)
  np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
      pull(weights)[0], pull_plain(weights)[0], rtol=1e-4, atol=1e-6)


def test_what_is_removed_or_padding_stays_finite_and_moves_nothing():
  inf = jnp.inf
  logits = jnp.array([
      [1., -inf, 2.], [1., -inf, 2.], [-inf] * 3, [3e38, -3e38, 0.],
      [0., 0., 0.], [0., 0., 0.]])
  tokens = jnp.array([0, 1, 2, 1, -100, 3])
  out, pull = jax.vjp(lambda x: ops.log_probs_from_logits(x, tokens), logits)
  lowest = np.finfo(np.float32).min
  assert out[0] == pytest.approx(-np.log(1 + np.e))
  assert (out[1:4] == lowest).all() and (out[4:] == 0).all()
  gradient = np.asarray(pull(jnp.ones(6))[0])
  assert np.isfinite(gradient).all()
  assert (gradient[~np.isfinite(logits)] == 0).all()
  assert (gradient[1:] == 0).all() and (gradient[0] != 0).sum() == 2


def test_a_policy_that_broke_is_not_hidden():
  logits = jnp.array([[jnp.nan, 0., 0.], [0., 0., 0.]])
  gradient = jax.grad(lambda x: ops.log_probs_from_logits(
      x, jnp.array([1, 1])).sum())(logits)
  assert jnp.isnan(gradient[0]).any() and jnp.isfinite(gradient[1]).all()


def test_tokens_of_another_shape_are_refused():
  with pytest.raises(ValueError, match=r'tokens have the shape \(3,\)'):
    ops.log_probs_from_logits(jnp.zeros((2, 4)), jnp.zeros(3, jnp.int32))
