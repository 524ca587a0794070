"""Metrics on disk: JSON lines always, TensorBoard when it is installed.

metrics.jsonl holds what a rerun reproduces, timing.jsonl what a clock says,
samples.jsonl any JSON objects. One background thread fetches device arrays and
writes, so the training loop never waits for either.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Mapping
import json
import math
import os
import pathlib
import queue
import threading
from typing import Any
import warnings

import jax
import numpy as np

try:
  import tensorboardX
except ImportError:
  tensorboardX = None

METRICS, TIMING, SAMPLES = 'metrics.jsonl', 'timing.jsonl', 'samples.jsonl'
# Rows in flight hold device arrays; a writer that lags must not fill memory.
_QUEUE_LENGTH = 64


class Writer:
  """Writes the rows of a run, in a thread of its own, on process 0 only.

  Rows of steps from `first_step` on, and a last line that a kill has torn, are
  cut off when the writer opens: they are about to be written again. So the
  files of a resumed run equal those of an uninterrupted one, provided that
  `flush` is called before each checkpoint is saved.

  Example:
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Writer(folder.name, tensorboard=False) as writer:
    ...   writer.write(0, {'reward': (3., 4.), 'entropy': 1.5})
    >>> read(folder.name)
    [{'step': 0, 'reward': 0.75, 'entropy': 1.5}]
    >>> folder.cleanup()
  """

  def __init__(self, workdir: str | os.PathLike, first_step: int = 0,
               tensorboard: bool = True):
    """Opens the files of a run.

    Args:
      workdir: folder of the run; made when missing.
      first_step: first step that will be written.
      tensorboard: also write TensorBoard events, if tensorboardX is there.
    """
    self._error = None
    self._closed = jax.process_index() != 0
    if self._closed:
      return
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._files = {}
    for name in (METRICS, TIMING, SAMPLES):
      _truncate(workdir / name, first_step)
      self._files[name] = (workdir / name).open('a', encoding='utf-8')
    self._events = None
    if tensorboard and tensorboardX is not None:
      self._events = tensorboardX.SummaryWriter(
          str(workdir / 'tensorboard'), purge_step=first_step)
    self._queue = queue.Queue(_QUEUE_LENGTH)
    self._thread = threading.Thread(
        target=self._work, name='metrics', daemon=True)
    self._thread.start()
    # A run that forgets to close, or fails, still writes its last rows.
    atexit.register(self.close)

  def write(self, step: int, metrics: Mapping[str, Any],
            timing: Mapping[str, Any] | None = None):
    """Hands a row to the thread.

    Args:
      step: of the row; several rows may share a step.
      metrics: name -> number, scalar array or (sum, weight) pair, on the
        device or not. A pair without weight says nothing and is left out;
        what is not finite is written as null.
      timing: likewise, for what a rerun does not reproduce.

    Raises:
      Exception: whatever an earlier row failed with.
    """
    self._put('row', step, dict(metrics), dict(timing or {}))

  def write_rows(self, step: int, rows: Iterable[Mapping[str, Any]]):
    """Hands rows for samples.jsonl to the thread.

    Args:
      step: put into each row.
      rows: JSON objects, arrays allowed.

    Raises:
      Exception: whatever an earlier row failed with.
    """
    self._put('samples', step, [dict(row) for row in rows])

  def flush(self):
    """Returns when everything handed over is in the files.

    Raises:
      Exception: whatever an earlier row failed with.
    """
    if not self._closed:
      self._queue.join()
    self._raise()

  def close(self):
    """Flushes and closes; more calls do nothing.

    Raises:
      Exception: whatever an earlier row failed with.
    """
    if self._closed:
      return
    self._closed = True
    atexit.unregister(self.close)
    self._queue.put(None)
    self._thread.join()
    for file in self._files.values():
      file.close()
    if self._events is not None:
      self._events.close()
    self._raise()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _put(self, *job):
    self._raise()
    if jax.process_index() != 0:
      return
    if self._closed:
      raise ValueError('the writer is closed; nothing more can be written')
    self._queue.put(job)

  def _raise(self):
    """Raises what the thread has failed with: no row was written since."""
    if self._error is not None:
      raise self._error

  def _work(self):
    """The thread: after an error it only empties the queue."""
    failed = False
    while (job := self._queue.get()) is not None:
      if not failed:
        try:
          self._write_job(*job)
        except Exception as error:  # Raised again in the caller's thread.
          failed, self._error = True, error
      self._queue.task_done()
    self._queue.task_done()

  def _write_job(self, kind, step, *content):
    step = int(step)
    if kind == 'samples':
      self._append(SAMPLES, [{'step': step, **_fetch(row)}
                             for row in content[0]])
      return
    metrics, timing = (to_row(part) for part in content)
    if metrics:
      self._append(METRICS, [{'step': step, **metrics}])
    if timing:
      self._append(TIMING, [{'step': step, **timing}])
    if self._events is not None:
      for prefix, row in (('', metrics), ('timing/', timing)):
        for name, value in row.items():
          if value is not None:
            self._events.add_scalar(prefix + name, value, step)

  def _append(self, name, rows):
    """One write per batch of lines, so that a kill tears the last one only."""
    lines = [json.dumps(row, default=_plain, allow_nan=False)
             for row in map(_finite, rows)]
    self._files[name].write(''.join(line + '\n' for line in lines))
    self._files[name].flush()


def to_row(metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Metrics as plain numbers; (sum, weight) pairs become means.

  Args:
    metrics: name -> number, scalar array or (sum, weight) pair.

  Returns:
    name -> int, float rounded to float32's digits, or None for what is not
    finite; pairs whose weight is 0 are left out.

  Raises:
    ValueError: for a value that is not a scalar or a pair; names it.

  Example:
    >>> import jax.numpy as jnp
    >>> to_row({'length': (jnp.float32(7), 2), 'tokens': 40, 'kl': (0., 0.),
    ...         'loss': float('nan')})
    {'length': 3.5, 'tokens': 40, 'loss': None}
  """
  row = {}
  for name, value in _fetch(metrics).items():
    if isinstance(value, (tuple, list)) and len(value) == 2:
      total, weight = (_scalar(name, part) for part in value)
      if weight == 0:
        continue
      value = float(total) / float(weight)
    row[name] = _number(_scalar(name, value))
  return row


