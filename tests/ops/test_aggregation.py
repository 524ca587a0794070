"""Means over rows and over the sequences packed into them."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS, TOKENS, SEQUENCES = 3, 12, 7
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
MEANS = {
    'mean': ops.sequence_mean,
    'sum': ops.sequence_sum,
    'constant': lambda w, m, **kw: ops.constant_length(w, m, 5., **kw)}


def _packed(seed):
  """(loss, mask, ids) of packed rows, and the same one sequence to a row."""
  rng = np.random.default_rng(seed)
  loss = rng.normal(size=(ROWS, TOKENS)).astype(np.float32)
  mask = rng.random((ROWS, TOKENS)) < .7
  ids = np.full((ROWS, TOKENS), -1)
  wide = np.zeros((2, SEQUENCES, TOKENS), np.float32)
  sequence = 0
  for row in range(ROWS):
    cuts = np.sort(rng.choice(TOKENS, 2, replace=False))
    names = rng.choice(TOKENS, 3, replace=False)
    ids[row] = names[np.searchsorted(cuts, np.arange(TOKENS))]
    if sequence + 3 > SEQUENCES:
      # What belongs to no sequence: padding whose mask was not cleared.
      ids[row] = -1 - rng.integers(0, 2, TOKENS) + (TOKENS + 2) * (
          rng.random(TOKENS) < .5)
      continue
    for name in names:
      at = np.flatnonzero(ids[row] == name)
      wide[0, sequence, :len(at)] = loss[row, at]
      wide[1, sequence, :len(at)] = mask[row, at]
      sequence += 1
  return (loss, mask, ids), (wide[0], wide[1] != 0)


@jax.jit
def _losses(loss, mask, packed=None):
  return {name: jnp.sum(loss * mean(mask, mask, packed=packed))
          for name, mean in MEANS.items()}


@few
@given(seeds)
def test_packed_equals_unpacked(seed):
  packed, wide = _packed(seed)
  ours, expected = _losses(*packed), _losses(*wide)
  for name in MEANS:
    assert float(ours[name]) == pytest.approx(
        float(expected[name]), rel=1e-4, abs=1e-5), name


@few
@given(seeds)
def test_ids_of_packed_sequences_are_only_names(seed):
  (loss, mask, ids), _ = _packed(seed)
  other = np.random.default_rng(seed + 1).permutation(TOKENS)
  inside = (ids >= 0) & (ids < TOKENS)
  renamed = np.where(inside, other[ids % TOKENS], ids)
  first, second = (_losses(loss, mask, i) for i in (ids, renamed))
  for name in MEANS:
    assert float(first[name]) == pytest.approx(
        float(second[name]), rel=1e-5, abs=1e-6)


def test_one_sequence_to_a_row_is_not_packed():
  (loss, mask, _), _ = _packed(0)
  alone = jnp.full(mask.shape, 3)
  for mean in MEANS.values():
    np.testing.assert_allclose(
        mean(mask, mask, packed=alone), mean(mask, mask), rtol=1e-6)


def test_what_belongs_to_no_sequence_weighs_nothing():
  mask = jnp.ones((1, 4), bool)
  ids = jnp.array([[0, -1, 4, 0]])
  weights = ops.sequence_mean(mask, mask, packed=ids)
  assert weights.tolist() == [[.5, 0, 0, .5]]
  for mean in MEANS.values():
    assert (mean(mask, mask, packed=jnp.full((1, 4), -1)) == 0).all()


def test_empty_rows_count_where_they_are_told_to():
  mask = jnp.array([[True, True], [False, False]])
  expected = {'mean': [.5, .25], 'sum': [1., .5], 'constant': [.2, .1]}
  for name, mean in MEANS.items():
    for rule, weight in zip(('skip', 'count'), expected[name], strict=True):
      weights = mean(mask, mask, empty_rows=rule)
      np.testing.assert_allclose(
          weights, [[weight] * 2, [0, 0]], rtol=1e-6, err_msg=name)


def test_a_batch_of_empty_rows():
  mask = jnp.zeros((2, 3), bool)
  ids = jnp.zeros((2, 3), int)
  for mean in MEANS.values():
    for kw in ({}, dict(empty_rows='count'), dict(packed=ids)):
      assert (mean(mask, mask, **kw) == 0).all()


@pytest.mark.parametrize('kw, match', [
    (dict(empty_rows='drop'), "empty_rows is 'drop'"),
    (dict(empty_rows='count', packed=jnp.zeros((2, 3), int)),
     'cannot be seen in a packed row')])
def test_senseless_arguments_are_refused(kw, match):
  mask = jnp.ones((2, 3), bool)
  for mean in MEANS.values():
    with pytest.raises(ValueError, match=match):
      mean(mask, mask, **kw)
