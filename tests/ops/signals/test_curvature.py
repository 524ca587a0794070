"""The model of the output layer against plain loops over tokens."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

B, T, D, K, V = 2, 3, 4, 3, 6
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)


def _tokens(seed):
  """hidden, probs, ids, tokens, advantages, accepted of a random batch."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(B, T, V))
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  ids = np.argsort(-probs, -1)[..., :K]
  return dict(
      hidden=rng.normal(size=(B, T, D)).astype(np.float32),
      probs=np.take_along_axis(probs, ids, -1).astype(np.float32), ids=ids,
      tokens=rng.integers(0, V, (B, T)),
      advantages=rng.normal(size=(B, T)).astype(np.float32),
      accepted=rng.random((B, T)) < .6)


def _moments(seed, filled=True):
  rng = np.random.default_rng(seed)
  return ops.HeadMoments(
      jnp.asarray(rng.normal(size=(V, D)), jnp.float32),
      jnp.asarray(rng.random((V, D)), jnp.float32),
      jnp.int32(3), jnp.asarray(filled))


@jax.jit
def _predict(x, moments, rate, scale=1.):
  probs, score = ops.candidate_scores(x['tokens'], x['ids'], x['probs'], K)
  gradient = x['advantages'][:, :, None] * score
  change = ops.logit_change(
      scale * x['hidden'], gradient, x['ids'], moments)
  m = ops.predicted_change(change, score, probs, x['advantages'], rate)
  return probs, score, m


def _one(x, moments, rate, b, t):
  """m_H and m_F of a token, by full matrices."""
  x = {name: np.asarray(v[b, t], np.float64) for name, v in x.items()}
  ids = x['ids'].astype(int)
  p = x['probs'] / x['probs'].sum()
  v = (ids == x['tokens']) - p
  g = x['advantages'] * np.outer(v, x['hidden'])
  direction = g
  if moments is not None and moments.filled:
    n = int(moments.count) + 1
    mean, square = (np.asarray(m, np.float64)[ids] for m in moments[:2])
    mean = (.9 * mean + .1 * g) / (1 - .9 ** n)
    square = (.999 * square + .001 * g ** 2) / (1 - .999 ** n)
    direction = mean / (np.sqrt(square) + 1e-8)
  u = direction @ x['hidden']
  variance = (p * u ** 2).sum() - (p * u).sum() ** 2
  slope = rate * (g * direction).sum()
  curve = x['advantages'] * ((v @ u) ** 2 - variance)
  return slope + rate ** 2 / 2 * curve, rate ** 2 / 2 * (v @ u) ** 2


@few
@given(seeds, st.sampled_from(['sgd', 'adam', 'empty']))
def test_predictions_equal_a_loop(seed, kind):
  x = _tokens(seed)
  moments = None if kind == 'sgd' else _moments(seed, kind == 'adam')
  m_h, m_f = _predict(x, moments, .05)[2]
  for b in range(B):
    for t in range(T):
      expected = _one(x, moments, .05, b, t)
      np.testing.assert_allclose(
          (m_h[b, t], m_f[b, t]), expected, rtol=2e-3, atol=1e-6)


@few
@given(seeds)
def test_an_empty_model_of_adam_is_sgd(seed):
  x = _tokens(seed)
  for a, b in zip(_predict(x, ops.empty_moments(V, D), .1)[2],
                  _predict(x, None, .1)[2]):
    np.testing.assert_allclose(a, b, rtol=1e-6)


@few
@given(seeds)
def test_the_closed_form_of_sgd(seed):
  x, rate = _tokens(seed), .1
  probs, score, (m_h, m_f) = _predict(x, None, rate)
  v2 = (score ** 2).sum(-1)
  h2 = (x['hidden'] ** 2).sum(-1)
  a = x['advantages']
  variance = (probs * score ** 2).sum(-1) - (probs * score).sum(-1) ** 2
  np.testing.assert_allclose(
      m_f, rate ** 2 / 2 * (a * h2 * v2) ** 2, rtol=1e-3, atol=1e-7)
  np.testing.assert_allclose(
      m_h, rate * a ** 2 * v2 * h2
      + rate ** 2 / 2 * a ** 3 * h2 ** 2 * (v2 ** 2 - variance),
      rtol=1e-3, atol=1e-5)


