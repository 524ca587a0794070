"""The entropy scale against numpy, and what must hold of it."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS, TOKENS = 3, 5
few = settings(max_examples=25, deadline=None)
entropies = st.lists(
    st.floats(0, 10, width=32), min_size=ROWS * TOKENS,
    max_size=ROWS * TOKENS).map(
        lambda x: np.array(x, np.float32).reshape(ROWS, TOKENS))
masks = st.lists(
    st.booleans(), min_size=ROWS * TOKENS, max_size=ROWS * TOKENS).map(
        lambda x: np.array(x).reshape(ROWS, TOKENS))
quantiles = st.sampled_from([0., .5, .8, 1.])


@functools.cache
def _compiled(quantile):
  def run(entropy, mask):
    scale = ops.fit_entropy_scale(entropy, mask, quantile=quantile)
    return scale, ops.entropy_score(ops.fill(entropy, mask), scale)
  return jax.jit(run)


def _fit(entropy, mask, quantile=.8):
  return jax.tree.map(np.asarray, _compiled(quantile)(entropy, mask))


@few
@given(entropies, masks, quantiles)
def test_the_scale_is_that_of_a_plain_computation(entropy, mask, quantile):
  scale, score = _fit(entropy, mask, quantile)
  log = np.log(np.maximum(entropy, np.float32(1e-8)).astype(np.float64))[mask]
  if not len(log):
    assert scale.pivot == 0
    assert np.isfinite(np.array(scale)).all() and np.isfinite(score).all()
    return
  rank = int(np.round((len(log) - 1) * quantile))
  h = log - np.sort(log)[rank]
  spread = np.sqrt(max(np.mean(h ** 2), 1e-8))
  high, low = max((h / spread).max(), 1e-8), max((-h / spread).max(), 1e-8)
  np.testing.assert_allclose(scale.pivot, np.sort(log)[rank], atol=1e-5)
  np.testing.assert_allclose(scale.spread, spread, rtol=1e-4, atol=1e-6)
  if spread > 1e-3:  # Below that what is left is the rounding of logarithms.
    expected = h / spread / np.where(h > 0, high, low)
    np.testing.assert_allclose(score[mask], expected, atol=1e-3)


@few
@given(entropies, masks, quantiles)
def test_scores_lie_between_their_ends(entropy, mask, quantile):
  scale, score = _fit(entropy, mask, quantile)
  inside = score[mask]
  assert (np.abs(inside) <= 1 + 1e-6).all()
  if scale.high > 1e-4:
    assert inside.max() == pytest.approx(1.)
  if scale.low > 1e-4:
    assert inside.min() == pytest.approx(-1.)


@few
@given(entropies, masks, st.permutations(range(ROWS * TOKENS)),
       st.floats(.5, 2., width=32))
def test_neither_order_nor_unit_matters(entropy, mask, order, unit):
  entropy = np.maximum(entropy, .01)  # Away from the floor.
  scale, score = _fit(entropy, mask)
  order = np.array(order)
  mixed, far = entropy.ravel()[order], mask.ravel()[order]
  for other in (np.float32(unit) * entropy, entropy):
    moved, scores = _fit(other, mask)
    if scale.spread > 1e-2:
      np.testing.assert_allclose(scores[mask], score[mask], atol=1e-3)
    np.testing.assert_allclose(moved.spread, scale.spread, atol=1e-5)
  shuffled, scores = _fit(mixed.reshape(ROWS, TOKENS), far.reshape(
      ROWS, TOKENS))
  np.testing.assert_allclose(shuffled, scale, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      scores.ravel()[far], score.ravel()[order][far], atol=1e-5)


def test_equal_entropies_score_zero():
  entropy = np.full((ROWS, TOKENS), .7, np.float32)
  scale, score = _fit(entropy, np.ones_like(entropy, bool))
  assert (score == 0).all()
  assert scale.spread == pytest.approx(1e-4)
  assert scale.high == scale.low == pytest.approx(1e-8)


def test_what_lies_outside_the_mask_is_never_read():
  entropy = np.linspace(0, 3, 15, dtype=np.float32).reshape(ROWS, TOKENS)
  mask = entropy > 1
  dirty = np.where(mask, entropy, np.nan)
  np.testing.assert_array_equal(
      np.array(_fit(dirty, mask)[0]), np.array(_fit(entropy, mask)[0]))
  assert np.isfinite(_fit(dirty, mask)[1]).all()


def test_entropies_are_constants():
  entropy = jnp.asarray([[.1, 0., 2., 2., 5.]] * ROWS)

  def total(entropy):
    scale = ops.fit_entropy_scale(entropy, entropy < 3)
    heat = ops.Heat(.1, *scale)
    return jnp.sum(ops.entropy_score(entropy, scale) + ops.heated(
        entropy, heat))

  assert (jax.grad(total)(entropy) == 0).all()


def test_a_published_score_has_no_sign():
  entropy = np.linspace(0, 3, 15, dtype=np.float32).reshape(ROWS, TOKENS)
  scale, score = _fit(entropy, np.ones_like(entropy, bool))
  np.testing.assert_allclose(
      ops.entropy_score(entropy, ops.EntropyScale(*scale), signed=False),
      np.abs(score), rtol=1e-6)


@few
@given(st.floats(0, 50, width=32), st.floats(0, .5, width=32))
def test_heat_is_bounded(entropy, strength):
  strength = np.float32(strength)
  heat = ops.Heat(strength, np.float32(-1.), np.float32(1e-4),
                  np.float32(1e-8), np.float32(1e-8))
  factor = float(ops.heated(np.float32(entropy), heat))
  assert abs(factor - 1) <= strength + 1e-6
  assert ops.heated(np.float32(entropy), heat._replace(strength=0.)) == 1


scores = st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4).map(
    lambda x: np.array(x, np.float32))


@few
@given(scores)
def test_clips_only_widen(score):
  low, high = map(np.asarray, ops.adaptive_clip(score, .2, .28))
  assert (low >= np.float32(.2)).all() and (low <= .4001).all()
  assert (high >= np.float32(.28)).all() and (high <= .5601).all()
  assert ((low == np.float32(.2)) | (high == np.float32(.28))).all()
  for narrow in ops.adaptive_clip(score, .2, .2, alpha=0.):
    np.testing.assert_allclose(narrow, .2)


@few
@given(scores, st.lists(st.floats(.5, 2., width=32), min_size=4, max_size=4),
       st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_redistribution_keeps_signs(score, ratio, advantages):
  ratio, advantages = (np.array(x, np.float32) for x in (ratio, advantages))
  low, high = ops.adaptive_clip(score, .2, .28)
  changed = np.asarray(ops.redistribute(advantages, score, ratio, low, high))
  assert (changed * advantages >= 0).all()
  assert (np.abs(changed) <= 2 * np.abs(advantages) + 1e-6).all()
  near = (ratio > 1 - low / 2) & (ratio < 1 + high / 2)
  same = np.asarray(np.where(score > 0, near, ~near))
  np.testing.assert_array_equal(changed[same], advantages[same])
  np.testing.assert_array_equal(
      ops.redistribute(advantages, score, ratio, low, high, beta=0.),
      advantages)
