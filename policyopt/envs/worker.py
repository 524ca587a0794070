"""A verifier process: scores what arrives on a pipe until the pipe closes.

Started by `verifiers.VerifierPool` as a file, so that it pays for nothing but
the scorer's own imports. Whatever happens here, the worst outcome is that the
process ends: the pool notices, starts another and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import faulthandler
import importlib
from multiprocessing import connection
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from typing import Any


def load(spec: str, kwargs: dict[str, Any] | None) -> Callable[..., Any]:
  """Imports a scorer.

  Args:
    spec: 'module:function'.
    kwargs: None if the function is the scorer; else it is called with these
      and returns the scorer.

  Returns:
    The scorer.

  Example:
    >>> load('operator:add', None)(1, 2)
    3
  """
  module, _, name = spec.partition(':')
  function = getattr(importlib.import_module(module), name)
  return function if kwargs is None else function(**kwargs)


def score(
    scorer: Callable[..., Any], args: Sequence[Any],
    caught: type[BaseException] = BaseException) -> tuple[int, Any]:
  """Scores one row, whatever the scorer raises.

  Args:
    scorer: the function.
    args: its arguments.
    caught: what counts as a crash; by default everything, since a scorer may
      even call `sys.exit`.

  Returns:
    (0, value) or (2, traceback).

  Example:
    >>> score(divmod, (7, 2))
    (0, (3, 1))
  """
  try:
    return 0, scorer(*args)
  except caught:
    return 2, traceback.format_exc()


def _send(pipe, verdict, value):
  """Sends one outcome; a value that cannot be pickled is a crash."""
  try:
    pipe.send((verdict, value))
  except (BrokenPipeError, ConnectionResetError):
    os._exit(0)
  except Exception:
    pipe.send((2, traceback.format_exc()))


def _leave_with(parent):
  """Ends this process when its parent has gone, whatever it is doing."""
  while os.getppid() == parent:
    time.sleep(1.)
  os._exit(0)


def main(pipe: connection.Connection, parent: int) -> None:
  """Serves one pool: a start message, then chunks of rows, then the end.

  Args:
    pipe: to the pool. Receives (sys.path, spec, kwargs, timeout_s,
      memory_gb), answers (0, None) or (2, traceback); then receives lists of
      argument tuples, answers (0, None) to each list and then (verdict,
      value) for each of its rows as soon as it is scored.
    parent: process id of the pool.
  """
  threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
  # A crash that is expected and counted needs no core file.
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  sys.path[:], spec, kwargs, timeout_s, memory_gb = pipe.recv()
  verdict, scorer = score(load, (spec, kwargs))
  if memory_gb < float('inf'):
    # One row with a huge number must not take the memory of the others.
    limit = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  _send(pipe, verdict, scorer if verdict else None)
  if verdict:
    return
  with open(os.devnull, 'w', encoding='utf-8') as null:
    while True:
      message = pipe.recv_bytes()
      # From here on one of these rows is to blame if the process ends.
      _send(pipe, 0, None)
      rows = pickle.loads(message)
      # Should the pool die meanwhile, even a scorer that holds the
      # interpreter lock for ever is ended.
      faulthandler.dump_traceback_later(
          timeout_s * (len(rows) + 1), exit=True, file=null)
      for args in rows:
        _send(pipe, *score(scorer, args))
      faulthandler.cancel_dump_traceback_later()


if __name__ == '__main__':
  # A batch system sends it to every process of a job; the pool still wants the
  # rows of the step that it finishes. (A handler is not inherited by commands
  # that a scorer runs, as ignoring would be.)
  signal.signal(signal.SIGTERM, lambda *_: None)
  # What scorers print must not reach the program's own output.
  with open(os.devnull, 'w', encoding='utf-8') as _null:
    os.dup2(_null.fileno(), 1)
  try:
    main(connection.Connection(int(sys.argv[1])), int(sys.argv[2]))
  except (EOFError, OSError, KeyboardInterrupt):
    pass
  # Threads that a scorer left behind must not keep the process.
  os._exit(0)