@few
@given(seeds)
def test_how_predictions_scale(seed):
  x = _tokens(seed)
  m_f = _predict(x, None, .1)[2][1]
  assert (m_f >= 0).all()
  double = dict(x, advantages=2 * x['advantages'])
  for other in (_predict(x, None, .2)[2][1] / 4,
                _predict(double, None, .1)[2][1] / 4,
                _predict(x, None, .1, 2.)[2][1] / 16):
    np.testing.assert_allclose(other, m_f, rtol=1e-4)
  still = dict(x, advantages=np.zeros((B, T), np.float32))
  for moments in (None, _moments(seed)):
    for m in _predict(still, moments, .1)[2][:1 if moments else 2]:
      assert (np.asarray(m) == 0).all()


def test_candidates_are_renormalised():
  x = _tokens(0)
  x['tokens'][0, 0] = np.setdiff1d(np.arange(V), x['ids'][0, 0])[0]
  x['tokens'][0, 1] = x['ids'][0, 1, 0]
  probs, score, _ = _predict(x, None, .1)
  np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-6)
  # A token that is no candidate is no winner of the others' loss.
  np.testing.assert_array_equal(score[0, 0], -probs[0, 0])
  assert score[0, 1].sum() == pytest.approx(0, abs=1e-6)
  full, _ = ops.candidate_scores(x['tokens'], x['ids'], x['probs'], 50)
  assert full.shape[-1] == K
  empty, _ = ops.candidate_scores(
      x['tokens'], x['ids'], np.zeros_like(x['probs']), K)
  assert (empty == 0).all()


@few
@given(seeds)
def test_moments_equal_a_loop(seed):
  x, before = _tokens(seed), _moments(seed)
  _, score = ops.candidate_scores(x['tokens'], x['ids'], x['probs'], K)
  gradient = x['advantages'][:, :, None] * score
  after = _update(before, x['hidden'], gradient, x['ids'], x['accepted'])
  rows = [[] for _ in range(V)]
  for b in range(B):
    for t in range(T):
      if x['accepted'][b, t]:
        for k, row in enumerate(x['ids'][b, t]):
          rows[row].append(np.asarray(gradient)[b, t, k] * x['hidden'][b, t])
  for row, found in enumerate(rows):
    mean, square = (np.asarray(m)[row] for m in before[:2])
    if found:
      average = np.mean(found, 0)
      mean = .9 * mean + .1 * average
      square = .999 * square + .001 * average ** 2
    np.testing.assert_allclose(after.mean[row], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.square[row], square, rtol=1e-4, atol=1e-6)
  assert after.count == 4


_update = jax.jit(ops.update_moments)


def test_a_batch_in_which_nothing_is_accepted():
  x, empty = _tokens(0), ops.empty_moments(V, D)
  gradient = np.ones((B, T, K), np.float32)
  none = _update(empty, x['hidden'], gradient, x['ids'],
                 np.zeros((B, T), bool))
  assert not none.mean.any() and not none.square.any()
  assert none.count == 1 and not none.filled
  assert _update(none, x['hidden'], gradient, x['ids'],
                 np.ones((B, T), bool)).filled


def test_the_rows_of_a_batch_may_come_in_any_order():
  x = _tokens(0)
  gradient = np.ones((B, T, K), np.float32)
  one, other = (
      _update(_moments(0), *(v[::step] for v in (
          x['hidden'], gradient, x['ids'], x['accepted'])))
      for step in (1, -1))
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)


def test_limits_are_strict():
  m_h = jnp.array([0., -.5, .5, 1., -1., jnp.nan])
  zero = jnp.zeros(6)
  within = functools.partial(ops.within_limits, m_h)
  assert within(zero, 1., 1.).tolist() == [True] * 3 + [False] * 3
  assert within(zero, 1., 1., one_sided=True).tolist() == [
      True, False, True, False, False, False]
  assert not within(zero, 0., 1.).any() and not within(zero, 1., 0.).any()
  assert not within(jnp.full(6, jnp.inf), jnp.inf, jnp.inf).any()


def test_extremes_stay_finite():
  x = dict(_tokens(0), advantages=np.full((B, T), 1e3, np.float32))
  x['hidden'] *= 100
  for moments in (None, _moments(0), ops.empty_moments(V, D)._replace(
      filled=jnp.asarray(True))):
    assert np.isfinite(np.array(_predict(x, moments, 1e-3)[2])).all()
