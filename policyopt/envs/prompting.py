"""Questions as prompts and references as responses: token ids, made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
import warnings

import numpy as np

from policyopt import types

TOO_LONG = ('drop', 'refuse')


def prompter(
    tokenizer, template: str, *, system: str | None = None,
    chat: bool | None = None, chat_kw: Mapping[str, Any] | None = None
) -> Callable[[str], list[int]]:
  """Makes a function from a question to the ids of its prompt.

  With a chat template, the ids are those of a conversation up to where the
  answer begins. Without one, they are those of the plain text and a line end.

  Args:
    tokenizer: a `models.tokenizer.Tokenizer`.
    template: what the user says; '{question}' stands for the question.
    system: what the system says before, or None.
    chat: whether to use the tokenizer's chat template; None: if it has one.
    chat_kw: further variables of the chat template, e.g.
      `enable_thinking=False`.

  Returns:
    question -> ids.

  Raises:
    ValueError: for a template without the question, or for chat options
      without a chat template.

  Example:
    >>> from policyopt.models import tokenizer
    >>> byte = tokenizer.byte_tokenizer()
    >>> byte.decode(prompter(byte, 'Q: {question}', system='Add.')('1+1?'))
    'Add.\\nQ: 1+1?\\n'
  """
  if '{question}' not in template:
    raise ValueError(f"template is {template!r}, but must hold '{{question}}'")
  if chat is None:
    chat = tokenizer.chat is not None
  if chat and tokenizer.chat is None:
    raise ValueError(
        f'chat is True, but tokenizer {tokenizer.name!r} has no chat template: '
        'set chat to False for plain text')
  if chat_kw and not chat:
    raise ValueError(
        f'chat_kw is {dict(chat_kw)}, but there is no chat template to use it')

  def make(question):
    message = template.replace('{question}', question.strip())
    if not chat:
      before = '' if system is None else f'{system}\n'
      return tokenizer.encode(f'{before}{message}\n')
    messages = [] if system is None else [
        {'role': 'system', 'content': system}]
    return list(tokenizer.chat(
        [*messages, {'role': 'user', 'content': message}],
        **dict(chat_kw or {})))
  return make


class PromptTable:
  """The ids of all prompts of a task, one after the other in an array.

  Args:
    name: of the task, for error messages.
    rows: ids of each prompt.
    max_prompt: P, longest prompt in tokens; None for the longest there is,
      rounded up to a multiple of 8.
    too_long: 'refuse' raises for a longer one, 'drop' leaves it out and says
      how many are.
    where: place of each prompt, for error messages.

  Attributes:
    max_prompt: P.
    kept: i64[N], which of the rows are in the table.

  Raises:
    ValueError: for a prompt that is too long, or when none is left.

  Example:
    >>> table = PromptTable('sums', [[5, 6], [7]], None, 'refuse')
    >>> table.max_prompt, table([1, 0], pad_id=0).tokens[:, :3].tolist()
    (8, [[7, 0, 0], [5, 6, 0]])
  """

  def __init__(
      self, name: str, rows: Sequence[Sequence[int]], max_prompt: int | None,
      too_long: str, where: Callable[[int], str] = str):
    if too_long not in TOO_LONG:
      raise ValueError(
          f'too_long is {too_long!r}; it must be one of {TOO_LONG}')
    length = np.asarray([len(row) for row in rows], np.int64)
    if max_prompt is None:
      max_prompt = -(-int(length.max()) // 8) * 8
    fits = length <= max_prompt
    if not fits.all():
      first, lost = int(np.argmin(fits)), int((~fits).sum())
      counted = (f'{name}: {lost} of {len(rows)} prompts have more than '
                 f'max_prompt = {max_prompt} tokens')
      if too_long == 'refuse' or lost == len(rows):
        raise ValueError(
            f'{counted}, the first, {where(first)}, {length[first]}: raise '
            "max_prompt, or leave them out with too_long='drop'")
      warnings.warn(f'{counted} and are left out', stacklevel=4)
    self.max_prompt = max_prompt
    self.kept = np.flatnonzero(fits)
    kept = [rows[i] for i in self.kept]
    self._ends = np.cumsum([0, *map(len, kept)])
    self._tokens = np.fromiter(
        (x for row in kept for x in row), np.int32, self._ends[-1])

  def __len__(self) -> int:
    return len(self.kept)

  def __call__(self, ids: Sequence[int], pad_id: int) -> types.Prompts:
    """The prompts with some numbers, padded to P."""
    starts, ends = self._ends[:-1][ids], self._ends[1:][ids]
    tokens = np.full((len(starts), self.max_prompt), pad_id, np.int32)
    for row, start, end in zip(tokens, starts, ends):
      row[:end - start] = self._tokens[start:end]
    return types.Prompts(tokens, (ends - starts).astype(np.int32))
