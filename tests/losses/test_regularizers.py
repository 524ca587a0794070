"""The KL penalty and the entropy bonus, by hand and exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, losses, methods
from policyopt.types import PolicyOutput, Rollout
from tests.methods import rollouts

VOCAB = 4


def _all_tokens(seed=0):
  """Every token once, as a row of one, with three policies over them."""
  rng = np.random.default_rng(seed)
  theta, sampler, ref = (jnp.asarray(rng.normal(size=VOCAB), jnp.float32)
                         for _ in range(3))
  log_q = jax.nn.log_softmax(sampler)
  rollout = Rollout(
      tokens=jnp.arange(VOCAB)[:, None], mask=jnp.ones((VOCAB, 1), bool),
      log_probs=log_q[:, None], group=jnp.zeros(VOCAB, jnp.int32), rewards={},
      extras={'ref_log_probs': jax.nn.log_softmax(ref)[:, None]})
  return theta, ref, rollout


def _gradient(loss, theta, rollout):
  """Of the loss in expectation over who sampled."""
  def expected(theta):
    log_p = jax.nn.log_softmax(theta)[:, None]
    return loss.apply(PolicyOutput(log_p), None,
                      jnp.exp(rollout.log_probs), rollout)[0]
  return jax.grad(expected)(theta)


def _reverse(theta, ref):
  log_p, log_r = jax.nn.log_softmax(theta), jax.nn.log_softmax(ref)
  return jnp.sum(jnp.exp(log_p) * (log_p - log_r))


@pytest.mark.parametrize('value', ['k1', 'k3'])
def test_the_ratio_gives_the_gradient_of_the_divergence(value):
  theta, ref, rollout = _all_tokens()
  loss = losses.kl_penalty(.5, value=value, ratio_weighted=True)
  assert loss.needs == {'ref_log_probs'}
  np.testing.assert_allclose(
      _gradient(loss, theta, rollout), .5 * jax.grad(_reverse)(theta, ref),
      rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('kw, exact', [
    (dict(value='k1'), None),
    (dict(value='k2'), _reverse),
    (dict(value='k3', gradient='k2'), _reverse),
    (dict(value='k3', ratio_weighted=True), _reverse)
], ids=lambda x: getattr(x, '__name__', str(x)))
def test_gradients_on_policy(kw, exact):
  theta, ref, rollout = _all_tokens()
  rollout = rollout._replace(
      log_probs=jax.nn.log_softmax(theta)[:, None])
  gradient = _gradient(losses.kl_penalty(1., **kw), theta, rollout)
  expected = 0 * theta if exact is None else jax.grad(exact)(theta, ref)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_ratio_may_be_to_the_learner_before_its_update():
  theta, _, rollout = _all_tokens()
  loss = losses.kl_penalty(1., ratio_weighted=True, old='old_log_probs')
  assert loss.needs == {'ref_log_probs', 'old_log_probs'}
  old = jax.nn.log_softmax(theta)[:, None]
  with_old = rollout._replace(
      extras={**rollout.extras, 'old_log_probs': old})
  same = rollout._replace(log_probs=old)
  weights, policy = jnp.ones((VOCAB, 1)), PolicyOutput(old - .3)
  ours = loss.apply(policy, None, weights, with_old)[0]
  theirs = losses.kl_penalty(1., ratio_weighted=True).apply(
      policy, None, weights, same)[0]
  assert float(ours) == pytest.approx(float(theirs))
  # What is reported is the divergence, without the ratio.
  plain = losses.kl_penalty(1.).apply(policy, None, weights, rollout)[1]
  assert float(loss.apply(policy, None, weights, with_old)[1][
      'kl/reference'][0]) == pytest.approx(float(plain['kl/reference'][0]))


def test_limits_reach_the_estimator():
  _, _, rollout = _all_tokens()
  far = PolicyOutput(rollout.extras['ref_log_probs'] + 50)
  weights = jnp.full((VOCAB, 1), 1 / VOCAB)
  for kw, expected in ((dict(value='k1'), 50.),
                       (dict(value='k1', input_limit=20.), 20.),
                       (dict(value='k2', output_limit=10.), 10.),
                       (dict(value='k3', k3_output_limit=5.), 5.)):
    value = losses.kl_penalty(1., **kw).apply(far, None, weights, rollout)[0]
    assert float(value) == pytest.approx(expected, rel=1e-5), kw


@pytest.mark.parametrize('move', [-1e4, 1e4])
def test_a_ratio_out_of_range_stays_finite(move):
  _, _, rollout = _all_tokens()
  loss = losses.kl_penalty(1., ratio_weighted=True)
  value, slope = jax.value_and_grad(lambda x: loss.apply(
      PolicyOutput(x), None, jnp.ones((VOCAB, 1)), rollout)[0])(
          rollout.log_probs + move)
  assert np.isfinite(value) and np.isfinite(slope).all()


@pytest.mark.parametrize('kw, match', [
    (dict(value='k4'), "value is 'k4'"),
    (dict(gradient='k4'), "gradient is 'k4'"),
    (dict(old='older'), "old is 'older'")])
def test_senseless_penalties_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    losses.kl_penalty(.1, **kw)


def test_a_derived_entropy_coefficient_is_of_the_row():
  rollout, policy = rollouts.make()
  coef = jnp.linspace(0, 1, rollouts.ROWS)
  weights = rollout.mask / rollout.mask.sum()
  rollout = rollout._replace(
      extras={**rollout.extras, 'entropy_coef': coef})
  value, _ = losses.entropy_bonus(None).apply(policy, None, weights, rollout)
  expected = -jnp.sum(coef[:, None] * policy.entropy * weights)
  assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_who_derives_the_coefficient_is_named():
  rollout, policy = rollouts.make()
  with pytest.raises(ValueError, match='adapt_entropy_coef'):
    losses.entropy_bonus(None).apply(
        policy, None, jnp.ones_like(policy.log_probs), rollout)


def test_the_bonus_of_grpo_comes_and_goes_with_the_entropy():
  rollout, policy = rollouts.make()
  method = methods.grpo(beta=0., entropy_coef=.01, entropy_target=2.)
  assert isinstance(method.derived.init(), credit.EntropyCoefState)
  low = rollouts.run(method, rollout, policy)
  assert float(low['metrics']['loss/entropy'][0]) < 0
  assert float(low['state'][-1].coef) == pytest.approx(.015)
  high = rollout._replace(
      extras={**rollout.extras, 'entropy': rollout.extras['entropy'] + 3})
  high = rollouts.run(method, high, policy)
  assert float(high['metrics']['loss/entropy'][0]) == 0
  assert float(high['state'][-1].coef) == pytest.approx(.005)
