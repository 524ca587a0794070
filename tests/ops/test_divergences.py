"""What the KL estimators estimate, and what their gradients descend."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops
from policyopt.ops import divergences

THETA = jnp.array([.3, -1., .7])
SAMPLER = jnp.array([.1, .4, -.3])
REF = jax.nn.log_softmax(jnp.array([-.2, .5, .1]))
few = settings(max_examples=20, deadline=None)


def _expected(theta, sampler=None, weighted=False, **kw):
  """Exactly, over all tokens: E of the estimate over who samples."""
  log_p = jax.nn.log_softmax(theta)
  log_s = jax.lax.stop_gradient(
      log_p if sampler is None else jax.nn.log_softmax(sampler))
  ratio = jnp.exp(log_p - log_s) if weighted else None
  return jnp.sum(jnp.exp(log_s) * ops.kl_estimate(
      log_p, REF, ratio=ratio, **kw))


def _reverse(theta):
  log_p = jax.nn.log_softmax(theta)
  return jnp.sum(jnp.exp(log_p) * (log_p - REF))


def _forward(theta):
  return -jnp.sum(jnp.exp(REF) * jax.nn.log_softmax(theta))


@pytest.mark.parametrize('kw, exact', [
    (dict(value='k1'), None),
    (dict(value='k2'), _reverse),
    (dict(value='k3'), _forward),
    (dict(value='k1', gradient='k2'), _reverse),
    (dict(value='k3', gradient='k2'), _reverse),
    (dict(value='k1', weighted=True), _reverse),
    (dict(value='k3', weighted=True), _reverse),
    (dict(value='k1', score=True), _reverse),
    (dict(value='k3', score=True), _reverse),
], ids=lambda x: getattr(x, '__name__', str(x)))
def test_what_the_gradients_descend_on_policy(kw, exact):
  gradient = jax.grad(_expected)(THETA, **kw)
  expected = jnp.zeros(3) if exact is None else jax.grad(exact)(THETA)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_the_score_is_of_the_gradient_alone_and_held_by_the_clamps():
  x = jnp.array([.5, 3., 7.])
  kw = dict(value='k2', input_limit=5., output_limit=4.)
  with_score, without = (
      jax.value_and_grad(lambda x, s=score: jnp.sum(ops.kl_estimate(
          x, jnp.zeros(3), score=s, **kw)))(x) for score in (True, False))
  assert float(with_score[0]) == float(without[0])
  # ½x² + x, then nothing: the estimate, and then x itself, is out of bounds.
  np.testing.assert_allclose(with_score[1], [.5 + .125, 0., 0.], rtol=1e-6)
  loose = jax.grad(lambda x: jnp.sum(ops.kl_estimate(
      x, jnp.zeros(3), value='k2', input_limit=5., score=True)))(x)
  np.testing.assert_allclose(loose, [.625, 3 + 4.5, 0.], rtol=1e-6)


@pytest.mark.parametrize('value', ['k1', 'k3'])
def test_the_ratio_makes_value_and_gradient_unbiased_off_policy(value):
  kw = dict(sampler=SAMPLER, value=value, weighted=True)
  assert float(_expected(THETA, **kw)) == pytest.approx(
      float(_reverse(THETA)), abs=1e-6)
  np.testing.assert_allclose(
      jax.grad(_expected)(THETA, **kw), jax.grad(_reverse)(THETA), atol=1e-6)
  without = jax.grad(_expected)(THETA, sampler=SAMPLER, value=value)
  assert np.abs(without - jax.grad(_reverse)(THETA)).max() > .01


@pytest.mark.parametrize('value', divergences.ESTIMATORS)
@pytest.mark.parametrize('dialect', [None, *divergences.KL_LIMITS])
def test_value_and_gradient_are_finite_for_any_log_probs(value, dialect):
  x = jnp.array([-1e4, -700., -90., 0., 90., 700., 1e4])
  kw = divergences.KL_LIMITS.get(dialect, {})
  kl, slope = jax.vmap(jax.value_and_grad(
      lambda x: ops.kl_estimate(x, jnp.zeros(()), value=value, **kw)))(x)
  assert np.isfinite(kl).all() and np.isfinite(slope).all()


@pytest.mark.parametrize('dialect, value, expected, slope', [
    # k1 = 30 and k3 = e⁻³⁰ + 29, then e³⁰ − 31.
    ('verl', 'k1', [30, -30], [1, 1]),
    ('verl', 'k3', [10, 10], [0, 0]),
    ('openrlhf', 'k1', [10, -10], [0, 0]),
    ('openrlhf', 'k2', [10, 10], [0, 0]),
    ('nemo', 'k1', [10, -10], [0, 0]),
    ('nemo', 'abs', [10, 10], [0, 0]),
    ('slime', 'k2', [450, 450], [30, -30]),
    ('tunix', 'k3', [29, np.expm1(30) - 30], [1, 1 - np.exp(30)]),
])
def test_dialects_clamp_what_they_clamp(dialect, value, expected, slope):
  x = jnp.array([30., -30.])
  kl = lambda x: ops.kl_estimate(  # noqa: E731
      x, jnp.zeros(2), value=value, **divergences.KL_LIMITS[dialect])
  np.testing.assert_allclose(kl(x), expected, rtol=1e-5)
  np.testing.assert_allclose(
      jax.grad(lambda x: kl(x).sum())(x), slope, rtol=1e-5)


def test_the_input_limit_holds_for_every_estimator():
  x = jnp.array([5., -5., 1.])
  for value in divergences.ESTIMATORS:
    held = ops.kl_estimate(x, jnp.zeros(3), value=value, input_limit=2.)
    plain = ops.kl_estimate(
        jnp.clip(x, -2, 2), jnp.zeros(3), value=value)
    np.testing.assert_allclose(held, plain, rtol=1e-6)


@few
@given(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4),
       st.sampled_from(divergences.ESTIMATORS))
def test_the_ratio_multiplies_and_is_differentiated(numbers, value):
  x, ref = jnp.array(numbers), jnp.zeros(4)
  ratio = jnp.array([.5, 1., 2., 0.])
  plain = ops.kl_estimate(x, ref, value=value)
  weighted = ops.kl_estimate(x, ref, value=value, ratio=ratio)
  np.testing.assert_allclose(weighted, ratio * plain, rtol=1e-6)
  slope = jax.grad(lambda r: ops.kl_estimate(
      x, ref, value=value, ratio=r).sum())(ratio)
  np.testing.assert_allclose(slope, plain, rtol=1e-6)


def test_the_reference_is_a_constant():
  x = jnp.array([.5, -2.])
  for value in divergences.ESTIMATORS:
    slope = jax.grad(
        lambda ref, v=value: ops.kl_estimate(x, ref, value=v).sum())(-x)
    assert (slope == 0).all()


def test_an_exponential_that_cannot_overflow():
  x = jnp.array([-1e4, 0., 1e4])
  value, slope = jax.vmap(jax.value_and_grad(divergences.bounded_exp))(x)
  assert np.isfinite(value).all() and np.isfinite(slope).all()
  assert value[:2].tolist() == [0, 1] and slope.tolist() == [0, 1, 0]
  assert float(divergences.bounded_exp(x[2], 1.)) == pytest.approx(np.e)


@pytest.mark.parametrize('kw, match', [
    (dict(value='k4'), "value is 'k4'"),
    (dict(gradient='k0'), "gradient is 'k0'")])
def test_unknown_estimators_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.kl_estimate(jnp.zeros(1), jnp.zeros(1), **kw)
