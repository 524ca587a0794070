"""Agreement of answers against counting them."""

import collections

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS = 9
few = settings(max_examples=20, deadline=None)
ids_of = st.lists(st.integers(-1, 3), min_size=ROWS, max_size=ROWS)
answers_of = st.lists(st.integers(-1, 3), min_size=ROWS, max_size=ROWS)
rewards_of = st.lists(
    st.sampled_from([0., 1., .5, -2.]), min_size=ROWS, max_size=ROWS)
entropy_of = jax.jit(ops.consistency_entropy)
standardize = jax.jit(
    ops.prompt_standardize, static_argnames=('std', 'eps'))


def _members(ids):
  return [np.flatnonzero(np.asarray(ids) == g) for g in set(ids) - {-1}]


@few
@given(answers_of, ids_of)
def test_entropy_equals_counting(answer, ids):
  expected, sizes = np.zeros(ROWS), np.ones(ROWS)
  for rows in _members(ids):
    counts = collections.Counter(np.asarray(answer)[rows].tolist())
    shares = np.array(list(counts.values())) / len(rows)
    expected[rows] = -np.sum(shares * np.log2(shares))
    sizes[rows] = len(rows)
  ours = entropy_of(jnp.array(answer), jnp.array(ids))
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  assert (np.asarray(ours) <= np.log2(sizes) + 1e-5).all()
  coefficient = np.asarray(ops.consistency_coefficient(ours, jnp.array(ids)))
  assert (coefficient <= 1).all() and (coefficient >= 1 / sizes - 1e-5).all()


@few
@given(answers_of, ids_of, st.permutations(range(ROWS)))
def test_entropy_knows_neither_names_nor_order(answer, ids, order):
  answer, ids, order = np.array(answer), np.array(ids), np.array(order)
  plain = np.asarray(entropy_of(answer, ids))
  # Other names for the answers, and all sorts of 'no answer'.
  renamed = np.where(answer < 0, -1 - np.arange(ROWS), 10 - 3 * answer)
  np.testing.assert_array_equal(entropy_of(renamed, ids), plain)
  np.testing.assert_allclose(
      entropy_of(answer[order], ids[order]), plain[order], atol=1e-6)
  moved = np.where(ids < 0, -1, 8 - ids)
  np.testing.assert_array_equal(entropy_of(answer, moved), plain)


def test_unanimous_groups_have_no_entropy_and_the_whole_coefficient():
  ids = jnp.array([0, 0, 0, 2, 2, 5])
  entropy = ops.consistency_entropy(jnp.array([4, 4, 4, -1, -1, 7]), ids)
  assert entropy.tolist() == [0.] * 6
  assert ops.consistency_coefficient(entropy, ids).tolist() == [1.] * 6


def test_groups_that_all_differ_keep_one_part_in_n():
  ids = jnp.array([0, 0, 0, 0, 1, 1])
  entropy = ops.consistency_entropy(jnp.arange(6), ids)
  np.testing.assert_allclose(
      ops.consistency_coefficient(entropy, ids), [.25] * 4 + [.5] * 2,
      rtol=1e-6)


@few
@given(rewards_of, ids_of, st.sampled_from(['sample', 'population', 'none']))
def test_prompts_are_compared_with_each_other(rewards, ids, std):
  rewards, groups = np.array(rewards), _members(ids)
  expected = np.zeros(ROWS)
  means = np.array([rewards[rows].mean() for rows in groups])
  if len(groups) > 1:
    spread = 1. if std == 'none' else (
        np.std(means, ddof=int(std == 'sample')) + 1e-2)
    for rows, mean in zip(groups, means):
      expected[rows] = (mean - means.mean()) / spread
  ours = np.asarray(standardize(
      jnp.array(rewards), jnp.array(ids), std=std, eps=1e-2))
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
  # Each prompt counts once: over them the scores sum to 0.
  total = sum(ours[rows[0]] for rows in groups)
  assert abs(total) < 1e-4


@pytest.mark.parametrize('rewards, ids', [
    ([.1, .1, .1, .1, .1], [0, 0, 0, 1, 1]), ([.3, .7, 0., 1., 2.], [4] * 5),
    ([5., 6., 7., 8., 9.], [-1] * 5)])
def test_nothing_to_compare_gives_exactly_zero(rewards, ids):
  ids = jnp.array(ids)
  scores, gradient = jax.value_and_grad(
      lambda x: jnp.sum(jnp.abs(ops.prompt_standardize(x, ids))))(
          jnp.array(rewards))
  assert scores == 0
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize('mode, expected', [
    ('only_soft', [.5, .5, .5]), ('soft_with_zero', [0, .5, .5]),
    ('soft_with_forced', [.5, 0, .5]), ('only_zero', [0, 1, 1]),
    ('only_forced', [1, 0, 1]), ('only_global', [0, 0, 0]),
    ('no_global', [1, 1, 1])])
def test_modes_of_the_blend(mode, expected):
  weight = ops.blend_weight(
      jnp.full(3, 1.5), jnp.array([0., 2., -1.]), jnp.array([1., 0., -1.]),
      mode=mode, steepness=20., centre=1.5)
  assert weight.tolist() == expected


@pytest.mark.parametrize('steepness', [5., 1e6])
def test_the_blend_turns_with_the_entropy(steepness):
  entropy = jnp.array([0., .9, 1.1, 3.])
  weight = np.asarray(ops.blend_weight(
      entropy, entropy, entropy, mode='only_soft', steepness=steepness))
  assert (np.diff(weight) >= 0).all() and weight[0] < .01 and weight[-1] > .99
  slope = jax.grad(lambda x: jnp.sum(ops.blend_weight(
      x, x, x, mode='only_soft', steepness=steepness)))(entropy)
  assert np.isfinite(slope).all()


def test_an_unknown_mode_is_refused():
  with pytest.raises(ValueError, match="mode is 'soft'; it must be one of"):
    ops.blend_weight(jnp.ones(1), jnp.ones(1), jnp.ones(1), mode='soft')
