"""Masks, returns, ratios, divergences and aggregation over tokens."""

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


def _draw(seed, density=.6):
  rng = np.random.default_rng(seed)
  return rng, rng.random(SHAPE) < density


@few
@given(seeds, st.floats(.5, 1.), st.floats(0., 1.))
def test_gae_equals_a_loop_over_chosen_tokens(seed, gamma, lam):
  rng, mask = _draw(seed)
  rewards, values = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  ours = ops.generalized_advantages(
      rewards, values, jnp.asarray(mask), gamma=gamma, lam=lam)
  for row in range(SHAPE[0]):
    following, running = 0., 0.
    for t in reversed(np.flatnonzero(mask[row])):
      delta = rewards[row, t] + gamma * following - values[row, t]
      running = delta + gamma * lam * running
      following = values[row, t]
      assert ours[row, t] == pytest.approx(running, rel=1e-4, abs=1e-4)


@few
@given(seeds)
def test_gae_at_lambda_one_is_the_return_less_the_value(seed):
  rng, mask = _draw(seed)
  rewards, values = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  mask = jnp.asarray(mask)
  advantages = ops.generalized_advantages(
      rewards, values, mask, gamma=.9, lam=1.)
  returns = ops.discounted_returns(rewards, mask, gamma=.9)
  np.testing.assert_allclose(
      ops.fill(advantages, mask), ops.fill(returns - values, mask),
      rtol=1e-4, atol=1e-4)


def test_observations_change_nothing_at_chosen_tokens():
  rng = np.random.default_rng(0)
  rewards, values = rng.normal(size=(2, 1, 5)).astype(np.float32)
  kw = dict(gamma=.9, lam=.8)
  plain = ops.generalized_advantages(
      rewards, values, jnp.ones((1, 5), bool), **kw)
  at = np.array([0, 1, 4, 5, 7])
  wide = np.full((2, 1, 9), 1e3, np.float32)
  wide[0][:, at], wide[1][:, at] = rewards, values
  mask = np.zeros((1, 9), bool)
  mask[:, at] = True
  spread = ops.generalized_advantages(*wide, jnp.asarray(mask), **kw)
  np.testing.assert_array_equal(spread[:, at], plain)


@few
@given(seeds, st.floats(0, 1))
def test_weights_sum_to_one_for_every_mean(seed, density):
  _, mask = _draw(seed, density)
  mask = jnp.asarray(mask)
  group = jnp.array([0, 2, 0, 2])
  expected = 1. if mask.any() else 0.
  for weights in (
      ops.token_mean(mask, mask), ops.sequence_mean(mask, mask),
      ops.prompt_mean(mask, mask, group)):
    assert float(weights.sum()) == pytest.approx(expected, abs=1e-5)
    assert (np.asarray(weights)[~np.asarray(mask)] == 0).all()
  rows = max(1, int(mask.any(axis=1).sum()))
  assert float(ops.sequence_sum(mask, mask).sum()) == pytest.approx(
      float(mask.sum()) / rows, abs=1e-5)


def test_prompt_mean_weighs_prompts_alike():
  mask = jnp.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]) == 1
  group = jnp.array([1, 1, 0, -1])
  weights = ops.prompt_mean(mask, mask, group)
  assert weights.sum(1).tolist() == pytest.approx([.375, .125, .5, 0.])


@few
@given(seeds)
def test_whitening_gives_mean_zero_and_spread_one(seed):
  rng, mask = _draw(seed)
  mask[0, :3] = True
  x = (5 + 3 * rng.normal(size=SHAPE)).astype(np.float32)
  white = np.asarray(ops.masked_whiten(x, jnp.asarray(mask)))
  assert white[mask].mean() == pytest.approx(0, abs=1e-4)
  assert white[mask].std(ddof=1) == pytest.approx(1, abs=1e-3)
  assert (white[~mask] == 0).all()


@pytest.mark.parametrize('count', [0, 1])
def test_whitening_of_too_little_is_zero(count):
  mask = jnp.arange(4) < count
  x = jnp.array([2., jnp.nan, jnp.inf, 1.])
  assert ops.masked_whiten(x, mask).tolist() == [0] * 4


def test_gradients_pass_masked_infinities():
  mask = jnp.array([True, False])

  def loss(x):
    ratio = jnp.exp(ops.log_ratio(x, jnp.zeros(2), mask))
    return ops.masked_sum(ratio, mask)

  gradient = jax.grad(loss)(jnp.array([0., -jnp.inf]))
  assert gradient.tolist() == [1, 0]


