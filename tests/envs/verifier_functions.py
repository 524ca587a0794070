"""Scorers that misbehave, imported by verifier processes only."""

import ctypes
import os
import subprocess
import sys
import time


class Unreadable:
  """Can be pickled, but not read again."""

  def __reduce__(self):
    return int, ('not a number',)


def misbehave(action, value=0):
  """Returns twice the value, or does what the action says."""
  if action == 'score':
    return 2 * value
  if action == 'who':
    return os.getpid()
  if action == 'print':
    print('noise' * 1000, flush=True)
    os.write(1, b'more noise')
    return value
  if action == 'hang':
    while True:
      time.sleep(60)
  if action == 'spin':
    while True:
      pass
  if action == 'hold the lock':
    # Through PyDLL the interpreter lock is kept while C code sleeps.
    ctypes.PyDLL(None).sleep(600)
  if action == 'raise':
    raise LookupError('no such rule')
  if action == 'exit':
    sys.exit(3)
  if action == 'vanish':
    os._exit(3)
  if action == 'segfault':
    ctypes.string_at(0)
  if action == 'unpicklable':
    return lambda: value
  if action == 'unreadable':
    return Unreadable()
  if action == 'child, then hang':
    with open(value, 'w', encoding='utf-8') as file:
      file.write(str(subprocess.Popen(['sleep', '600']).pid))
    while True:
      pass
  if action == 'modules':
    return sorted(sys.modules)
  raise ValueError(action)


def multiplier(factor):
  """A factory of scorers."""
  return lambda value: factor * value


def broken_factory():
  raise OSError('no rules found')


def dies():
  os._exit(1)
