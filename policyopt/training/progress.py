"""What a run tells its user: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import sys
import time
from typing import Any, TextIO

import jax

from policyopt.training.metrics import to_row

# What is shown, under which names, and how.
_SHOWN = (
    ('reward', ('reward',), '{:.3f}'),
    ('length', ('response_length', 'length'), '{:.1f}'),
)


class Progress:
  """Shows step, reward, length, tokens per second and the time left.

  Example:
    >>> import sys
    >>> progress = Progress(2, stream=sys.stdout, clock=lambda: 0.)
    >>> progress.update(metrics={'reward': (1., 2.), 'response_length': 30.})
    step 1/2  reward 0.500  length 30.0  left 0:00
    >>> progress.close()
  """

  def __init__(self, total: int, first_step: int = 0, label: str = 'step',
               stream: TextIO | None = None, every: float = 5.,
               clock: Callable[[], float] = time.monotonic):
    """Begins to count.

    Args:
      total: steps of the whole run.
      first_step: first step of this process.
      label: what is counted.
      stream: where to write; None for the standard error.
      every: seconds between two lines when the stream is no terminal.
      clock: seconds from any beginning.
    """
    self._total, self._first, self._done = total, first_step, first_step
    self._label = label
    self._stream = sys.stderr if stream is None else stream
    self._every, self._clock = every, clock
    self._start = self._last = clock()
    self._began = self._shown = None
    self._tokens = 0
    self._quiet = jax.process_index() != 0
    self._bar = None
    if not self._quiet and self._stream.isatty():
      import tqdm  # Only a terminal needs it.
      self._bar = tqdm.tqdm(
          total=total, initial=first_step, desc=label, file=self._stream,
          unit='step', dynamic_ncols=True)

  def update(self, tokens: int = 0, metrics: Mapping[str, Any] | None = None):
    """Shows that one more step is done.

    Args:
      tokens: that the step has handled, for the tokens per second.
      metrics: name -> number or (sum, weight) pair; when they are still being
        computed and are about to be shown, this waits.
    """
    if self._quiet:
      return
    now = self._clock()
    self._done += 1
    self._tokens += tokens
    if self._began is None:
      self._began = now
    # The first and the last step always; between them the clock decides.
    if self._bar is None and self._done < self._total and (
        self._shown is not None and now - self._shown < self._every):
      return
    shown = _shown(metrics or {})
    if self._tokens and now > self._last:
      shown['tokens/s'] = f'{self._tokens / (now - self._last):,.0f}'
    self._tokens, self._last, self._shown = 0, now, now
    if self._bar is not None:
      self._bar.set_postfix(shown, refresh=False)
      self._bar.update()
      return
    parts = [f'{self._label} {self._done}/{self._total}']
    parts += [f'{name} {value}' for name, value in shown.items()]
    parts.append(f'left {_duration(self._left(now))}')
    self.write('  '.join(parts))

  def _left(self, now):
    """Seconds that the other steps will take."""
    steps = self._done - self._first
    # The first step also compiles, so it is the judge only of itself.
    pace = (now - self._began) / (steps - 1) if steps > 1 else now - self._start
    return pace * (self._total - self._done)

  def write(self, line: str):
    """Writes a line without breaking the bar."""
    if self._quiet:
      return
    if self._bar is not None:
      self._bar.write(line, file=self._stream)
      return
    print(line, file=self._stream, flush=True)

  def close(self):
    """Leaves the bar as it is."""
    if self._bar is not None:
      self._bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _shown(metrics):
  """Label -> text of the metrics that are there."""
  names = [name for _, names, _ in _SHOWN for name in names]
  row = to_row({name: metrics[name] for name in names if name in metrics})
  shown = {}
  for label, names, form in _SHOWN:
    for name in names:
      if name in row:
        value = row[name]
        shown[label] = 'nan' if value is None else form.format(value)
        break
  return shown


def _duration(seconds):
  """As 1:02:03 or 2:03."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minutes:02d}:{seconds:02d}'
  return f'{minutes}:{seconds:02d}'
