"""Records by number: JSON lines, and data sets of `tensorflow_datasets`.

A source is a sequence of dicts that also says where a record stands, for
error messages. Reading starts when a record is asked for: a host of several
opens the same files but holds no text, and reads only what it works on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import json
import os
from typing import Any

import numpy as np

Record = Mapping[str, Any]


class JsonLines(Sequence[Record]):
  """A file with one JSON object per line, in any order.

  Only the places of the lines are held in memory. The object can be pickled;
  it opens the file anew wherever it arrives, and several threads may read.

  Args:
    path: of the file.

  Attributes:
    path: of the file.

  Raises:
    ValueError: for a file that is missing or empty, or, with the number of
      the line, for a line that is empty or holds no JSON object.

  Example:
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile('w', suffix='.jsonl') as file:
    ...   _ = file.write('{"question": "1+1?"}\\n{"question": "2+2?"}\\n')
    ...   file.flush()
    ...   source = JsonLines(file.name)
    ...   len(source), source[1]
    (2, {'question': '2+2?'})
  """

  def __init__(self, path: str):
    self.path = os.path.abspath(os.path.expanduser(path))
    self._file = None
    ends = [0]
    try:
      with open(self.path, 'rb') as file:
        for number, line in enumerate(file, 1):
          _parse(line, self.path, number)
          ends.append(ends[-1] + len(line))
    except OSError as error:
      raise ValueError(
          f'the file {self.path} cannot be read: {error.strerror}') from error
    if len(ends) == 1:
      raise ValueError(f'the file {self.path} is empty')
    self._ends = np.asarray(ends, np.int64)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, index: int) -> Record:
    index = range(len(self))[index]
    start, end = self._ends[index:index + 2].tolist()
    if self._file is None:
      self._file = os.open(self.path, os.O_RDONLY)
    # Leaves no position behind, so that threads do not disturb each other.
    line = os.pread(self._file, end - start, start)
    return _parse(line, self.path, index + 1)

  def __iter__(self) -> Iterator[Record]:
    with open(self.path, 'rb') as file:
      for number, line in enumerate(file, 1):
        yield _parse(line, self.path, number)

  def where(self, index: int) -> str:
    """The place of a record, for error messages."""
    return f'{self.path} line {index + 1}'

  def close(self) -> None:
    """Closes the file; reading opens it again."""
    if self._file is not None:
      os.close(self._file)
      self._file = None

  def __del__(self):
    if getattr(self, '_file', None) is not None:
      os.close(self._file)

  def __getstate__(self):
    return {**self.__dict__, '_file': None}


class InMemory(Sequence[Record]):
  """Records that are already there: a list, or another package's data set.

  Args:
    records: any sequence of mappings.
    name: for error messages.

  Example:
    >>> InMemory([{'question': '1+1?'}], 'sums').where(0)
    'sums record 1'
  """

  def __init__(self, records: Sequence[Record], name: str = 'data'):
    self._records = records
    self._name = name
    if not len(records):
      raise ValueError(f'{name} holds no records')

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Record:
    record = self._records[range(len(self))[index]]
    return {key: _text(value) for key, value in record.items()}

  def where(self, index: int) -> str:
    """The place of a record, for error messages."""
    return f'{self._name} record {index + 1}'

  def close(self) -> None:
    """Nothing is open."""


def _parse(line: bytes, path: str, number: int) -> Record:
  if not line.strip():
    raise ValueError(f'{path} line {number} is empty')
  try:
    record = json.loads(line)
  except ValueError as error:  # Of the JSON, or of the encoding.
    reason = getattr(error, 'msg', None) or str(error)
    column = getattr(error, 'colno', None)
    place = '' if column is None else f' at column {column}'
    raise ValueError(
        f'{path} line {number} is not JSON: {reason}{place}') from error
  if not isinstance(record, dict):
    raise ValueError(
        f'{path} line {number} holds a {type(record).__name__}, but must hold '
        'a JSON object: {...}')
  return record


def _text(value):
  """Text comes out of array records as bytes, numbers as numpy scalars."""
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, np.generic):
    return _text(value.item())
  return value
