"""Packs short examples into rows of one length, for supervised training."""

from __future__ import annotations

import numpy as np

from policyopt import types


def pack_examples(
    prompts: types.Prompts, answers: types.Prompts, rows: int | None,
    length: int, *, pad_id: int = 0) -> dict[str, np.ndarray]:
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

  Returns:
    tokens i32[R, T]; positions i32[R, T], from 0 in each example; segments
    i32[R, T], 1, 2, ... in each row and 0 on padding; mask bool[R, T], True
    on the tokens of the answers.

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
    packed['mask'][r, middle:end] = True
  return packed


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
