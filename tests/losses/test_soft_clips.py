"""The surrogates that are not PPO's clip, by hand on a few tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import losses
from policyopt.types import PolicyOutput, Rollout

MASK = jnp.array([[False, True, True], [False, True, False]])
WEIGHTS = jnp.where(MASK, .5, 0.)
ADVANTAGES = jnp.where(MASK, jnp.array([[1.], [-2.]]) + jnp.zeros((2, 3)), 0.)
PLACES = (np.array([0, 0, 1]), np.array([1, 2, 1]))


def _at(*values):
  return jnp.zeros((2, 3)).at[PLACES].set(jnp.array(values))


def _rollout(**extras):
  return Rollout(
      tokens=jnp.zeros((2, 3), jnp.int32), mask=MASK,
      log_probs=_at(-1., -1., -1.), group=jnp.array([0, 1]), rewards={},
      extras=extras)


def _apply(loss, *moves, **extras):
  """(loss, its gradient at the three tokens, metrics) after a move."""
  def value(log_probs):
    return loss.apply(PolicyOutput(log_probs=log_probs), ADVANTAGES, WEIGHTS,
                      _rollout(**extras))

  (total, metrics), gradient = jax.value_and_grad(value, has_aux=True)(
      _at(*(move - 1. for move in moves)))
  assert (gradient[~MASK] == 0).all()
  means = {name: float(a) / max(float(b), 1) for name, (a, b) in
           metrics.items()}
  return float(total), np.asarray(gradient[PLACES]), means


def test_cispo_keeps_the_gradient_of_clipped_tokens():
  total, gradient, means = _apply(
      losses.cispo_surrogate(.5, .5), 1., -1., 0.)
  weight = np.array([1.5, .5, 1.])  # of e, 1/e and 1
  np.testing.assert_allclose(gradient, -.5 * weight * [1, 1, -2], rtol=1e-5)
  assert total == pytest.approx(-.5 * (1.5 * 0 + .5 * -2 + 1 * -2 * -1))
  assert means['clip_fraction/positive'] == 1
  assert means['clip_fraction/negative'] == 0


def test_cispo_s_upper_bound_is_the_bound_itself():
  _, gradient, _ = _apply(
      losses.cispo_surrogate(clip_high=2., bounds='upper'), 1., -1., 0.)
  np.testing.assert_allclose(
      gradient, -.5 * np.array([2., np.exp(-1), -2]), rtol=1e-5)


def test_gmpo_clips_tokens_before_the_mean():
  total, gradient, means = _apply(
      losses.gmpo_surrogate(.4, .4), 1., -1., -1.)
  row = np.exp((.4 - 1) / 2)  # A > 0: only the rise is cut.
  other = np.exp(-.4)  # A < 0: only the fall is.
  assert total == pytest.approx(-.5 * (2 * row - 2 * other), rel=1e-5)
  np.testing.assert_allclose(gradient, [0, -.5 * row, 0], rtol=1e-5)
  assert means['clip_fraction/positive'] == .5
  assert means['ratio'] == pytest.approx((2 * row + other) / 3, rel=1e-5)


def test_sapo_s_gate():
  total, gradient, means = _apply(
      losses.sapo_surrogate(1., 2.), np.log(2), 0., 0.)
  sigmoid = 1 / (1 + np.exp(-1))
  # At ratio 1: 4/τ·½.
  assert total == pytest.approx(-.5 * (4 * sigmoid + 2 - 2 * 1), rel=1e-5)
  slope = 4 * sigmoid * (1 - sigmoid)
  np.testing.assert_allclose(
      gradient, -.5 * np.array([2 * slope, 1, -2]), rtol=1e-5)
  assert means['gate'] == pytest.approx((slope + 2) / 3, rel=1e-5)


def test_vespo_weighs_rows_by_their_product():
  _, gradient, means = _apply(
      losses.vespo_surrogate((2., 3.), (3., 2.)), .5, -1., .25)
  weights = np.exp([-.5, -.5, .25])
  phi = weights**np.array([2, 2, 3]) * np.exp(
      np.array([3, 3, 2]) * (1 - weights))
  np.testing.assert_allclose(gradient, -.5 * phi * [1, 1, -2], rtol=1e-5)
  assert means['weight'] == pytest.approx(phi.mean(), rel=1e-5)
  assert means['log_weight'] == pytest.approx(-.25, rel=1e-4)


def test_topr_leaves_bad_rows_alone_that_the_policy_has_left():
  _, gradient, means = _apply(losses.tapered_loss(), -3., -3., -2.)
  weight = np.array([1, 1, np.exp(-2)])
  np.testing.assert_allclose(gradient, -.5 * weight * [1, 1, -2], rtol=1e-5)
  assert means['weight/positive'] == 1
  assert means['weight/negative'] == pytest.approx(np.exp(-2), rel=1e-5)
  _, gradient, _ = _apply(losses.tapered_loss(), 3., 3., 2.)
  np.testing.assert_allclose(gradient, -.5 * np.array([1, 1, -2]), rtol=1e-5)


def test_dppo_drops_by_probability_and_not_by_ratio():
  # From e⁻¹: ratios 1.2, 1/1.2 and 0.5; probabilities move by .07, .06, .18.
  moves = np.log([1.2, 1 / 1.2, .5])
  _, gradient, means = _apply(losses.dppo_surrogate(.15, .05), *moves)
  np.testing.assert_allclose(
      gradient, -.5 * np.array([0, 1 / 1.2, 0]), rtol=1e-5)
  assert means['clip_fraction/positive'] == .5
  assert means['clip_fraction/negative'] == 1


def test_dppo_s_ratio_gradient_cap_and_penalty():
  moves = (0., np.log(.9), np.log(3.))
  total, gradient, _ = _apply(
      losses.dppo_surrogate(1., 1., gradient='ratio', penalty=.1), *moves)
  ratio = np.exp(moves)
  objective = ratio * [1, 1, -2] - .1 * np.square(moves)
  assert total == pytest.approx(-.5 * objective.sum(), rel=1e-5)
  np.testing.assert_allclose(
      gradient, -.5 * (ratio * [1, 1, -2] - .2 * np.array(moves)), rtol=1e-5)
  _, capped, _ = _apply(losses.dppo_surrogate(1., 1., ratio_cap=2.), *moves)
  np.testing.assert_allclose(
      capped, -.5 * np.array([1, .9, -4]), rtol=1e-5)


def test_dro_pulls_back_what_has_moved():
  total, gradient, means = _apply(losses.dro_loss(.5), 1., -1., 2.)
  np.testing.assert_allclose(
      gradient, -.5 * (np.array([1, 1, -2]) - .5 * np.array([1, -1, 2])),
      rtol=1e-5)
  assert total == pytest.approx(-.5 * (0 - 2 - 2 - .25 * 6))
  assert means['log_ratio/squared'] == 2


def test_dropped_tokens_have_no_gradient_and_keep_their_place():
  gone = _at(1., 0., 0.) != 0
  total, gradient, _ = _apply(
      losses.without_tokens_surrogate('gone'), 0., 0., 0., gone=gone)
  assert total == pytest.approx(-.5 * (1 - 2))
  np.testing.assert_allclose(gradient, -.5 * np.array([0, 1, -2]))


def test_charged_tokens_pay_for_moving_either_way():
  charge = _at(1., 1., 0.) != 0
  loss = losses.kl_on_tokens_surrogate('charge', .3)
  total, gradient, means = _apply(loss, 1., -1., 1., charge=charge)
  ratio = np.exp([1., -1., 1.])
  assert total == pytest.approx(
      -.5 * ((ratio * [1, 1, -2]).sum() - .6), rel=1e-5)
  np.testing.assert_allclose(
      gradient, -.5 * (ratio * [1, 1, -2] - .3 * np.array([1, -1, 0])),
      rtol=1e-5)
  assert means['log_ratio/charged'] == pytest.approx(1., rel=1e-5)
  # A token that has not moved is pulled nowhere.
  _, still, _ = _apply(loss, 0., 0., 0., charge=charge)
  np.testing.assert_allclose(still, -.5 * np.array([1, 1, -2]), rtol=1e-6)


@pytest.mark.parametrize('loss', [
    losses.without_tokens_surrogate('gone'),
    losses.kl_on_tokens_surrogate('gone', .1)])
def test_a_missing_set_is_named(loss):
  with pytest.raises(ValueError, match="_surrogate needs .*'gone'"):
    _apply(loss, 0., 0., 0.)


@pytest.mark.parametrize('make, match', [
    (lambda: losses.cispo_surrogate(bounds='lower'), "bounds is 'lower'"),
    (lambda: losses.cispo_surrogate(old='older'), "old is 'older'"),
    (lambda: losses.sapo_surrogate(0.), 'tau_positive is 0'),
    (lambda: losses.sapo_surrogate(1., -1.), 'tau_negative is -1'),
    (lambda: losses.dppo_surrogate(divergence='js'), "divergence is 'js'"),
    (lambda: losses.dppo_surrogate(gradient='row'), "gradient is 'row'"),
    (lambda: losses.tapered_loss((1., .5)), r'positive is \(1.0, 0.5\)'),
    (lambda: losses.tapered_loss(negative=(-1., 1.)), r'negative is \(-1.0'),
])
def test_wrong_arguments_are_refused_at_once(make, match):
  with pytest.raises(ValueError, match=match):
    make()
