"""Problems: a question and what is known of its answer, by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import hashlib
from typing import Any, NamedTuple

import numpy as np

from policyopt.data.sources import Record

SPLITS = ('train', 'test')


class Problem(NamedTuple):
  """A record of any data set in the terms of a task.

  Attributes:
    id: as the data set numbers it, or its place.
    question: the text to be answered.
    answer: the reference answer, or the text that holds it.
    solution: the worked solution, or None.
    where: the place of the record, for error messages.
  """
  id: str
  question: str
  answer: str
  solution: str | None
  where: str


class Fields(NamedTuple):
  """Which field of a record is what.

  Attributes:
    question: name of the field with the question.
    answer: name of the field with the answer.
    solution: name of the field with the worked solution, or None.
    id: name of the field that numbers the records, or None.
  """
  question: str = 'question'
  answer: str = 'answer'
  solution: str | None = None
  id: str | None = None


class Problems(Sequence[Problem]):
  """The problems of a source: checked, filtered, split; read when asked for.

  All records are looked at once, so that whatever is wrong with the data is
  said before a run begins; what stays in memory is a number per problem.

  Args:
    source: a sequence of dicts with `where(index)`, as in `data.sources`.
    fields: which field is what.
    where: field -> value, or values in a list or tuple, that a record must
      have to be used.
    keep: (record) -> whether to use it; None for all.
    split: 'train' or 'test' for one part of the source, by a hash of the
      question; None for the whole.
    held_out: share of the questions that are 'test', in [0, 1].

  Raises:
    ValueError: in one line with the place, for a record without a field or
      with an empty one, for an id that two records have, for a field in
      `where` that no record has; and when no record is left.

  Example:
    >>> from policyopt.data.sources import InMemory
    >>> rows = [{'q': '1+1?', 'a': 2, 'level': 1},
    ...         {'q': '9*9?', 'a': 81.0, 'level': 2}]
    >>> problems = Problems(
    ...     InMemory(rows), Fields('q', 'a'), where={'level': [2, 3]})
    >>> len(problems), problems[0].question, problems[0].answer
    (1, '9*9?', '81')
  """

  def __init__(
      self, source: Sequence[Record], fields: Fields = Fields(), *,
      where: Mapping[str, Any] | None = None,
      keep: Callable[[Record], bool] | None = None,
      split: str | None = None, held_out: float = 0.):
    if split is not None and split not in SPLITS:
      raise ValueError(f'split is {split!r}; it must be one of {SPLITS}')
    if not 0 <= held_out <= 1:
      raise ValueError(f'held_out is {held_out}; it must be in [0, 1]')
    self._source, self._fields = source, fields
    wanted = {name: value if isinstance(value, list | tuple) else (value,)
              for name, value in (where or {}).items()}
    index, seen = [], {}
    for i, record in enumerate(source):
      problem = _problem(record, fields, source, i)
      if fields.id is not None and seen.setdefault(problem.id, i) != i:
        raise ValueError(
            f'{problem.where} has the {fields.id} {problem.id!r} of '
            f'{source.where(seen[problem.id])}')
      for name in wanted:
        _require_field(record, name, problem.where)
      if all(record[name] in values for name, values in wanted.items()) and (
          keep is None or keep(record)) and (
              split is None or split_of(problem.question, held_out) == split):
        index.append(i)
    if not index:
      part = '' if split is None else f' in the {split} part'
      raise ValueError(
          f'none of the {len(source)} records from {source.where(0)} on is '
          f'left{part}: where is {dict(where or {})}, held_out is {held_out}')
    self._index = np.asarray(index, np.int64)

  def __len__(self) -> int:
    return len(self._index)

  def __getitem__(self, index: int) -> Problem:
    place = int(self._index[index])
    return _problem(
        self._source[place], self._fields, self._source, place)

  def __iter__(self) -> Iterator[Problem]:
    return (self[i] for i in range(len(self)))

  def take(self, index: Sequence[int]) -> Problems:
    """The problems at some numbers, in that order."""
    new = object.__new__(Problems)
    new._source, new._fields = self._source, self._fields
    new._index = self._index[np.asarray(index, np.int64)]
    return new

  def close(self) -> None:
    """Closes the source."""
    self._source.close()


def split_of(question: str, held_out: float) -> str:
  """The part that a question belongs to, by a hash of its text.

  It depends on nothing else: not on the file, its order or the machine. A
  larger share keeps the questions that a smaller one has held out.

  Args:
    question: the text; white space around it does not count.
    held_out: share of all questions that are 'test', in [0, 1].

  Returns:
    'train' or 'test'.

  Example:
    >>> [split_of(f'{i}+{i}?', 0.25) for i in range(4)]
    ['test', 'train', 'train', 'train']
  """
  digest = hashlib.blake2b(question.strip().encode(), digest_size=8).digest()
  return 'test' if int.from_bytes(digest) / 2**64 < held_out else 'train'


def _problem(record: Record, fields: Fields, source, index: int) -> Problem:
  where = source.where(index)
  text = {
      name: None if field is None else _text(record, field, where)
      for name, field in fields._asdict().items()}
  if text['id'] is None:
    text['id'] = str(index)
  return Problem(**text, where=where)


def _require_field(record: Record, field: str, where: str) -> None:
  if field not in record:
    raise ValueError(
        f'{where} has no field {field!r}; it has {", ".join(sorted(record))}')


def _text(record: Record, field: str, where: str) -> str:
  """A field as text; whole numbers lose the '.0' that JSON gave them."""
  _require_field(record, field, where)
  value = record[field]
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    raise ValueError(
        f'{where}: the field {field!r} holds a {type(value).__name__}, but '
        'must hold text or a number')
  value = str(value)
  if not value.strip():
    raise ValueError(f'{where}: the field {field!r} is empty')
  return value
