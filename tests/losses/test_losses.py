"""Losses by hand on a few tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import losses
from policyopt.types import PolicyOutput, Rollout

MASK = jnp.array([[False, True, True], [False, True, False]])
WEIGHTS = jnp.where(MASK, .5, 0.)
ADVANTAGES = jnp.where(MASK, jnp.array([[1.], [-2.]]) + jnp.zeros((2, 3)), 0.)


def _at(*values):
  return jnp.zeros((2, 3)).at[
      jnp.array([0, 0, 1]), jnp.array([1, 2, 1])].set(jnp.array(values))


def _rollout(**extras):
  return Rollout(
      tokens=jnp.zeros((2, 3), jnp.int32), mask=MASK,
      log_probs=_at(-1., -1., -1.), group=jnp.array([0, 1]), rewards={},
      extras=extras)


def _policy(*log_probs, **kw):
  return PolicyOutput(log_probs=_at(*log_probs), **kw)


def test_policy_gradient():
  loss, metrics = losses.policy_gradient_loss().apply(
      _policy(-1., -2., -3.), ADVANTAGES, WEIGHTS, _rollout())
  assert float(loss) == pytest.approx(.5 * (1 + 2 - 6))
  assert [float(x) for x in metrics['loss/policy']] == [-1.5, 1.5]
  assert float(metrics['kl/sampler'][1]) == 3


def test_the_ratio_of_whole_responses():
  """Level 'product': every token carries the ratio of its row."""
  loss = losses.clipped_surrogate(level='product', log_ratio_limit=None)
  def value(log_probs):
    return loss.apply(PolicyOutput(log_probs=log_probs), ADVANTAGES, WEIGHTS,
                      _rollout())[0]

  log_probs = _at(-.9, -1.05, -1.3)
  total, gradient = jax.value_and_grad(value)(log_probs)
  first, second = np.exp(.05), .8  # The second row is clipped.
  assert np.exp(-.3) < second
  assert float(total) == pytest.approx(-first + second, rel=1e-5)
  np.testing.assert_allclose(
      gradient, _at(-first, -first, 0.), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('loss', [
    losses.clipped_surrogate(log_ratio_limit=None),
    losses.clipped_surrogate(level='product', log_ratio_limit=None),
    losses.dppo_surrogate(gradient='ratio', log_ratio_limit=None),
    losses.kl_penalty(.1, ratio_weighted=True, log_ratio_limit=None)])
@pytest.mark.parametrize('by', [1e4, -1e4])
def test_no_clamp_is_one_where_the_exponential_would_overflow(loss, by):
  rollout = _rollout(ref_log_probs=_at(-1., -1., -1.))
  for far in (_at(by, by, by), _at(by, 0., -by)):
    total, gradient = jax.value_and_grad(lambda x: loss.apply(
        PolicyOutput(log_probs=x), ADVANTAGES, WEIGHTS, rollout)[0])(far)
    assert np.isfinite(total) and np.isfinite(gradient).all()


def test_clip_fractions_are_counted_by_sign():
  policy = _policy(0., -1., -3.)  # ratios e, 1 and e**-2
  loss, metrics = losses.clipped_surrogate(.2, .3).apply(
      policy, ADVANTAGES, WEIGHTS, _rollout())
  assert float(loss) == pytest.approx(.5 * (-1.3 - 1 + 2 * .8), rel=1e-5)
  pairs = {k: [float(x) for x in v] for k, v in metrics.items()}
  assert pairs['clip_fraction/positive'] == [1, 2]
  assert pairs['clip_fraction/negative'] == [1, 1]
  ratios = np.exp([1., 0., -2.])
  assert pairs['ratio'] == pytest.approx([ratios.sum(), 3], rel=1e-5)
  assert pairs['ratio/squared'] == pytest.approx(
      [(ratios**2).sum(), 3], rel=1e-5)
  drift = (ratios - 1 - np.log(ratios)).sum()
  assert pairs['kl/sampler'] == pytest.approx([drift, 3], rel=1e-5)


def test_sequence_level_uses_the_geometric_mean():
  policy = _policy(-.9, -.7, -1.)  # mean log-ratio .2 in row 0
  loss, _ = losses.clipped_surrogate(.5, .5, level='sequence').apply(
      policy, ADVANTAGES, WEIGHTS, _rollout())
  assert float(loss) == pytest.approx(-np.exp(.2) + 1., rel=1e-5)


def test_old_log_probs_take_the_sampler_s_place():
  loss = losses.clipped_surrogate(.2, .2, old='old_log_probs')
  assert loss.needs == {'old_log_probs'}
  policy = _policy(-3., -3., -3.)
  value, _ = loss.apply(
      policy, ADVANTAGES, WEIGHTS,
      _rollout(old_log_probs=policy.log_probs))
  assert float(value) == pytest.approx(.5 * (-1 - 1 + 2))


def test_dual_clip_bounds_the_negative_side():
  policy = _policy(-1., -1., 9.)
  free, bound = (
      losses.clipped_surrogate(.2, .2, dual_clip=c).apply(
          policy, ADVANTAGES, WEIGHTS, _rollout())[0] for c in (None, 3.))
  assert float(bound) == pytest.approx(.5 * (-1 - 1 + 6))
  assert float(free) > 1e3


def test_kl_penalty():
  loss, metrics = losses.kl_penalty(.1, value='k2').apply(
      _policy(-1., -2., -3.), ADVANTAGES, WEIGHTS,
      _rollout(ref_log_probs=_at(-1., -1., -1.)))
  assert float(loss) == pytest.approx(.1 * .5 * (0 + .5 + 2))
  assert float(metrics['kl/reference'][0]) == pytest.approx(2.5)


def test_entropy_bonus():
  policy = _policy(-1., -1., -1., entropy=_at(1., 2., 3.))
  loss, metrics = losses.entropy_bonus(.1).apply(
      policy, ADVANTAGES, WEIGHTS, _rollout())
  assert float(loss) == pytest.approx(-.3)
  assert [float(x) for x in metrics['entropy']] == [6, 3]


def test_value_loss_regresses_on_the_lambda_return():
  rollout = _rollout(
      values=_at(.5, .25, 1.), token_rewards=_at(0., 1., -1.))
  policy = _policy(-1., -1., -1., values=_at(0., 0., 0.))
  loss, metrics = losses.value_loss(coef=2.).apply(
      policy, ADVANTAGES, WEIGHTS, rollout)
  assert float(loss) == pytest.approx(2 * .5 * .5 * (1 + 1 + 1))
  assert float(metrics['value/target'][0]) == pytest.approx(1.)


@pytest.mark.parametrize('observations, first', [
    ('bridge', .5), ('decay', .25), ('cut', 0.)])
def test_the_target_of_a_value_before_an_observation(observations, first):
  """A reward of 1 two tokens later, with one observation between."""
  mask = jnp.array([[True, False, True]])
  reward, zeros = jnp.array([[0., 0., 1.]]), jnp.zeros((1, 3))
  rollout = Rollout(
      tokens=jnp.zeros((1, 3), jnp.int32), mask=mask, log_probs=zeros,
      group=jnp.zeros(1, jnp.int32), rewards={},
      extras={'values': zeros, 'token_rewards': reward})
  _, metrics = losses.value_loss(
      gamma=.5, observations=observations).apply(
          PolicyOutput(log_probs=zeros, values=zeros), zeros,
          jnp.where(mask, 1., 0.), rollout)
  target, count = metrics['value/target']
  assert float(target) == pytest.approx(first + 1) and float(count) == 2


def test_value_loss_sends_no_gradient_to_its_target():
  rollout = _rollout(
      values=_at(.5, .25, 1.), token_rewards=_at(0., 1., -1.))
  policy = _policy(-1., -1., -1., values=_at(0., 0., 0.))

  def loss(old):
    return losses.value_loss(clip=.1).apply(
        policy, ADVANTAGES, WEIGHTS,
        rollout._replace(extras={**rollout.extras, 'values': old}))[0]

  assert (jax.grad(loss)(rollout.extras['values']) == 0).all()


def test_add_unites_losses_needs_and_metrics():
  both = losses.add(losses.policy_gradient_loss(), losses.kl_penalty(.1))
  assert both.needs == {'ref_log_probs'}
  rollout = _rollout(ref_log_probs=_at(-2., -1., -1.))
  policy = _policy(-1., -2., -3.)
  parts = [loss.apply(policy, ADVANTAGES, WEIGHTS, rollout) for loss in (
      losses.policy_gradient_loss(), losses.kl_penalty(.1))]
  total, metrics = both.apply(policy, ADVANTAGES, WEIGHTS, rollout)
  assert float(total) == pytest.approx(sum(float(p[0]) for p in parts))
  assert metrics.keys() == parts[0][1].keys() | parts[1][1].keys()


def test_two_losses_may_not_share_a_metric():
  twice = losses.add(
      losses.policy_gradient_loss(), losses.policy_gradient_loss())
  with pytest.raises(ValueError, match='loss/policy'):
    twice.apply(_policy(-1., -1., -1.), ADVANTAGES, WEIGHTS, _rollout())


@pytest.mark.parametrize('loss, match', [
    (losses.kl_penalty(.1), "kl_penalty needs .*'ref_log_probs'.*reference"),
    (losses.entropy_bonus(.1), "entropy_bonus needs .*'entropy'"),
    (losses.value_loss(), "value_loss needs .*'values'.*value head"),
])
def test_what_is_missing_is_named(loss, match):
  with pytest.raises(ValueError, match=match):
    loss.apply(_policy(-1., -1., -1.), ADVANTAGES, WEIGHTS, _rollout())
