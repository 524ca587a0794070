"""What the surrogate methods choose over the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods
from policyopt.training.credit import credit_metrics
from tests.methods import rollouts


def _derive(method, rollout, state=None):
  state = rollouts.initial_state(method) if state is None else state
  filled, _, _, state = rollouts.assign(method, state, rollout)
  return filled.extras, state


def _mean(metric):
  total, weight = metric
  return float(total) / float(weight)


def test_clip_cov_draws_its_share_from_the_range():
  rollout, _ = rollouts.make()
  method = methods.clip_cov(fraction=.1, cov_low=0., cov_high=2.)
  extras, state = _derive(method, rollout)
  dropped = np.asarray(extras['covariance_dropped'])
  assert dropped.sum() == int(.1 * rollout.mask.sum())
  assert (np.asarray(rollout.mask) | ~dropped).all()
  # The next batch, another seed and the same seed again.
  again, _ = _derive(method, rollout)
  later, _ = _derive(method, rollout, state)
  other, _ = _derive(
      methods.clip_cov(fraction=.1, cov_low=0., cov_high=2., seed=1), rollout)
  np.testing.assert_array_equal(again['covariance_dropped'], dropped)
  assert (np.asarray(later['covariance_dropped']) != dropped).any()
  assert (np.asarray(other['covariance_dropped']) != dropped).any()


def test_clip_cov_draws_every_candidate_alike():
  """Over many batches each of the candidates is drawn equally often."""
  rollout, _ = rollouts.make()
  method = methods.clip_cov(fraction=.1, cov_low=0., cov_high=2.)

  @jax.jit
  def draws(state):
    def step(state, _):
      extras, state = _derive(method, rollout, state)
      return state, extras['covariance_dropped']
    return jax.lax.scan(step, state, None, 200)[1]

  share = np.asarray(draws(rollouts.initial_state(method))).mean(0)
  seen = credit_metrics(method, rollouts.initial_state(method), rollout)
  candidates = float(seen['clip_cov/candidates'][0])
  chosen = int(.1 * rollout.mask.sum())
  assert (share > 0).sum() == candidates
  p = chosen / candidates
  assert np.abs(share[share > 0] - p).max() < 5 * (p * (1 - p) / 200)**.5
  assert _mean(seen['clip_cov/dropped']) == pytest.approx(
      chosen / float(rollout.mask.sum()))


def test_kl_cov_charges_the_top():
  rollout, _ = rollouts.make()
  extras, _ = _derive(methods.kl_cov(fraction=.1), rollout)
  charged = np.asarray(extras['covariance_charged'])
  mask = np.asarray(rollout.mask)
  advantages = rollouts.assign(
      methods.kl_cov(), rollouts.initial_state(methods.kl_cov()), rollout)[1]
  log_probs = np.where(mask, rollout.log_probs, 0)
  cov = (advantages - advantages[mask].mean()) * (
      log_probs - log_probs[mask].mean())
  assert charged.sum() == int(.1 * mask.sum())
  assert cov[charged].min() >= cov[mask & ~charged].max()


def test_the_default_share_is_one_token_of_a_small_batch():
  rollout, _ = rollouts.make()
  extras, _ = _derive(methods.kl_cov(), rollout)
  assert int(extras['covariance_charged'].sum()) == 1


@pytest.mark.parametrize('count', ['mask', 'kept'])
def test_m2po_leaves_stale_tokens_out(count):
  rollout, _ = rollouts.make()
  stale = np.zeros(rollout.mask.shape, bool)
  stale[tuple(np.argwhere(np.asarray(rollout.mask))[:5].T)] = True
  rollout = rollout._replace(extras={
      **rollout.extras,
      'old_log_probs': rollout.log_probs + jnp.where(stale, 3., .01)})
  method = methods.m2po(count=count)
  state = rollouts.initial_state(method)
  weights = np.asarray(rollouts.assign(method, state, rollout)[2])
  mask = np.asarray(rollout.mask)
  assert (weights[stale] == 0).all() and (weights[mask & ~stale] > 0).all()
  total = mask.sum() if count == 'mask' else mask.sum() - 5
  np.testing.assert_allclose(weights[mask & ~stale], 1 / total, rtol=1e-6)
  seen = credit_metrics(method, state, rollout)
  assert _mean(seen['m2po/kept']) == pytest.approx(1 - 5 / mask.sum())
  assert _mean(seen['m2po/second_moment']) == pytest.approx(
      (5 * 9 + (mask.sum() - 5) * 1e-4) / mask.sum(), rel=1e-4)


def test_topr_s_offset_makes_negative_rows():
  rewards = (np.arange(16) % 2).astype(np.float32)
  rollout, _ = rollouts.make(rewards=rewards)
  method = methods.topr(offset=.5)
  advantages = np.asarray(rollouts.assign(
      method, rollouts.initial_state(method), rollout)[1])
  mask = np.asarray(rollout.mask)
  expected = np.where(mask, rewards[:, None] - .5, 0)
  np.testing.assert_allclose(advantages, expected)


def test_dppo_s_bound_is_that_of_its_divergence():
  rollout, policy = rollouts.make()
  for divergence, bound in (('tv', .15), ('kl', .05)):
    losses = [rollouts.run(methods.dppo(divergence=divergence, **kw), rollout,
                           policy)['gradient'][0]
              for kw in ({}, dict(max_fall=bound, max_rise=bound))]
    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize('name, kw, match', [
    ('cispo', dict(bounds='lower'), "bounds is 'lower'"),
    ('clip_cov', dict(fraction=2.), 'fraction is 2'),
    ('kl_cov', dict(fraction=-.1), 'fraction is -0.1'),
    ('dppo', dict(divergence='js'), "divergence is 'js'"),
    ('m2po', dict(m2_threshold=0.), 'threshold is 0'),
    ('topr', dict(baseline='batch'), "baseline is 'batch'"),
    ('topr', dict(negative_low=2.), 'negative is'),
    ('sapo', dict(tau_positive=0.), 'tau_positive is 0'),
    ('luspo', dict(gradient='row'), "gradient is 'row'"),
])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw)
