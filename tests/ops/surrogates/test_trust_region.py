"""Divergence masks, the second moment, exact KL and V-MPO's weights."""

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


def _draw(seed):
  rng = np.random.default_rng(seed)
  new, old = -rng.exponential(size=(2, *SHAPE)).astype(np.float32)
  advantages = rng.normal(size=SHAPE).astype(np.float32)
  return map(jnp.asarray, (new, old, advantages, rng.random(SHAPE) < .7))


def test_binary_kl_by_hand():
  old, new = .3, .6
  expected = old * np.log(old / new) + (1 - old) * np.log((1 - old) / (1 - new))
  ours = ops.binary_kl(jnp.log(jnp.array([new])), jnp.log(jnp.array([old])))
  np.testing.assert_allclose(ours, [expected], rtol=1e-5)


def test_binary_kl_of_what_is_no_probability():
  kl = ops.binary_kl(jnp.array([0., 5., -1e4]), jnp.array([-1., -1., -1.]))
  assert kl[1] == jnp.inf and jnp.isfinite(kl[jnp.array([0, 2])]).all()


@few
@given(seeds, st.sampled_from(['tv', 'kl']))
def test_who_has_not_moved_or_moves_back_takes_part(seed, divergence):
  new, old, advantages, _ = _draw(seed)
  kw = dict(divergence=divergence)
  assert ops.divergence_mask(old, old, advantages, 0., 0., **kw).all()
  kept = ops.divergence_mask(new, old, advantages, 1e-3, 1e-3, **kw)
  back = jnp.where(advantages > 0, new < old, new > old)
  assert (kept | ~back).all()
  # And a wider bound drops nobody whom a narrower one keeps.
  wide = ops.divergence_mask(new, old, advantages, .1, .1, **kw)
  assert (wide | ~kept).all()


def test_an_unknown_divergence_is_named():
  x = jnp.zeros((1, 1))
  with pytest.raises(ValueError, match="divergence is 'js'.*'tv', 'kl'"):
    ops.divergence_mask(x, x, x, .1, .1, divergence='js')


@few
@given(seeds, st.floats(1e-3, 4.))
def test_the_second_moment_of_who_stays_is_below_the_bound(seed, threshold):
  new, old, _, mask = _draw(seed)
  x = jnp.where(mask, new - old, jnp.nan)
  kept = ops.second_moment_mask(x, mask, threshold)
  assert (mask | ~kept).all()
  square = np.square(np.asarray(x))
  stay, go = np.asarray(kept), np.asarray(mask & ~kept)
  if not mask.any():
    return
  assert stay.sum() >= 1
  if stay.sum() > 1:
    assert square[stay].mean() < threshold
  if go.any():
    assert square[go].min() >= square[stay].max()
    more = np.append(square[stay], square[go].min())
    assert more.mean() >= threshold * (1 - 1e-5)


def test_the_second_moment_does_not_heed_the_order_of_rows():
  new, old, _, mask = _draw(3)
  order = np.random.default_rng(0).permutation(SHAPE[0])
  kept = ops.second_moment_mask(new - old, mask, .2)
  moved = ops.second_moment_mask((new - old)[order], mask[order], .2)
  np.testing.assert_array_equal(moved, kept[order])


def test_an_empty_mask_keeps_nobody():
  x = jnp.full(SHAPE, jnp.nan)
  assert not ops.second_moment_mask(x, jnp.zeros(SHAPE, bool), 1.).any()


@few
@given(seeds)
def test_categorical_kl_is_the_sum_and_never_negative(seed):
  rng = np.random.default_rng(seed)
  p_logits, q_logits = rng.normal(size=(2, 3, 5)).astype(np.float32)
  p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True)
          for x in (p_logits, q_logits))
  kl = ops.categorical_kl(jnp.asarray(p_logits), jnp.asarray(q_logits))
  np.testing.assert_allclose(
      kl, (p * np.log(p / q)).sum(-1), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      ops.categorical_kl(jnp.asarray(p_logits), jnp.asarray(p_logits + 2.)),
      0., atol=1e-6)


def test_categorical_kl_of_removed_tokens():
  logits = jnp.array([0., 1., -jnp.inf])
  kl, slope = jax.value_and_grad(ops.categorical_kl)(logits, logits)
  assert kl == 0 and jnp.isfinite(slope).all()


@few
@given(seeds, st.floats(.1, 1.))
def test_vmpo_weights_are_a_distribution_over_the_best(seed, top):
  *_, advantages, mask = _draw(seed)
  dirty = jnp.where(mask, advantages, jnp.nan)
  weights, loss = ops.vmpo_weights(dirty, mask, .5, .1, top_fraction=top)
  assert jnp.isfinite(loss)
  if not mask.any():
    assert (weights == 0).all() and loss == 0
    return
  assert float(weights.sum()) == pytest.approx(1., rel=1e-5)
  count = max(1, int(np.floor(np.float32(top) * np.float32(mask.sum()))))
  assert (np.asarray(weights) > 0).sum() == count
  worst = advantages[weights > 0].min()
  assert (advantages[mask & (weights == 0)] <= worst).all()


def test_vmpo_s_temperature_balances_at_the_allowed_distance():
  advantages = jnp.array([3., 1., .5, -1.])
  mask = jnp.ones(4, bool)

  @jax.jit
  @jax.grad
  def slope(temperature):
    return ops.vmpo_weights(
        advantages, mask, temperature, .2, top_fraction=1.)[1]

  low, high = .05, 50.
  for _ in range(60):
    middle = (low * high)**.5
    low, high = (middle, high) if slope(middle) < 0 else (low, middle)
  psi = ops.vmpo_weights(advantages, mask, low, .2, top_fraction=1.)[0]
  distance = float(jnp.sum(psi * jnp.log(psi * 4)))
  assert distance == pytest.approx(.2, abs=1e-3)


@pytest.mark.parametrize('top', [0., 1.5, -1.])
def test_a_wrong_fraction_is_refused(top):
  with pytest.raises(ValueError, match='top_fraction is'):
    ops.vmpo_weights(jnp.ones(2), jnp.ones(2, bool), 1., .1, top_fraction=top)
