"""Checks a name against the known ones, and suggests the nearest."""

from __future__ import annotations

from collections.abc import Iterable
import difflib


def check(kind: str, name: str, known: Iterable[str]) -> None:
  """Raises if a name is not known.

  Args:
    kind: what is named, for the error message.
    name: the name to check.
    known: the names that exist.

  Raises:
    ValueError: with the nearest names, or with all when few exist.

  Example:
    >>> check('split', 'train', ['train', 'test'])
    >>> check('split', 'tran', ['train', 'test'])
    Traceback (most recent call last):
    ValueError: unknown split 'tran': did you mean 'train'?
  """
  known = sorted(known)
  if name in known:
    return
  near = difflib.get_close_matches(str(name), known, 3, 0.5)
  if near:
    hint = f'did you mean {" or ".join(map(repr, near))}?'
  elif len(known) <= 30:
    hint = f'known are {", ".join(known)}'
  else:
    hint = f'there are {len(known)}, none with a similar name'
  raise ValueError(f'unknown {kind} {name!r}: {hint}')
