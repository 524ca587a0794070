"""Whether the other processes of a run are alive, and what to do if not.

JAX itself ends a process when another one is lost, but by abort(), after up to
100 seconds, and in words for its own developers. Here a thread of each process
watches the others through the coordination service that JAX runs anyway, and
says which one is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback

import jax

# Exit code of a process that ends because another one was lost.
LOST = 76
# Seconds: between two looks at the others, until a process without a sign of
# life counts as lost, and until JAX itself thinks so, which comes last.
LOOK, SILENCE, HEARTBEAT = 2., 25., 50
_ALIVE, _ENDED = 'policyopt/alive', 'policyopt/ended'
_DONE = 'done'


def unreachable(coordinator: str) -> str | None:
  """Why nobody answers at HOST:PORT, or None."""
  host, _, port = coordinator.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), 2.).close()
  except OSError as error:
    return error.strerror or str(error)
  return None


class Watch:
  """A thread that gives signs of life and looks for those of the others."""

  def __init__(self, coordinator: str | None = None, client=None):
    """Begins to watch.

    Args:
      coordinator: 'host:port' of process 0; None for what JAX has found.
      client: the key-value store that all processes share; None for that of
        JAX's coordination service.
    """
    # There is no public way to the store.
    from jax._src import distributed
    state = distributed.global_state
    self._client = state.client if client is None else client
    self._coordinator = coordinator or state.coordinator_address or ''
    self._me, self._count = jax.process_index(), jax.process_count()
    self._seen = {}
    self._stop = threading.Event()
    self._thread = threading.Thread(
        target=self._run, name='watch', daemon=True)
    abort.explain = self._explain_abort
    self._thread.start()

  def close(self):
    """Parts from the others in good order: waits until all are done."""
    self._stop.set()
    self._thread.join()
    self._set(_ALIVE, _DONE)
    abort.explain = lambda: None
    jax.distributed.shutdown()

  def tell(self, error: BaseException) -> int:
    """Prints an error and tells the others; the exit status that it means."""
    if isinstance(error, SystemExit):
      if error.code is None or isinstance(error.code, int):
        return error.code or 0
      text = str(error.code)
      print(text, file=sys.stderr, flush=True)
    else:
      text = f'{type(error).__name__}: {error}'.splitlines()[0]
      if isinstance(error, jax.errors.JaxRuntimeError):
        # A collective has failed: probably for want of another process.
        seconds = SILENCE + 2 * LOOK
        _say(f'{text}. Waiting {seconds:.0f} s to see whether another process '
             'was lost')
        self._stop.wait(seconds)
      traceback.print_exception(error)
    self._set(_ENDED, text)
    return 1

  def leave(self, status: int):
    """Ends this process without waiting for the others."""
    if self._me == 0:
      # What it published is gone when it goes.
      time.sleep(3 * LOOK)
    self._end(status)

  def _end(self, status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

  def _set(self, folder, text):
    with contextlib.suppress(Exception):
      self._client.key_value_set(
          f'{folder}/{self._me}', text, allow_overwrite=True)

  def _read(self, folder):
    """Process -> text."""
    found = self._client.key_value_dir_get(folder)
    return {int(key.rsplit('/', 1)[1]): text for key, text in found}

  def _run(self):
    beat = 0
    while True:
      try:
        self._client.key_value_set(
            f'{_ALIVE}/{self._me}', f'{beat} {socket.gethostname()}',
            allow_overwrite=True)
        alive, ended = self._read(_ALIVE), self._read(_ENDED)
      except Exception:
        if self._stop.wait(LOOK):
          return
        self._lost(0, f'coordinator {self._coordinator}', 'does not answer')
        return
      beat += 1
      ended.pop(self._me, None)
      if ended:
        # An error that all have met is told by each of them.
        if self._stop.wait(LOOK):
          return
        process, text = min(ended.items())
        _say(f'process {process} has ended: {text}')
        self._end(1)
        return
      self._look(alive)
      if self._stop.wait(LOOK):
        return

  def _look(self, alive):
    """Ends this process when another one has been silent for too long."""
    now = time.monotonic()
    for process in range(self._count):
      text = alive.get(process, '')
      before, since = self._seen.get(process, (None, now))
      if text != before or text == _DONE or process == self._me:
        self._seen[process] = text, now
      elif now - since > SILENCE:
        self._lost(process, text.partition(' ')[2] or 'unknown host',
                   f'gave no sign of life for {SILENCE:.0f} s')

  def _lost(self, process, where, what):
    _say(_lost_line(process, where, what))
    self._end(LOST)

  def _explain_abort(self):
    """Whether the abort of this process is the end of process 0."""
    if self._me and unreachable(self._coordinator):
      return _lost_line(0, f'coordinator {self._coordinator}',
                        'does not answer'), LOST
    return None


class Abort:
  """What is said when jaxlib aborts this process for the sake of another.

  The C++ client has no other way to end a process, and no hook: it logs and
  calls abort(). The handler runs in the thread that did.

  Attributes:
    explain: () -> (line, exit status), or None for an abort of another kind.
  """

  def __init__(self):
    self.explain = lambda: None
    self._handler = None

  def install(self):
    """Takes the place of whatever handles the signal; once is enough."""
    if self._handler is not None:
      return
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p

    def handle(_):
      explained = self.explain()
      if explained:
        _say(explained[0])
        os._exit(explained[1])
      # abort() goes on when the handler returns.
      library.signal(signal.SIGABRT, None)

    self._handler = kind(handle)
    library.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))


abort = Abort()


def _lost_line(process, where, what):
  return (f'process {process} ({where}) {what}: it has died, or its host or '
          f'network has. This process ends too, with exit code {LOST}; start '
          'all of them again to go on from the last checkpoint')


def _say(line):
  print(f'error: {line}', file=sys.stderr, flush=True)