def test_log_ratio_is_clamped_and_then_flat():
  mask = jnp.ones(3, bool)
  x = jnp.array([-50., 1., 50.])
  assert ops.log_ratio(x, jnp.zeros(3), mask).tolist() == [-20, 1, 20]
  slope = jax.grad(lambda x: ops.log_ratio(x, jnp.zeros(3), mask).sum())(x)
  assert slope.tolist() == [0, 1, 0]


def test_the_clip_is_pessimistic_for_both_signs():
  ratio = jnp.array([.5, 2., .5, 2.])
  sign = jnp.array([1., 1., -1., -1.])

  def objective(r):
    return ops.clipped_objective(r, sign, .2, .3)

  np.testing.assert_allclose(objective(ratio), [.5, 1.3, -.8, -2.])
  slope = jax.grad(lambda r: objective(r).sum())(ratio)
  assert slope.tolist() == [1, 0, 0, -1]
  clipped = ops.clipped_away(ratio, sign, .2, .3)
  assert clipped.tolist() == [False, True, True, False]


@pytest.mark.parametrize('value', ['k1', 'k2', 'k3'])
def test_kl_value_and_gradient_are_chosen_apart(value):
  x, ref = jnp.array([-1., -2.]), jnp.array([-1.5, -1.])
  plain = ops.kl_estimate(x, ref, value=value)
  mixed = lambda x: ops.kl_estimate(x, ref, value=value, gradient='k2')
  np.testing.assert_array_equal(mixed(x), plain)
  np.testing.assert_allclose(
      jax.grad(lambda x: mixed(x).sum())(x), x - ref, rtol=1e-6)


def test_expected_gradients_of_the_kl_estimators():
  """k1 has mean 0, k2 is the reverse and k3 the forward KL's gradient."""
  theta, ref = jnp.array([.3, -1., .7]), jnp.array([-.2, .5, .1])
  log_q = jax.nn.log_softmax(ref)

  def sampled(theta, estimator):
    log_p = jax.nn.log_softmax(theta)
    p = jax.lax.stop_gradient(jnp.exp(log_p))
    return jnp.sum(p * ops.kl_estimate(log_p, log_q, value=estimator))

  def reverse(theta):
    log_p = jax.nn.log_softmax(theta)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))

  def forward(theta):
    return -jnp.sum(jnp.exp(log_q) * jax.nn.log_softmax(theta))

  for estimator, exact in (
      ('k1', lambda t: 0. * t.sum()), ('k2', reverse), ('k3', forward)):
    np.testing.assert_allclose(
        jax.grad(sampled)(theta, estimator), jax.grad(exact)(theta),
        atol=1e-6, err_msg=estimator)
  for estimator in ('k1', 'k3'):
    assert float(sampled(theta, estimator)) == pytest.approx(
        float(reverse(theta)), abs=1e-6)


def test_k3_is_accurate_near_zero():
  x = jnp.array([1e-3])
  kl = ops.kl_estimate(x, jnp.zeros(1), value='k3')
  assert float(kl[0]) == pytest.approx(5e-7, rel=1e-3)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.int32, bool])
def test_lower_precision_becomes_float32(dtype):
  x, mask = jnp.ones(SHAPE, dtype), jnp.ones(SHAPE, bool)
  outs = [
      ops.masked_mean(x, mask), ops.masked_whiten(x, mask),
      ops.token_mean(x, mask), ops.discounted_returns(x, mask),
      ops.generalized_advantages(x, x, mask), ops.log_ratio(x, x, mask),
      ops.kl_estimate(x, x), ops.segment_mean(x, jnp.zeros(4, int))]
  assert {out.dtype for out in outs} == {jnp.dtype('float32')}


def test_double_precision_is_kept(x64):
  x, mask = jnp.ones(SHAPE, jnp.float64), jnp.ones(SHAPE, bool)
  outs = [
      ops.masked_whiten(x, mask), ops.sequence_mean(x, mask),
      ops.generalized_advantages(x, x, mask), ops.kl_estimate(x, x),
      ops.group_standardize(x[:, 0], jnp.zeros(4, int))]
  assert {out.dtype for out in outs} == {jnp.dtype('float64')}
