"""Group statistics over tokens against loops, and where they fall back."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS, TOKENS = 6, 20
few = settings(max_examples=25, deadline=None)
rewards_of = st.lists(
    st.floats(-5, 5, width=32), min_size=ROWS, max_size=ROWS).map(
        lambda x: np.array(x, np.float32))
ids_of = st.lists(
    st.integers(-1, ROWS - 1), min_size=ROWS, max_size=ROWS).map(np.array)
lengths_of = st.lists(
    st.integers(0, TOKENS), min_size=ROWS, max_size=ROWS).map(np.array)


def _mask(lengths):
  return np.arange(TOKENS)[None] < lengths[:, None]


@functools.cache
def _compiled(kw):
  return jax.jit(functools.partial(ops.token_group_standardize, **dict(kw)))


def _ours(rewards, lengths, ids, **kw):
  return np.asarray(_compiled(tuple(sorted(kw.items())))(
      rewards, _mask(lengths), ids))


@few
@given(rewards_of, lengths_of, ids_of,
       st.sampled_from(['population', 'sample', 'none']))
def test_equals_a_loop_over_tokens(rewards, lengths, ids, std):
  expected = np.zeros(ROWS)
  for group in set(ids[ids >= 0].tolist()):
    rows = np.flatnonzero((ids == group) & (lengths > 0))
    tokens = np.repeat(rewards[rows].astype(np.float64), lengths[rows])
    if not len(tokens):
      continue
    ddof = int(std == 'sample')
    spread = tokens.std(ddof=ddof) if len(tokens) > ddof else 0.
    scale = 1 if std == 'none' else spread + .01
    expected[rows] = (rewards[rows] - tokens.mean()) / scale
  ours = _ours(rewards, lengths, ids, std=std, eps=.01, limit=None)
  np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


@few
@given(rewards_of, lengths_of, ids_of)
def test_the_tokens_of_a_group_sum_to_zero(rewards, lengths, ids):
  ours = _ours(rewards, lengths, ids, eps=.01, limit=None)
  for group in range(ROWS):
    assert abs((ours * lengths)[ids == group].sum()) < .05


@few
@given(rewards_of, ids_of, st.integers(1, TOKENS))
def test_rows_of_equal_length_need_no_tokens(rewards, ids, length):
  lengths = np.full(ROWS, length)
  np.testing.assert_allclose(
      _ours(rewards, lengths, ids, eps=.01, limit=None),
      ops.group_standardize(rewards, ids, std='population', eps=.01),
      rtol=1e-4, atol=1e-4)


@few
@given(lengths_of, ids_of, st.floats(-5, 5, width=32))
def test_equal_rewards_give_zero(lengths, ids, reward):
  rewards = np.full(ROWS, reward, np.float32)
  for eps in (1e-6, 0.):
    assert (_ours(rewards, lengths, ids, eps=eps) == 0).all()


@few
@given(rewards_of, lengths_of, ids_of)
def test_a_group_at_the_limit_is_measured_by_rows(rewards, lengths, ids):
  free = _ours(rewards, lengths, ids, eps=.01, limit=None)
  held = _ours(rewards, lengths, ids, eps=.01, limit=1.5)
  by_row = np.asarray(ops.group_standardize(
      rewards, np.where(lengths > 0, ids, -1), eps=.01))
  for group in range(ROWS):
    rows = ids == group
    top = np.abs(free[rows]).max(initial=0.)
    if abs(top - 1.5) > 1e-3:
      np.testing.assert_allclose(
          held[rows], (by_row if top > 1.5 else free)[rows], atol=1e-5)


def test_padding_counts_only_when_asked():
  rewards = np.array([1., .9, .8, 1., 0., 0.], np.float32)
  ids = np.array([0, 0, 0, 0, -1, -1])
  lengths = np.array([3, 4, 5, 5, 1, 1])
  plain = _ours(rewards, lengths, ids)
  padded = _ours(rewards, lengths, ids, count_padding=True)
  by_row = ops.group_standardize(rewards, ids)
  assert np.abs(plain - by_row).max() > .01
  np.testing.assert_allclose(padded, by_row, rtol=1e-6)
  # Without padding there is nothing to count.
  full = np.array([20, 20, 20, 20, 1, 1])
  np.testing.assert_array_equal(
      _ours(rewards, full, ids, count_padding=True),
      _ours(rewards, full, ids))


def test_one_row_alone_gets_nothing():
  rewards, ids = np.ones(ROWS, np.float32), np.arange(ROWS)
  lengths = np.array([0, 1, 5, 20, 7, 3])
  for padding in (False, True):
    assert (_ours(rewards, lengths, ids, count_padding=padding) == 0).all()
  raw = _ours(rewards, lengths, ids, count_padding=True, singleton='raw')
  np.testing.assert_allclose(raw, [0, 1, 1, 0, 1, 1], rtol=1e-5)


def test_gradients_are_finite():
  ids, mask = np.array([0, 0, 1, 1, 2, -1]), _mask(
      np.array([1, 20, 0, 3, 4, 5]))
  for eps in (0., 1e-6):
    gradient = jax.jit(jax.grad(lambda r, eps=eps: jnp.sum(jnp.square(
        ops.token_group_standardize(r, mask, ids, eps=eps)))))
    for rewards in (np.ones(ROWS), np.arange(ROWS), 1e4 * np.eye(ROWS)[0]):
      assert np.isfinite(gradient(rewards.astype(np.float32))).all()


def test_unknown_rules_are_refused():
  with pytest.raises(ValueError, match="std is 'samples'"):
    ops.token_group_standardize(
        np.ones(2), np.ones((2, 2)), np.zeros(2, int), std='samples')
