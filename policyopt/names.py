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
  near = _nearest(str(name), known)
  hints = [f'did you mean {" or ".join(map(repr, near))}?'] if near else []
  if len(known) <= 30:
    hints.append(f'Known: {", ".join(known)}')
  elif not near:
    hints.append(f'there are {len(known)}, none with a similar name')
  raise ValueError(f'unknown {kind} {name!r}: {" ".join(hints)}')


def _nearest(name, known):
  """Up to three similar names, none of them much less so than the first."""
  near = difflib.get_close_matches(name, known, 3, 0.5)
  likeness = [difflib.SequenceMatcher(None, name, x).ratio() for x in near]
  return [x for x, alike in zip(near, likeness) if alike > likeness[0] - 0.2]
