"""What a policy was sure of."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

tail_confidence = jax.jit(ops.tail_confidence, static_argnames='fraction')
few = settings(max_examples=20, deadline=None)
masks = st.lists(st.booleans(), min_size=12, max_size=12)


@few
@given(masks, st.integers(0, 99))
def test_confidence_lies_between_the_least_and_the_mean_probability(mask, seed):
  mask = np.array(mask).reshape(2, 6)
  log_probs = -np.random.default_rng(seed).exponential(size=(2, 6))
  ours = np.asarray(tail_confidence(
      jnp.where(mask, log_probs, jnp.nan), jnp.array(mask), fraction=.4))
  whole = np.asarray(tail_confidence(
      jnp.array(log_probs), jnp.array(mask), fraction=1.))
  for row in range(2):
    inside = log_probs[row][mask[row]]
    if not len(inside):
      assert ours[row] == whole[row] == 1
    else:
      assert ours[row] <= np.exp(inside.mean()) * (1 + 1e-5)
      assert ours[row] >= np.exp(inside.min()) * (1 - 1e-5)
      assert whole[row] == pytest.approx(np.exp(inside.mean()), rel=1e-5)


@few
@given(masks)
def test_the_prompt_ends_where_the_first_token_is_chosen(mask):
  mask = np.array(mask).reshape(2, 6)
  expected = np.zeros((2, 6), bool)
  for row in range(2):
    chosen = np.flatnonzero(mask[row])
    if len(chosen):
      expected[row, 1:chosen[0]] = True
  np.testing.assert_array_equal(ops.prompt_tokens(jnp.array(mask)), expected)


@few
@given(masks, st.integers(0, 99), st.booleans())
def test_the_shift_is_a_mean_or_a_sum_of_log_ratios(mask, seed, normalised):
  mask = np.array(mask).reshape(2, 6)
  ratio = np.random.default_rng(seed).normal(size=(2, 6))
  shift = ops.confidence_shift(
      jnp.where(mask, ratio - 1, jnp.nan), jnp.where(mask, -1., jnp.inf),
      jnp.array(mask), length_normalised=normalised)
  count = np.maximum(mask.sum(1), 1) if normalised else 1
  np.testing.assert_allclose(
      shift, (ratio * mask).sum(1) / count, rtol=1e-4, atol=1e-5)


def test_surer_errors_count_more():
  shift = jnp.array([-1e4, -2., 0., 2., 1e4])
  factor = np.asarray(ops.error_multiplier(shift, .5))
  assert (np.diff(factor) > 0).all() and (factor >= 1).all()
  assert factor[2] == pytest.approx(1 + .5 * np.log(2))
  assert (np.asarray(ops.error_multiplier(shift, 0.)) == 1).all()
  slope = jax.vmap(jax.grad(lambda c: ops.error_multiplier(c, .5)))(shift)
  np.testing.assert_allclose(slope, .5 * jax.nn.sigmoid(shift), rtol=1e-5)
