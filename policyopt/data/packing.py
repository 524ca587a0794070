"""Packs what is short into rows of one length."""

from __future__ import annotations

import numpy as np

from policyopt import types
from policyopt.data.sizes import buckets, smallest

# Numbers of rows that packed batches come in, at most: each is compiled.
HEIGHTS = 4


def pack_examples(
    prompts: types.Prompts, answers: types.Prompts, rows: int | None,
    length: int, *, pad_id: int = 0,
    chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
  """Prompt and answer of each example side by side, several to a row.

  First fit: each example goes into the first row with room, in the order
  given, so the same examples always give the same rows. If
  rows · length ≥ 2 · (all tokens) + length, they always fit.

  Args:
    prompts: tokens i32[N, P], length i32[N].
    answers: tokens i32[N, A] that end in the stop token, length i32[N].
    rows: R; None for as many as needed.
    length: T, tokens in a row.
    pad_id: fills the rest.
    chosen: bool[N, A], the tokens of the answers that are to be learned; None:
      all.

  Returns:
    tokens i32[R, T]; positions i32[R, T], from 0 in each example; segments
    i32[R, T], 1, 2, ... in each row and 0 on padding; mask bool[R, T], True
    on the tokens of the answers, or the chosen ones.

  Raises:
    ValueError: if an example is longer than a row, or the rows are too few.

  Example:
    >>> prompts = types.Prompts(np.array([[5, 6], [7, 0]]), np.array([2, 1]))
    >>> answers = types.Prompts(np.array([[8], [9]]), np.array([1, 1]))
    >>> packed = pack_examples(prompts, answers, 1, 6)
    >>> packed['tokens'].tolist(), packed['segments'].tolist()
    ([[5, 6, 8, 7, 9, 0]], [[1, 1, 1, 2, 2, 0]])
    >>> packed['mask'].tolist()
    [[False, False, True, False, True, False]]
  """
  prompt_length = np.asarray(prompts.length, np.int32)
  answer_length = np.asarray(answers.length, np.int32)
  prompt_tokens = np.asarray(prompts.tokens)
  answer_tokens = np.asarray(answers.tokens)
  if chosen is None:
    chosen = np.ones(answer_tokens.shape, bool)
  chosen = np.asarray(chosen)
  if prompt_length.shape != answer_length.shape:
    raise ValueError(
        f'{prompt_length.size} prompts do not go with {answer_length.size} '
        'answers')
  row, start, count = _first_fit(prompt_length + answer_length, length)
  if rows is None:
    rows = count
  if count > rows:
    raise ValueError(
        f'{len(row)} examples need {count} rows of {length} tokens, but rows '
        f'is {rows}')
  packed = dict(
      tokens=np.full((rows, length), pad_id, np.int32),
      positions=np.zeros((rows, length), np.int32),
      segments=np.zeros((rows, length), np.int32),
      mask=np.zeros((rows, length), bool))
  segment = np.zeros(rows, np.int32)
  for i, (r, s) in enumerate(zip(row, start)):
    middle = s + prompt_length[i]
    end = middle + answer_length[i]
    segment[r] += 1
    packed['tokens'][r, s:middle] = prompt_tokens[i, :prompt_length[i]]
    packed['tokens'][r, middle:end] = answer_tokens[i, :answer_length[i]]
    packed['positions'][r, s:end] = np.arange(end - s)
    packed['segments'][r, s:end] = segment[r]
    packed['mask'][r, middle:end] = chosen[i, :answer_length[i]]
  return packed


def pack_rows(
    lengths: np.ndarray, length: int, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Where rows lie when several of them share one.

  First fit, the longest first, within each piece of a batch. All pieces get
  the same number of packed rows R, one of `HEIGHTS` numbers up to b.

  Args:
    lengths: i32[N, b], tokens of each row in N pieces; 0 leaves a row out.
    length: T, tokens in a packed row; at least the longest.
    multiple: that R is a multiple of; divides b.

  Returns:
    (row i32[N, R, T], start i32[N, b]): the row of the piece that a token
    comes from, -1 for none, and the place of a row's first token in the
    packed piece, counted through its R·T places.

  Raises:
    ValueError: a row is longer than T, or the multiple does not divide b.

  Example:
    >>> row, start = pack_rows(np.array([[2, 4, 1, 0]]), 4)
    >>> row.tolist(), start.tolist()
    ([[[1, 1, 1, 1], [0, 0, 2, -1]]], [[4, 0, 6, 0]])
  """
  lengths = np.asarray(lengths)
  pieces, rows = lengths.shape
  if rows % multiple:
    raise ValueError(f'pieces have {rows} rows; they must be a multiple of '
                     f'{multiple}')
  if lengths.max(initial=0) > length:
    raise ValueError(f'a row has {lengths.max()} tokens, but a packed row has '
                     f'{length}')
  places = np.zeros((pieces, rows), np.int64)
  need = 1
  for piece, sizes in enumerate(lengths):
    order = np.argsort(-sizes, kind='stable')
    order = order[sizes[order] > 0]
    where, column, count = _first_fit(sizes[order], length)
    places[piece, order] = where * length + column
    need = max(need, count)
  height = smallest(buckets(rows, min(HEIGHTS, rows), multiple), need)
  row = np.full((pieces, height * length), -1, np.int32)
  for piece, index in np.argwhere(lengths > 0):
    first = places[piece, index]
    row[piece, first:first + lengths[piece, index]] = index
  return (row.reshape(pieces, height, length), places.astype(np.int32))


def _first_fit(sizes, length):
  """Row and first column of each example, and the number of rows."""
  used = np.zeros(len(sizes), np.int64)
  row = np.zeros(len(sizes), np.int64)
  start = np.zeros(len(sizes), np.int64)
  count = 0
  for i, size in enumerate(sizes):
    if size > length:
      raise ValueError(
          f'example {i} has {size} tokens, but a row has {length}')
    # Row `count` is empty, so that there is always a row with room.
    row[i] = np.argmax(used[:count + 1] + size <= length)
    start[i] = used[row[i]]
    used[row[i]] += size
    count = max(count, int(row[i]) + 1)
  return row, start, count
