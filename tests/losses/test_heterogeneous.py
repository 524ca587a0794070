"""The surrogate that looks at entropies against the one that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import losses
from policyopt.types import PolicyOutput, Rollout


def _batch(score, seed=0, shape=(3, 6)):
  rng = np.random.default_rng(seed)
  mask = jnp.asarray(rng.random(shape) < .8)
  sampled = jnp.asarray(-rng.random(shape), jnp.float32)
  rollout = Rollout(
      tokens=jnp.zeros(shape, jnp.int32), mask=mask, log_probs=sampled,
      group=jnp.arange(shape[0]), rewards={},
      extras={'old_log_probs': sampled - .01,
              'entropy_score': jnp.broadcast_to(
                  jnp.asarray(score, jnp.float32), shape)})
  policy = sampled + jnp.asarray(rng.normal(0, .3, shape), jnp.float32)
  advantages = jnp.asarray(rng.normal(size=shape), jnp.float32)
  return policy, advantages, mask / jnp.sum(mask), rollout


def _run(loss, batch):
  policy, advantages, weights, rollout = batch
  return jax.value_and_grad(
      lambda x: loss.apply(
          PolicyOutput(log_probs=x), advantages, weights, rollout)[0])(policy)


def _same(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-5, atol=1e-7), a, b)


@pytest.mark.parametrize('old', ['log_probs', 'old_log_probs'])
def test_at_the_pivot_nothing_is_changed(old):
  plain = losses.clipped_surrogate(.2, .28, dual_clip=10., old=old)
  ours = losses.heterogeneous_surrogate(.2, .28, old=old)
  assert ours.needs == plain.needs
  _same(_run(ours, _batch(0.)), _run(plain, _batch(0.)))


def test_without_strength_nothing_is_changed():
  score = np.linspace(-1, 1, 6)
  _same(_run(losses.heterogeneous_surrogate(clip_alpha=0., adv_beta=0.),
             _batch(score)),
        _run(losses.clipped_surrogate(.2, .28, dual_clip=10.), _batch(score)))


def test_confident_tokens_that_stay_teach_nothing():
  """ĥ = −1: the factor is 0 inside the band, and the clip is 2·ε_low."""
  policy, advantages, weights, rollout = _batch(-1.)
  ratio = jnp.exp(jnp.where(
      rollout.mask, policy - rollout.log_probs, 0))
  _, gradient = _run(losses.heterogeneous_surrogate(.2, .2), (
      policy, advantages, weights, rollout))
  near = (ratio > 1 - .4 / 2) & (ratio < 1 + .2 / 2) & rollout.mask
  assert near.any() and (np.asarray(gradient)[near] == 0).all()
  # Between 1 − 2·ε_low and 1 − ε_low a falling token is not clipped away.
  fallen = (ratio > .6) & (ratio < .8) & (advantages < 0) & rollout.mask
  assert fallen.any() and (np.asarray(gradient)[fallen] != 0).all()


def test_undecided_tokens_that_moved_count_double():
  batch = _batch(1.)
  policy, advantages, weights, rollout = batch
  ratio = jnp.exp(policy - rollout.log_probs)
  _, ours = _run(losses.heterogeneous_surrogate(.2, .2), batch)
  _, plain = _run(losses.clipped_surrogate(.2, .4), batch)
  moved = ((ratio < .9) | (ratio > 1.2)) & rollout.mask
  assert moved.any()
  factor = np.where(moved, 2., 1.)
  np.testing.assert_allclose(ours, factor * plain, rtol=1e-4, atol=1e-7)


def test_extremes_and_holes_stay_finite():
  loss = losses.heterogeneous_surrogate()
  policy, advantages, weights, rollout = _batch(np.linspace(-1, 1, 6))
  for move in (-1e4, 1e4, 60.):
    dirty = jnp.where(rollout.mask, policy + move, jnp.nan)
    value, gradient = _run(loss, (dirty, advantages, weights, rollout))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~np.asarray(rollout.mask)] == 0).all()


def test_who_is_missing_is_named():
  policy, advantages, weights, rollout = _batch(0.)
  with pytest.raises(ValueError, match="needs .*'entropy_score'"):
    _run(losses.heterogeneous_surrogate(), (
        policy, advantages, weights, rollout._replace(extras={})))


@pytest.mark.parametrize('kw, match', [
    (dict(clip_alpha=-1.), 'clip_alpha is -1.0'),
    (dict(adv_beta=-.1), 'adv_beta is -0.1'), (dict(old='new'), "old is 'new'"),
])
def test_wrong_values_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    losses.heterogeneous_surrogate(**kw)
