"""Verifiers in processes of their own, ended when they hang or crash.

A verifier is other people's code on a model's text: it may loop for ever, exit
or take the interpreter down with it. Threads and signals cannot stop that;
ending a process does. A row that could not be scored is told apart from a row
that scored 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing import connection
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any
import weakref

from policyopt.envs import worker as worker_module

SCORED, TIMED_OUT, CRASHED = 0, 1, 2

_LARGEST_CHUNK = 32
_STARTS = 3
_KILL_S = 5.0


class VerifierPool:
  """Scores rows in worker processes, with a time limit for every row.

  A row whose scorer raises, exits or crashes gets verdict 2; one that takes
  longer than `timeout_s` gets verdict 1, and its process is killed together
  with the processes it started. The other rows are not affected, and a new
  process takes the place of a lost one. Nothing waits without a limit.

  Args:
    scorer: 'module:function', imported in the workers only. The function gets
      the arguments of a row; what it returns is the row's value.
    kwargs: if not None, the named function is a factory instead: it is called
      once per process with these (picklable) arguments and returns the scorer.
    workers: processes; 0 scores in the calling process, without any time
      limit or protection: for trusted scorers only.
    timeout_s: seconds allowed for a row.
    start_s: seconds allowed for a process to start and import the scorer.
    memory_gb: gigabytes of address space allowed to a process; a row that
      needs more has crashed.

  Attributes:
    counts: rows 'scored', 'timeouts' and 'crashes', and 'restarts' of
      processes, since the pool was made.
    last_error: what the last row that was not scored died of, for messages.

  Raises:
    ValueError: for a scorer that is not 'module:function' or a limit that is
      not positive.

  Example:
    >>> with VerifierPool('operator:truediv', workers=0) as pool:
    ...   pool.map([(6, 3), (1, 0)])
    ([0, 2], [2.0, None])
    >>> pool.counts['crashes']
    1
  """

  def __init__(
      self, scorer: str, kwargs: Mapping[str, Any] | None = None, *,
      workers: int = 2, timeout_s: float = 10.0, start_s: float = 120.0,
      memory_gb: float = float('inf')):
    module, _, function = scorer.partition(':')
    if not module or not function:
      raise ValueError(
          f"scorer is {scorer!r}, but must be 'module:function'")
    if min(timeout_s, start_s, memory_gb) <= 0 or workers < 0:
      raise ValueError(
          f'timeout_s={timeout_s}, start_s={start_s}, memory_gb={memory_gb} '
          f'must be positive, workers={workers} must not be negative')
    self.counts = dict(scored=0, timeouts=0, crashes=0, restarts=0)
    self.last_error = ''
    self._start = (
        scorer, None if kwargs is None else dict(kwargs), timeout_s, memory_gb)
    self._timeout_s = timeout_s
    self._start_s = start_s
    self._local = None
    self._lock = threading.Lock()
    # Replaced in place: the finalizer ends whatever it holds at the time.
    self._workers = [_Worker(self._start, start_s) for _ in range(workers)]
    self._in_process = workers == 0
    self._finalizer = weakref.finalize(
        self, _end_all, self._workers, os.getpid())

  def map(
      self, rows: Sequence[tuple[Any, ...]]
  ) -> tuple[list[int], list[Any | None]]:
    """Scores rows.

    Args:
      rows: the scorer's arguments, picklable, for each of B rows.

    Returns:
      Verdicts (0 scored, 1 timed out, 2 crashed) and values (None where the
      verdict is not 0), both in the order of the rows.

    Raises:
      RuntimeError: if the pool is closed, or its scorer cannot be loaded.
    """
    with self._lock:
      if not self._finalizer.alive:
        raise RuntimeError('the verifier pool is closed')
      if self._in_process:
        outcomes = self._map_here(rows)
      else:
        outcomes = self._map_there(rows)
    for verdict, value in outcomes:
      self.counts[('scored', 'timeouts', 'crashes')[verdict]] += 1
      if verdict:
        self.last_error = value
    return ([verdict for verdict, _ in outcomes],
            [None if verdict else value for verdict, value in outcomes])

  def close(self) -> None:
    """Ends the processes, after a `map` in progress; may be called again."""
    with self._lock:
      self._finalizer()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _map_here(self, rows):
    scorer, kwargs, *_ = self._start
    if self._local is None:
      self._local = worker_module.load(scorer, kwargs)
    return [worker_module.score(self._local, args, Exception) for args in rows]

  def _map_there(self, rows):
    try:
      return _Job(self, rows).run()
    except BaseException:
      # Answers still on their way belong to no later call.
      for index, worker in enumerate(self._workers):
        if worker.running:
          self._replace(index)
      raise

  def _replace(self, index):
    """Starts a process in the place of one that is lost."""
    old = self._workers[index]
    old.end()
    self.counts['restarts'] += 1
    self._workers[index] = _Worker(
        self._start, self._start_s, old.failures)


class _Job:
  """One call of `map`: which rows wait, run and are done."""

  def __init__(self, pool, rows):
    self._pool = pool
    self._rows = rows
    self._outcomes = [None] * len(rows)
    # Several chunks per process even out rows that take longer.
    share = len(rows) // (4 * len(pool._workers))
    self._chunk = max(1, min(_LARGEST_CHUNK, share))
    self._waiting = list(range(len(rows)))[::-1]

  def run(self):
    workers = self._pool._workers
    while True:
      for index in range(len(workers)):
        self._feed(index)
      # A process that is still starting is waited for only if rows wait.
      busy = [w for w in workers if w.running or (
          self._waiting and not w.ready)]
      if not busy:
        return self._outcomes
      left = min(w.deadline for w in busy) - time.monotonic()
      connection.wait([w.pipe for w in busy], max(left, 0.))
      for index, worker in enumerate(workers):
        if worker in busy:
          self._collect(index, worker)

  def _feed(self, index):
    """Gives a free process its next rows."""
    worker = self._pool._workers[index]
    if not worker.ready or worker.running or not self._waiting:
      return
    taken = [self._waiting.pop()
             for _ in range(min(self._chunk, len(self._waiting)))]
    try:
      worker.give(taken, [self._rows[i] for i in taken],
                  self._pool._timeout_s)
    except OSError:
      self._waiting.extend(taken[::-1])
      self._lost(index, worker, CRASHED, 'it ended while idle')

  def _collect(self, index, worker):
    """Takes in what a process has sent; replaces it if it is lost."""
    try:
      while worker.pipe.poll():
        verdict, value = _loads(worker.pipe.recv_bytes())
        if not worker.ready:
          if verdict:
            raise RuntimeError(
                f'the scorer {self._pool._start[0]} cannot be loaded:\n{value}')
          worker.ready = True
          return
        if not worker.began:
          worker.began = True
          continue
        self._outcomes[worker.running.pop(0)] = (verdict, value)
        worker.failures = 0
        worker.deadline = time.monotonic() + self._pool._timeout_s
        if not worker.running:
          return
    except (EOFError, OSError):
      self._lost(index, worker, CRASHED, 'its process ended')
      return
    if time.monotonic() >= worker.deadline:
      self._lost(index, worker, TIMED_OUT, 'it took longer than allowed')

  def _lost(self, index, worker, verdict, reason):
    """Blames the row that a lost process was at, and starts another."""
    if worker.running and (worker.began or verdict == TIMED_OUT):
      self._outcomes[worker.running[0]] = (verdict, reason)
      self._waiting.extend(worker.running[:0:-1])
    else:
      # It died before it took any: none of the rows is to blame.
      self._waiting.extend(worker.running[::-1])
      worker.failures += 1
      if worker.failures >= _STARTS:
        raise RuntimeError(
            f'verifier processes for {self._pool._start[0]} ended {_STARTS} '
            f'times in a row before they took a row: {reason}')
    self._pool._replace(index)


class _Worker:
  """A process, its pipe, and the rows it has been given."""

  def __init__(self, start, start_s, failures=0):
    self.ready = False
    self.began = False  # Whether it has taken the rows that it was given.
    self.failures = failures
    self.running = []
    self.deadline = time.monotonic() + start_s
    ours, theirs = socket.socketpair()
    # Neither a stopped process nor half a message may hold us for ever.
    limit = struct.pack('@ll', int(start_s) + 1, 0)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    with theirs:
      self.process = subprocess.Popen(
          [sys.executable, '-P', worker_module.__file__,
           str(theirs.fileno()), str(os.getpid())],
          pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
          # Its own group: killed with its children, untouched by Ctrl-C.
          start_new_session=True,
          # A scorer must not take the accelerator, nor all the cores.
          env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'OMP_NUM_THREADS': '1'})
    self.pipe = connection.Connection(ours.detach())
    try:
      self.pipe.send((sys.path, *start))
    except OSError:
      pass  # It is gone already, which the first wait notices.

  def give(self, indices, rows, timeout_s):
    self.pipe.send(rows)
    self.began = False
    self.running = indices
    self.deadline = time.monotonic() + timeout_s

  def end(self):
    self.pipe.close()
    if self.process.returncode is not None:
      return
    try:
      os.killpg(self.process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
      pass
    try:
      self.process.wait(_KILL_S)
    except subprocess.TimeoutExpired:
      pass  # The system is still tearing it down.


def _loads(data):
  """The outcome in a message; a value that cannot be read is a crash."""
  try:
    return pickle.loads(data)
  except Exception as error:  # Whatever the value's class raises.
    return CRASHED, f'its value cannot be read: {error!r}'


def _end_all(workers, owner):
  if os.getpid() != owner:
    return  # A fork of the process that made the pool.
  for worker in workers:
    worker.end()
