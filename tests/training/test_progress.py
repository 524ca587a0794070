"""Tests of the progress bar and its lines."""

import io

import jax
import jax.numpy as jnp
import pytest

from policyopt.training.progress import Progress

METRICS = {'reward': (jnp.float32(1), jnp.float32(4)), 'response_length': 12.25,
           'loss': 1.}


class Terminal(io.StringIO):

  def isatty(self):
    return True


class Clock:

  def __init__(self):
    self.now = 100.

  def __call__(self):
    return self.now


def test_lines_come_every_few_seconds():
  stream, clock = io.StringIO(), Clock()
  with Progress(100, 10, 'grpo', stream, every=5., clock=clock) as progress:
    clock.now += 9.  # The first step compiles.
    for _ in range(10, 100):
      clock.now += 1.
      progress.update(200, METRICS)
  lines = stream.getvalue().splitlines()
  assert len(lines) == 1 + 89 // 5 + 1
  assert lines[0] == ('grpo 11/100  reward 0.250  length 12.2  '
                      'tokens/s 20  left 14:50')
  assert lines[1] == ('grpo 16/100  reward 0.250  length 12.2  '
                      'tokens/s 200  left 1:24')
  assert lines[-1].startswith('grpo 100/100') and 'left 0:00' in lines[-1]


def test_hours_are_told():
  stream, clock = io.StringIO(), Clock()
  progress = Progress(62, stream=stream, clock=clock)
  clock.now += 61.
  progress.update()
  assert stream.getvalue() == 'step 1/62  left 1:02:01\n'


def test_a_terminal_gets_a_bar():
  stream = Terminal()
  with Progress(4, 1, 'grpo', stream) as progress:
    for _ in (1, 2):
      progress.update(7, METRICS)
    progress.write('held-out pass@1 0.5')
    progress.update(7, METRICS)
  text = stream.getvalue()
  assert '4/4' in text and 'reward=0.250' in text and 'length=12.2' in text
  assert 'grpo' in text and 'tokens/s=' in text
  assert 'held-out pass@1 0.5\n' in text
  assert '\r' in text and 'loss' not in text


def test_metrics_without_number_are_nan_or_absent():
  stream = io.StringIO()
  Progress(1, stream=stream, clock=Clock()).update(
      metrics={'reward': jnp.nan, 'response_length': (0., 0.)})
  assert stream.getvalue() == 'step 1/1  reward nan  left 0:00\n'


@pytest.mark.parametrize('stream', [io.StringIO(), Terminal()])
def test_other_processes_are_quiet(monkeypatch, stream):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with Progress(2, stream=stream) as progress:
    progress.update(1, METRICS)
    progress.write('line')
  assert stream.getvalue() == ''
