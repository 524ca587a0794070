"""Tests of the sizes that batches come in, and of rows packed into them."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from policyopt.data.packing import HEIGHTS, pack_rows
from policyopt.data.sizes import buckets, smallest


@given(st.integers(1, 5000), st.integers(1, 9), st.integers(1, 128))
@settings(max_examples=50, deadline=None)
def test_sizes(longest, count, multiple):
  sizes = buckets(longest, count, multiple)
  assert list(sizes) == sorted(set(sizes)) and len(sizes) <= count
  assert sizes[-1] == longest and sizes[0] >= 1
  assert all(size % multiple == 0 for size in sizes[:-1])
  # None is far above what is needed.
  for need in range(1, longest + 1, max(1, longest // 7)):
    size = smallest(sizes, need)
    assert need <= size <= need + longest / count + multiple


@pytest.mark.parametrize('kw', [
    dict(longest=0, count=1), dict(longest=5, count=0),
    dict(longest=5, count=2, multiple=0)])
def test_sizes_below_one_are_refused(kw):
  with pytest.raises(ValueError, match='is 0; it must be at least 1'):
    buckets(**kw)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4),
       st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_every_row_lies_whole_in_one_packed_row(pieces, multiple, times, rng):
  length, rows = 9, multiple * times
  lengths = np.array([[rng.randint(0, length) for _ in range(rows)]
                      for _ in range(pieces)])
  row, start = pack_rows(lengths, length, multiple)
  assert row.shape[0] == pieces and row.shape[2] == length
  assert row.shape[1] % multiple == 0 and row.shape[1] <= rows
  for piece in range(pieces):
    flat, seen = row[piece].reshape(-1), 0
    for index, size in enumerate(lengths[piece]):
      first = start[piece, index]
      np.testing.assert_array_equal(flat[first:first + size], index)
      assert not size or first // length == (first + size - 1) // length
      seen += size
    assert (flat >= 0).sum() == seen


def test_the_number_of_packed_rows_is_one_of_few():
  heights = {pack_rows(np.full((1, 40), 2), 40 // k)[0].shape[1]
             for k in range(1, 21)}
  assert len(heights) <= HEIGHTS
  assert 40 // HEIGHTS in heights


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='a row has 5 tokens.*has 4'):
    pack_rows(np.array([[5]]), 4)
  with pytest.raises(ValueError, match='3 rows; they must be a multiple of 2'):
    pack_rows(np.array([[1, 1, 1]]), 4, 2)
