"""Order statistics by bits agree with sorting."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.ops import selection

SHAPE = (3, 5)
# Few different numbers, so that there are ties.
NUMBERS = st.lists(
    st.sampled_from([-3e38, -2., -1e-40, -0., 0., 1e-40, .5, 7., 3e38]),
    min_size=15, max_size=15)
MASKS = st.lists(st.booleans(), min_size=15, max_size=15)


@jax.jit
def _both(x, mask, count):
  rows = jnp.sum(mask, axis=1)
  return (selection.kth_smallest(x, mask, count),
          selection.kth_smallest(x, mask, jnp.maximum(rows, 1), axis=1),
          selection.first_tokens(mask, x, count),
          selection.first_tokens(mask, x, count, ties='last'))


@settings(max_examples=25, deadline=None)
@given(NUMBERS, MASKS, st.integers(1, 15))
def test_agrees_with_a_sort(numbers, mask, count):
  x = np.array(numbers, np.float32).reshape(SHAPE)
  # Numbers below the smallest normal one count as 0, as in all of XLA.
  x = np.where(np.abs(x) < 1e-38, 0, x).astype(np.float32)
  mask = np.array(mask).reshape(SHAPE)
  kth, largest, first, last = jax.tree.map(
      np.asarray, _both(x, mask, count))
  inside = np.sort(x[mask])
  if count <= len(inside):
    assert kth == inside[count - 1]
  for row in range(SHAPE[0]):
    if mask[row].any():
      assert largest[row] == x[row][mask[row]].max()
  flat = np.flatnonzero(mask.reshape(-1))
  for taken, sign in (first, 1), (last, -1):
    order = sorted(flat, key=lambda i: (x.reshape(-1)[i], sign * i))
    wanted = np.zeros(15, bool)
    wanted[order[:count]] = True
    np.testing.assert_array_equal(taken.reshape(-1), wanted)


def test_numbers_come_back_from_their_bits():
  x = jnp.array([-jnp.inf, -1.5, 0., 2., jnp.inf])
  keys = selection.ordered_bits(x)
  assert (np.diff(np.asarray(keys).astype(np.int64)) > 0).all()
  every = jnp.ones((1, 5), bool)
  for k, value in enumerate(x.tolist(), 1):
    assert float(selection.kth_smallest(x[None], every, k)) == value


def test_unknown_ties_are_refused():
  with pytest.raises(ValueError, match="ties is 'any'"):
    selection.first_tokens(jnp.ones((1, 1), bool), jnp.ones((1, 1)), 1,
                           ties='any')
