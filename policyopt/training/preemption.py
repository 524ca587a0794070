"""SIGTERM: save after the step at hand, and end with a code to restart on.

Whoever lends a machine says with SIGTERM that it wants it back soon. The run
finishes its step, saves a checkpoint and ends with exit code 75 (EX_TEMPFAIL,
"try again later"), which launchers restart on. With several processes one
signal to any of them is enough: all agree before each step. A second SIGTERM
ends the process at once; the last complete checkpoint stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import signal
import socket
import sys
import threading

from policyopt.rollouts import hosts
from policyopt.training.errors import PreemptedError

# What a shell reports of a process that SIGTERM has ended.
_ENDED = 128 + signal.SIGTERM

_noticed = threading.Event()


def requested() -> bool:
  """Whether any process was asked to end. Collective."""
  return hosts.any_process(_noticed.is_set())


def stop(what: str) -> None:
  """Ends a run that has just been saved.

  Args:
    what: was saved.

  Raises:
    PreemptedError: always.
  """
  raise PreemptedError(
      f'asked to end by SIGTERM; {what}. The same command goes on from there')


@contextlib.contextmanager
def watch() -> Iterator[None]:
  """Listens to SIGTERM inside the block; does nothing outside the main thread.

  A thread does the listening: the interpreter's own handlers wait for the
  main thread, which may be waiting for the device.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reading, writing = socket.socketpair()
  writing.setblocking(False)
  _noticed.clear()
  listener = threading.Thread(
      target=_listen, args=(reading,), name='preemption', daemon=True)
  # The handler need not do anything: the system writes the signal's number.
  handler = signal.signal(signal.SIGTERM, lambda *_: None)
  wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
  listener.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    writing.close()
    listener.join()
    reading.close()
    _noticed.clear()


def _listen(reading):
  while data := reading.recv(64):
    for number in data:
      if number != signal.SIGTERM:
        continue
      if _noticed.is_set():
        _say('second SIGTERM: ending at once')
        os._exit(_ENDED)
      _noticed.set()
      _say('SIGTERM: saving after the step at hand; a second one ends the run '
           'at once')


def _say(line):
  print(line, file=sys.stderr, flush=True)
