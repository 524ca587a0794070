"""The covariance of tokens, and draws that do not heed where a row stands."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from policyopt import ops

SHAPE = (5, 6)
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
token_words = jax.jit(ops.token_words)


def _draw(seed):
  rng = np.random.default_rng(seed)
  log_probs = -rng.exponential(size=SHAPE).astype(np.float32)
  advantages = rng.normal(size=SHAPE).astype(np.float32)
  tokens = rng.integers(0, 9, SHAPE)
  mask = rng.random(SHAPE) < .7
  return map(jnp.asarray, (log_probs, advantages, tokens, mask))


@few
@given(seeds)
def test_the_mean_of_the_covariances_is_the_covariance(seed):
  log_probs, advantages, _, mask = _draw(seed)
  cov = ops.token_covariance(
      advantages, jnp.where(mask, log_probs, jnp.nan), mask)
  assert (cov[~mask] == 0).all()
  if mask.sum() > 1:
    a, b = np.asarray(advantages)[mask], np.asarray(log_probs)[mask]
    np.testing.assert_allclose(
        cov.sum() / mask.sum(), np.cov(a, b, ddof=0)[0, 1], rtol=1e-4,
        atol=1e-5)


@few
@given(seeds, st.integers(0, 40))
def test_the_first_tokens_have_the_smallest_scores(seed, count):
  score, _, _, mask = _draw(seed)
  chosen = ops.first_tokens(mask, score, jnp.asarray(count))
  assert int(chosen.sum()) == min(count, int(mask.sum()))
  assert (mask | ~chosen).all()
  rest = np.asarray(mask & ~chosen)
  if rest.any() and chosen.any():
    assert score[chosen].max() <= score[rest].min()


def test_ties_go_to_the_first_place():
  chosen = ops.first_tokens(
      jnp.array([[False, True], [True, True]]), jnp.zeros((2, 2)),
      jnp.asarray(2))
  np.testing.assert_array_equal(chosen, [[False, True], [True, False]])


@few
@given(seeds, st.floats(0., 1.))
def test_at_least_one_token_and_never_more_than_the_fraction(seed, fraction):
  *_, mask = _draw(seed)
  count = int(ops.fraction_of_tokens(mask, fraction))
  assert 1 <= count <= max(1, fraction * mask.sum() * (1 + 1e-6))


@settings(max_examples=5, deadline=None)
@given(seeds, st.integers(0, 99))
def test_words_belong_to_tokens_not_to_places(seed, key):
  log_probs, _, tokens, mask = _draw(seed)

  def draw(*args):
    return token_words(jax.random.key(key), *args)

  words = draw(tokens, log_probs, mask)
  order = np.random.default_rng(seed).permutation(SHAPE[0])
  moved = draw(tokens[order], log_probs[order], mask[order])
  np.testing.assert_array_equal(moved[mask[order]], words[order][mask[order]])
  wide = [jnp.pad(x, ((0, 2), (0, 3))) for x in (tokens, log_probs, mask)]
  padded = draw(*wide)[:SHAPE[0], :SHAPE[1]]
  np.testing.assert_array_equal(padded[mask], words[mask])
  apart = np.insert(np.arange(SHAPE[1]), 2, 0)  # An observation at place 2.
  tokens_apart, log_probs_apart = tokens[:, apart], log_probs[:, apart]
  mask_apart = mask[:, apart].at[:, 2].set(False)
  wider = draw(tokens_apart, log_probs_apart, mask_apart)
  np.testing.assert_array_equal(wider[mask_apart], words[mask])
  # What is not chosen is not read.
  dirty = draw(jnp.where(mask, tokens, 77),
               jnp.where(mask, log_probs, jnp.nan), mask)
  np.testing.assert_array_equal(dirty[mask], words[mask])


def test_words_differ_between_tokens_rows_and_keys():
  tokens = jnp.zeros((32, 32), jnp.int32)
  log_probs = jnp.arange(32.)[:, None] + jnp.zeros((32, 32))
  mask = jnp.ones((32, 32), bool)
  words = np.stack([ops.token_words(
      jax.random.key(k), tokens, log_probs, mask) for k in (0, 1)])
  assert len(np.unique(words)) == words.size
  # Uniform: a mean of 2048 draws is within five standard errors of a half.
  assert abs(words.mean() / 2**32 - .5) < 5 * (1 / 12 / words.size)**.5