def read(path: str | os.PathLike, name: str = METRICS) -> list[dict[str, Any]]:
  """The rows of a run, also of one that is still being written.

  Args:
    path: folder of the run, or a .jsonl file.
    name: which file of the folder.

  Returns:
    One dict per line, 'step' included; a torn last line is left out.

  Raises:
    FileNotFoundError: if there is no such file.
  """
  path = pathlib.Path(path)
  path = path / name if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist; is this a run?')
  return [row for _, row in _parse(path)]


def _fetch(row):
  """The row on the host; as a dict, device_get would sort its names."""
  return dict(zip(row, jax.device_get(list(row.values()))))


def _scalar(name, value):
  """A numpy scalar, of whatever dtype."""
  array = np.asarray(value)
  if array.shape or array.dtype.kind in 'OUS':
    raise ValueError(
        f'metric {name!r} is {array.dtype}{list(array.shape)}; it must be a '
        'scalar or a (sum, weight) pair of scalars')
  return array[()]


def _number(value):
  """A short number that means the same float32; None if not finite."""
  if np.issubdtype(value.dtype, np.integer) or value.dtype == bool:
    return int(value)
  with np.errstate(over='ignore'):
    value = np.float32(value)
  return float(str(value)) if np.isfinite(value) else None


def _plain(value):
  """What json asks for objects that it does not know."""
  if isinstance(value, (np.ndarray, np.generic)):
    return _finite(value.tolist())
  raise TypeError(
      f'a row holds {type(value).__name__}, which JSON cannot express')


def _finite(value):
  """The same JSON value with null for what is not finite."""
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, Mapping):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(item) for item in value]
  return value


def _parse(path):
  """(line, row) of each line that holds a JSON object."""
  lines = path.read_bytes().split(b'\n')
  parsed = []
  for number, line in enumerate(lines):
    try:
      row = json.loads(line)
      row['step']
      parsed.append((line, row))
    except (ValueError, TypeError, KeyError):
      # The last piece is empty, or what a kill has left of a line.
      if number < len(lines) - 1:
        warnings.warn(f'line {number + 1} of {path} is not a row; left out',
                      stacklevel=3)
  return parsed


def _truncate(path, first_step):
  """Drops rows from `first_step` on and torn lines, in one atomic step."""
  if not path.exists():
    return
  kept = b''.join(line + b'\n' for line, row in _parse(path)
                  if row['step'] < first_step)
  if path.stat().st_size == len(kept):
    return
  unfinished = path.with_name(path.name + '.tmp')
  unfinished.write_bytes(kept)
  unfinished.replace(path)
