"""What every side of the benchmark shares; needs nothing but Python.

The task: prompts of random words, and a reward that counts the even ones among
the words of the response, in Python, from text, on every side.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import random
import resource
import sys
import time

# Ids that are no words; neither is ever in a prompt.
PAD, EOS, FIRST_WORD = 0, 1, 2


class Clock:
  """Seconds by name, from the start of the process."""

  def __init__(self):
    self.marks = {}
    # What came before Python's first line counts too.
    with open('/proc/self/stat', encoding='ascii') as file:
      started = int(file.read().rpartition(')')[2].split()[19])
    with open('/proc/uptime', encoding='ascii') as file:
      now = float(file.read().split()[0])
    self._last = time.perf_counter() - (
        now - started / os.sysconf('SC_CLK_TCK'))

  def lap(self, name: str) -> None:
    """The time since the last lap is called `name`."""
    now = time.perf_counter()
    self.marks[name], self._last = now - self._last, now


def words(spec: dict, step: int) -> list[list[int]]:
  """Ids of the prompts of a step: N lists of P words."""
  rng = random.Random(f'{spec["name"]} {step}')
  return [[rng.randrange(FIRST_WORD, spec['vocabulary'])
           for _ in range(spec['prompt'])] for _ in range(spec['prompts'])]


def text(ids) -> str:
  """The words of these ids; what is no word is left out.

  Example:
    >>> text([5, 0, 12])
    'w5 w12'
  """
  return ' '.join(f'w{i}' for i in ids if i >= FIRST_WORD)


def reward(response: str) -> float:
  """The fraction of the words that are even.

  Example:
    >>> reward('w5 w12')
    0.5
    >>> reward('')
    0.0
  """
  found = response.split()
  return sum(not int(word[1:]) % 2 for word in found) / max(len(found), 1)


def lengths(spec: dict) -> list[int]:
  """Tokens of each response, N*G numbers from 1 to the longest.

  Example:
    >>> lengths(dict(prompts=1, samples=2, response=5, lengths='equal'))
    [5, 5]
  """
  rows, limit = spec['prompts'] * spec['samples'], spec['response']
  if spec['lengths'] == 'equal':
    return [limit] * rows
  rng = random.Random(0)
  return [min(max(round(rng.lognormvariate(math.log(limit / 6.5), 0.9)), 1),
              limit) for _ in range(rows)]


def times(call, count: int) -> list[float]:
  """Milliseconds of `count` calls, after one that is not counted."""
  call()
  out = []
  for _ in range(count):
    start = time.perf_counter()
    call()
    out.append(1e3 * (time.perf_counter() - start))
  return out


def watch_compiles(jax) -> list[float]:
  """A list that the seconds of each program that XLA compiles join."""
  seconds = []

  def note(event, duration, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      seconds.append(duration)
  jax.monitoring.register_event_duration_secs_listener(note)
  return seconds


def peak_mb() -> float:
  """The most memory that the process has had, in megabytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions(*packages: str) -> dict[str, str]:
  """Package -> version."""
  return {name: importlib.metadata.version(name) for name in packages}


def run(measure) -> None:
  """A side's whole program: the case is its argument, one JSON line its end.

  Args:
    measure: (spec, clock) -> dict of results.
  """
  clock = Clock()
  result = measure(json.loads(sys.argv[1]), clock)
  result |= {f'{name}_s': seconds for name, seconds in clock.marks.items()}
  if 'first_step_s' in result:
    # All that happens between the libraries being there and the second step.
    result['start_s'] = result['build_s'] + result['first_step_s']
  print('\n' + json.dumps(result), flush=True)
