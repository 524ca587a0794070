"""Two advantages under one clip."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.losses import blended_surrogate, clipped_surrogate
from policyopt.types import PolicyOutput, Rollout

ROWS, TOKENS = 3, 5
PLAIN = clipped_surrogate(.2, .3, dual_clip=3.)
BLENDS = {coef: blended_surrogate(.2, .3, dual_clip=3., global_coef=coef)
          for coef in (0., 1., 2.)}
UNBOUND = blended_surrogate(dual_clip=None)
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 999)


def _make(seed, scale=.5):
  rng = np.random.default_rng(seed)
  mask = jnp.asarray(rng.random((ROWS, TOKENS)) < .7)

  def noise(scale=1.):
    return jnp.asarray(
        np.where(mask, scale * rng.normal(size=(ROWS, TOKENS)), 0), jnp.float32)

  sampled = -1 + noise()
  rollout = Rollout(
      tokens=jnp.zeros((ROWS, TOKENS), jnp.int32), mask=mask,
      log_probs=jnp.where(mask, sampled, 0), group=jnp.zeros(ROWS, jnp.int32),
      rewards={}, extras={
          'global_advantages': noise(),
          'local_weight': jnp.where(
              mask, jnp.asarray(rng.random((ROWS, 1)), jnp.float32), 0)})
  return rollout, rollout.log_probs + noise(scale), noise(), jnp.abs(noise())


def _with(rollout, **extras):
  return rollout._replace(extras=rollout.extras | extras)


@functools.cache
def _compiled(loss):
  def total(log_probs, rollout, advantages, weights):
    return loss.apply(PolicyOutput(log_probs), advantages, weights, rollout)[0]

  return jax.jit(jax.value_and_grad(total))


def _value(loss, rollout, log_probs, advantages, weights):
  return _compiled(loss)(log_probs, rollout, advantages, weights)


def _same(actual, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-6), actual, expected)


@few
@given(seeds)
def test_one_advantage_alone_is_the_clipped_surrogate(seed):
  rollout, log_probs, advantages, weights = _make(seed)
  blend, plain = BLENDS[1.], PLAIN
  ones = rollout.mask.astype(jnp.float32)
  _same(_value(blend, _with(rollout, local_weight=ones), log_probs, advantages,
               weights),
        _value(plain, rollout, log_probs, advantages, weights))
  _same(_value(blend, _with(rollout, local_weight=0 * ones), log_probs,
               advantages, weights),
        _value(plain, rollout, log_probs, rollout.extras['global_advantages'],
               weights))


@few
@given(seeds, st.sampled_from(list(BLENDS)))
def test_the_blend_is_the_sum_of_both(seed, coef):
  rollout, log_probs, advantages, weights = _make(seed)
  blend, plain = BLENDS[coef], PLAIN
  share = rollout.extras['local_weight']
  local = _value(plain, rollout, log_probs, advantages, weights * share)
  others = _value(plain, rollout, log_probs,
                  rollout.extras['global_advantages'], weights * (1 - share))
  _same(_value(blend, rollout, log_probs, advantages, weights),
        jax.tree.map(lambda a, b: a + coef * b, local, others))


@few
@given(seeds, st.sampled_from([-1e4, 1e4]))
def test_extremes_and_junk_outside_the_mask_stay_finite(seed, move):
  rollout, log_probs, advantages, weights = _make(seed)
  mask = rollout.mask

  def dirty(x):
    return jnp.where(mask, x, jnp.nan)

  loss = UNBOUND
  junk = rollout._replace(
      log_probs=dirty(rollout.log_probs),
      extras=jax.tree.map(dirty, rollout.extras))
  actual = _value(loss, junk, dirty(log_probs + move), dirty(advantages),
                  weights)
  assert all(np.isfinite(x).all() for x in actual)
  _same(actual, _value(loss, rollout, log_probs + move, advantages, weights))


def test_an_empty_mask_costs_nothing():
  rollout, log_probs, advantages, weights = _make(0)
  empty = rollout._replace(mask=jnp.zeros_like(rollout.mask))
  loss, gradient = _value(
      blended_surrogate(), empty, log_probs, advantages, weights)
  assert loss == 0 and (np.asarray(gradient) == 0).all()


def test_what_is_reported():
  rollout, log_probs, advantages, _ = _make(3, scale=2.)
  weights = rollout.mask.astype(jnp.float32)
  _, metrics = blended_surrogate().apply(
      PolicyOutput(log_probs), advantages, weights, rollout)
  _, plain = clipped_surrogate().apply(
      PolicyOutput(log_probs), advantages, weights, rollout)
  assert metrics.keys() == plain.keys() | {'clip_fraction/global'}
  ratio = np.exp(log_probs - rollout.log_probs)
  other = np.asarray(rollout.extras['global_advantages'])
  clipped = np.where(other > 0, ratio > 1.2, ratio < .8) & (other != 0)
  total, count = metrics['clip_fraction/global']
  assert (total, count) == (clipped.sum(), (other != 0).sum())


@pytest.mark.parametrize('name', ['global_advantages', 'local_weight'])
def test_what_is_missing_is_named(name):
  rollout, log_probs, advantages, weights = _make(0)
  extras = {k: x for k, x in rollout.extras.items() if k != name}
  with pytest.raises(ValueError, match=f"blended_surrogate needs .*'{name}'"):
    _value(blended_surrogate(), rollout._replace(extras=extras), log_probs,
           advantages, weights)


def test_an_unknown_sampler_is_refused():
  with pytest.raises(ValueError, match="old is 'older'"):
    blended_surrogate(old='older')
  assert blended_surrogate(old='old_log_probs').needs == {'old_log_probs'}
