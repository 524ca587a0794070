"""Checks a name against the known ones, and suggests the nearest."""

from __future__ import annotations

from collections.abc import Iterable
import difflib


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
  """Raises if a name is not known.

  Args:
    kind: what is named, for the error message.
    name: the name to check.
    known: the names that exist.

  Raises:
    ValueError: in one line, with the nearest names, and with all of them when
      they are not many.

  Example:
    >>> check_name('split', 'train', ['train', 'test'])
    >>> check_name('split', 'tran', ['train', 'test'])
    Traceback (most recent call last):
    ValueError: unknown split 'tran': did you mean 'train'? Known: test, train
  """
  known = sorted(known)
  if name in known:
    return
  near = difflib.get_close_matches(str(name), known, 3, 0.5)
  hints = [f'did you mean {" or ".join(map(repr, near))}?'] if near else []
  if len(known) <= 30:
    hints.append(f'Known: {", ".join(known)}')
  elif not near:
    hints.append(f'there are {len(known)}, none with a similar name')
  raise ValueError(f'unknown {kind} {name!r}: {" ".join(hints)}')
