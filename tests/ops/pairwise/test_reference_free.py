"""Losses without a reference, and of single responses, against formulas."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS = 6
few = settings(max_examples=20, deadline=None)
EXTREMES = np.array([0., -1e5, 1e5, -30., 30., 1e-7], np.float32)


def _logps(seed, count):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(-4, 2, ROWS), jnp.float32)
          for _ in range(count)]


@pytest.mark.parametrize('alpha', [0., .5, -.5])
@pytest.mark.parametrize('kind', ops.CPO_KINDS)
def test_extremes_without_a_reference_stay_finite(kind, alpha):
  logps = [jnp.asarray(x.reshape(-1)) for x in np.meshgrid(EXTREMES, EXTREMES)]
  losses, pull = jax.vjp(lambda c, r: ops.cpo_pair_losses(
      c, r, kind=kind, alpha=alpha), *logps)
  for x in (losses, *pull(jnp.ones_like(losses))):
    assert np.isfinite(x).all()


def test_cpo_is_dpo_with_a_reference_without_opinions():
  chosen, rejected = _logps(0, 2)
  flat = jnp.full(ROWS, -3.)
  for kind in ('sigmoid', 'hinge', 'ipo'):
    np.testing.assert_allclose(
        ops.cpo_pair_losses(chosen, rejected, kind=kind),
        ops.dpo_pair_losses(chosen, rejected, flat, flat, kind=kind),
        rtol=1e-4)


def test_simpo_without_margin_is_cpo():
  chosen, rejected = _logps(1, 2)
  kw = dict(beta=2., label_smoothing=.1)
  np.testing.assert_allclose(
      ops.cpo_pair_losses(chosen, rejected, kind='simpo', margin=0., **kw),
      ops.cpo_pair_losses(chosen, rejected, **kw))


def test_simpo_by_hand():
  chosen, rejected = _logps(2, 2)
  x = np.asarray(2 * (chosen - rejected) - .75)
  np.testing.assert_allclose(
      ops.cpo_pair_losses(chosen, rejected, kind='simpo', beta=2., margin=.75),
      np.log1p(np.exp(-x)), rtol=1e-5)


def test_shaped_rewards_bend_around_certainty():
  x = jnp.linspace(-4., 0., 9)
  np.testing.assert_allclose(ops.shaped_reward(x, 1e-3), x, rtol=1e-2)
  for alpha in (.5, -.5):
    p = np.exp(np.asarray(x, np.float64))
    np.testing.assert_allclose(
        ops.shaped_reward(x, alpha), (1 - p ** -alpha) / alpha, rtol=1e-5,
        atol=1e-6)


@few
@given(st.lists(st.floats(1e-6, 1 - 1e-5), min_size=ROWS, max_size=ROWS))
def test_log_odds_invert_the_sigmoid(probabilities):
  p = np.array(probabilities)
  odds = ops.log_odds(jnp.asarray(np.log(p), jnp.float32))
  np.testing.assert_allclose(odds, np.log(p / (1 - p)), rtol=1e-2, atol=1e-3)


def test_certain_responses_have_bounded_odds():
  logps = [jnp.asarray(x.reshape(-1)) for x in np.meshgrid(EXTREMES, EXTREMES)]
  losses, pull = jax.vjp(ops.odds_ratio_losses, *logps)
  for x in (losses, *pull(jnp.ones_like(losses))):
    assert np.isfinite(x).all()
  assert np.isfinite(ops.log_odds(jnp.array([0., 1., -0.]))).all()


# --- judged one by one ---


def test_kto_by_hand_and_without_gradient_to_the_divergence():
  x, good = _logps(0, 1)[0], jnp.array([1, 0, 1, 1, 0, 0]) == 1
  kw = dict(beta=.5, desirable_weight=2., undesirable_weight=3.)
  losses = ops.kto_row_losses(x, good, jnp.asarray(1.5), **kw)
  y = .5 * (np.asarray(x) - 1.5)
  expected = np.where(good, 2 / (1 + np.exp(y)), 3 / (1 + np.exp(-y)))
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  gradient = jax.grad(lambda kl: jnp.sum(
      ops.kto_row_losses(x, good, kl, **kw)))(1.5)
  assert float(gradient) == 0


def test_kto_without_divergence_is_unpaired_apo():
  x, good = _logps(1, 1)[0], jnp.arange(ROWS) < 2
  np.testing.assert_allclose(
      ops.kto_row_losses(x, good, 0.),
      ops.kto_row_losses(x, good, 7., kind='apo_zero_unpaired'))
  # A pair of them is the paired kind.
  chosen, rejected, zero = x, _logps(2, 1)[0], jnp.zeros(ROWS)
  both = (ops.kto_row_losses(chosen, jnp.ones(ROWS, bool), 0.)
          + ops.kto_row_losses(rejected, jnp.zeros(ROWS, bool), 0.))
  np.testing.assert_allclose(
      both, ops.dpo_pair_losses(chosen, rejected, zero, zero, kind='apo_zero'),
      rtol=1e-5)


def test_kto_extremes_stay_finite():
  good = jnp.arange(EXTREMES.size) % 2 == 0
  x = jnp.asarray(EXTREMES).at[0].set(jnp.nan)
  where = jnp.arange(EXTREMES.size) > 0
  losses, pull = jax.vjp(
      lambda x: ops.kto_row_losses(x, good, 5., where=where), x)
  for v in (losses, *pull(jnp.ones_like(losses))):
    assert np.isfinite(v).all() and float(v[0]) == 0


def test_a_margin_asks_for_more():
  chosen, rejected = _logps(3, 2)
  plain = ops.bradley_terry_losses(chosen, rejected)
  np.testing.assert_allclose(
      plain, np.log1p(np.exp(rejected - chosen)), rtol=1e-5)
  shifted = ops.bradley_terry_losses(chosen, rejected, jnp.full(ROWS, .5))
  np.testing.assert_allclose(
      shifted, ops.bradley_terry_losses(chosen - .5, rejected), rtol=1e-5)
  far = jnp.array([1e5, -1e5, 0.])
  losses, pull = jax.vjp(ops.bradley_terry_losses, far, -far)
  assert all(np.isfinite(x).all() for x in (losses, *pull(jnp.ones(3))))


@pytest.mark.parametrize('kw, match', [
    (dict(kind='simp'), "did you mean 'simpo'"),
    (dict(kind='ipo', label_smoothing=.1), "kind 'ipo' has none"),
])
def test_wrong_choices_without_a_reference_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.cpo_pair_losses(*_logps(0, 2), **kw)


def test_an_unknown_kind_of_kto_is_refused():
  with pytest.raises(ValueError, match="did you mean 'kto'"):
    ops.kto_row_losses(jnp.ones(1), jnp.ones(1, bool), 0., kind='kt')
