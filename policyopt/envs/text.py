"""Between token arrays and text, for environments that judge text."""

from __future__ import annotations

from collections.abc import Sequence
import zlib

import numpy as np

from policyopt import types


def pad(
    rows: Sequence[Sequence[int]], width: int | None,
    pad_id: int) -> types.Prompts:
  """Token lists as one array, padded on the right.

  Args:
    rows: token ids of N texts.
    width: P; None for the longest row.
    pad_id: fills the rest.

  Returns:
    `types.Prompts`: tokens i32[N, P], length i32[N].

  Example:
    >>> pad([[5, 6], [7]], 3, 0).tokens.tolist()
    [[5, 6, 0], [7, 0, 0]]
  """
  length = np.asarray([len(row) for row in rows], np.int32)
  if width is None:
    width = max(length, default=0)
  tokens = np.full((len(rows), width), pad_id, np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  return types.Prompts(tokens, length)


def decode(tokenizer, responses: types.Prompts) -> list[str]:
  """The text of each response up to its stop token, stripped.

  Args:
    tokenizer: a `models.tokenizer.Tokenizer`.
    responses: tokens i32[B, R], length i32[B].

  Returns:
    B texts.

  Example:
    >>> from policyopt.models import tokenizer
    >>> byte = tokenizer.byte_tokenizer()
    >>> row = byte.encode(' 12 ') + [byte.eos_id] + byte.encode('3')
    >>> decode(byte, pad([row], None, 0))
    ['12']
  """
  texts = []
  stops = frozenset(tokenizer.stop_tokens)
  lengths = np.asarray(responses.length).tolist()
  for row, length in zip(np.asarray(responses.tokens).tolist(), lengths):
    row = row[:length]
    end = next((i for i, x in enumerate(row) if x in stops), length)
    texts.append(tokenizer.decode(row[:end]).strip())
  return texts


def answer_ids(answers: Sequence[str]) -> np.ndarray:
  """A number for each answer: the same for the same text.

  Args:
    answers: B texts; an empty one is no answer.

  Returns:
    i32[B], the CRC-32 of the text without its highest bit; -1 for no answer.

  Example:
    >>> first, second, third = answer_ids(['12', '', '12']).tolist()
    >>> first == third, second
    (True, -1)
  """
  return np.asarray(
      [zlib.crc32(answer.encode()) & 0x7FFFFFFF if answer else -1
       for answer in answers], np.int32)
