"""Packing loses nothing and mixes nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from policyopt import types
from policyopt.data import packing

LENGTH = 12
EXAMPLES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=12)


def make(sizes):
  """Prompts and answers in which every token is different."""
  out, token = [], 1
  for column in (0, 1):
    lengths = np.asarray([s[column] for s in sizes], np.int32)
    tokens = np.full((len(sizes), 7), -1, np.int32)
    for i, n in enumerate(lengths):
      tokens[i, :n] = np.arange(token, token + n)
      token += n
    out.append(types.Prompts(tokens, lengths))
  return out


@settings(max_examples=60, deadline=None)
@given(EXAMPLES)
def test_nothing_is_lost_or_mixed(sizes):
  prompts, answers = make(sizes)
  packed = packing.pack_examples(prompts, answers, None, LENGTH)
  found = []
  for r in range(len(packed['tokens'])):
    row = {name: x[r] for name, x in packed.items()}
    used = row['segments'] > 0
    # Segments count from 1 without holes, and padding is on the right.
    assert (np.diff(row['segments'][used]) >= 0).all()
    assert (np.diff(used.astype(int)) <= 0).all()
    assert set(row['segments'][used]) == set(
        range(1, row['segments'].max(initial=0) + 1))
    for name in ('tokens', 'positions', 'mask'):
      assert not row[name][~used].any()
    for s in set(row['segments'][used]):
      here = row['segments'] == s
      np.testing.assert_array_equal(
          row['positions'][here], np.arange(here.sum()))
      found.append((row['tokens'][here & ~row['mask']].tolist(),
                    row['tokens'][here & row['mask']].tolist()))
      # The answer follows the prompt.
      assert (np.diff(row['mask'][here].astype(int)) >= 0).all()
  expected = [
      (prompts.tokens[i, :p].tolist(), answers.tokens[i, :a].tolist())
      for i, (p, a) in enumerate(sizes)]
  assert sorted(found) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(EXAMPLES)
def test_rows_suffice_where_promised(sizes):
  prompts, answers = make(sizes)
  total = sum(map(sum, sizes))
  rows = -(-(2 * total + LENGTH) // LENGTH)
  packed = packing.pack_examples(prompts, answers, rows, LENGTH)
  assert packed['tokens'].shape == (rows, LENGTH)
  assert (packed['segments'] > 0).sum() == total
  again = packing.pack_examples(prompts, answers, rows, LENGTH)
  for name in packed:
    np.testing.assert_array_equal(packed[name], again[name])


def test_first_fit_fills_earlier_rows():
  prompts, answers = make([(5, 3), (4, 4), (2, 2), (1, 3)])
  packed = packing.pack_examples(prompts, answers, None, LENGTH, pad_id=99)
  assert [len(set(s[s > 0])) for s in packed['segments']] == [2, 2]
  assert packed['tokens'].dtype == packed['positions'].dtype == np.int32
  assert packed['mask'].sum() == 12
  assert (packed['tokens'] == 99).sum() == 0
  wide = packing.pack_examples(prompts, answers, 3, LENGTH, pad_id=99)
  assert (wide['tokens'][2] == 99).all()


def test_errors_name_what_does_not_fit():
  prompts, answers = make([(1, 2), (5, 6)])
  with pytest.raises(ValueError, match='example 1 has 11 tokens.* has 10'):
    packing.pack_examples(prompts, answers, None, 10)
  with pytest.raises(ValueError, match='2 examples need 2 rows of 12'):
    packing.pack_examples(prompts, answers, 1, 12)
  with pytest.raises(ValueError, match='2 prompts do not go with 1'):
    packing.pack_examples(
        prompts, types.Prompts(answers.tokens[:1], answers.length[:1]), 2, 12)
