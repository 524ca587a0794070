"""Tests of the metrics writer: content, resuming, kills, errors."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.training import metrics


def write_steps(folder, steps, first_step=0):
  with metrics.Writer(folder, first_step, tensorboard=False) as writer:
    for step in steps:
      writer.write(step, {'reward': (jnp.float32(step), jnp.float32(3))},
                   {'seconds': 0.5 + step})
      writer.write_rows(step, [{'text': f'answer {step}', 'ids': [step]}])


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.glob('*.jsonl')}


def test_rows_are_what_was_written(tmp_path):
  write_steps(tmp_path, range(3))
  assert metrics.read(tmp_path) == [
      {'step': 0, 'reward': 0.}, {'step': 1, 'reward': 0.33333334},
      {'step': 2, 'reward': 0.6666667}]
  assert metrics.read(tmp_path, metrics.TIMING)[2] == {
      'step': 2, 'seconds': 2.5}
  assert metrics.read(tmp_path / metrics.SAMPLES)[1] == {
      'step': 1, 'text': 'answer 1', 'ids': [1]}


def test_numbers_keep_their_float32(rng):
  values = rng.standard_normal(200).astype(np.float32)
  row = metrics.to_row({str(i): x for i, x in enumerate(jnp.array(values))})
  np.testing.assert_array_equal(
      np.array(list(row.values()), np.float32), values)


def test_rows_are_strict_json(tmp_path):
  with metrics.Writer(tmp_path, tensorboard=False) as writer:
    writer.write(jnp.int32(4), {
        'nan': jnp.nan, 'inf': (jnp.inf, 2.), 'none': (0., 0.), 'huge': 1e300,
        'count': jnp.int32(7), 'flag': True, 'half': jnp.bfloat16(0.5)})
    writer.write_rows(4, [{
        'array': jnp.array([1., jnp.nan]), 'nested': {'x': (np.float32(2),)},
        'word': 'ja ü', 'nothing': None}])
  line = (tmp_path / metrics.METRICS).read_text()

  def forbid(constant):
    raise AssertionError(constant)

  assert json.loads(line, parse_constant=forbid) == {
      'step': 4, 'nan': None, 'inf': None, 'huge': None, 'count': 7,
      'flag': 1, 'half': 0.5}
  assert metrics.read(tmp_path, metrics.SAMPLES) == [{
      'step': 4, 'array': [1., None], 'nested': {'x': [2.]}, 'word': 'ja ü',
      'nothing': None}]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
  whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
  write_steps(whole, range(8))
  write_steps(resumed, range(6))
  # Killed in step 6, whose line is torn; the checkpoint is of step 4.
  for name in contents(resumed):
    with (resumed / name).open('a') as file:
      file.write('{"step": 6, "rew')
  write_steps(resumed, range(4, 8), first_step=4)
  assert contents(resumed) == contents(whole)
  assert not list(resumed.glob('*.tmp'))


@pytest.mark.parametrize('cut', range(1, 32))
def test_any_torn_line_is_cut_off(tmp_path, cut):
  write_steps(tmp_path, range(2))
  path = tmp_path / metrics.METRICS
  path.write_bytes(path.read_bytes()[:-cut])
  rows = metrics.read(tmp_path)
  assert [row['step'] for row in rows] == [0, 1][:len(rows)]
  write_steps(tmp_path, range(1, 3), first_step=1)
  assert [row['step'] for row in metrics.read(tmp_path)] == [0, 1, 2]
  assert path.read_bytes().count(b'\n') == 3


def test_damage_in_the_middle_is_told(tmp_path):
  write_steps(tmp_path, range(3))
  path = tmp_path / metrics.METRICS
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(lines[0] + 'garbage\n' + lines[2])
  with pytest.warns(UserWarning, match='line 2 of .*metrics.jsonl'):
    assert [row['step'] for row in metrics.read(tmp_path)] == [0, 2]


def test_a_killed_process_tears_the_last_line_at_most(tmp_path):
  program = textwrap.dedent("""
      import sys
      from policyopt.training.metrics import Writer
      writer = Writer(sys.argv[1], tensorboard=False)
      step = 0
      while True:
        writer.write(step, {'a' * 200: step / 7})
        if step == 20:
          writer.flush()
          print('flushed', flush=True)
        step += 1
      """)
  process = subprocess.Popen(
      [sys.executable, '-c', program, str(tmp_path)], stdout=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
  with process:
    assert process.stdout.readline() == b'flushed\n'
    process.send_signal(signal.SIGKILL)
  steps = [row['step'] for row in metrics.read(tmp_path)]
  assert len(steps) >= 21 and steps == list(range(len(steps)))


def test_an_error_in_the_thread_is_raised_again(tmp_path):
  writer = metrics.Writer(tmp_path, tensorboard=False)
  writer.write(0, {'vector': jnp.ones(3)})
  for _ in range(2):
    with pytest.raises(ValueError, match=r"'vector' is float32\[3\]"):
      writer.flush()
  with pytest.raises(ValueError, match='vector'):
    writer.write(1, {'fine': 1.})
  with pytest.raises(ValueError, match='vector'):
    writer.close()
  assert metrics.read(tmp_path) == []


def test_an_object_that_json_lacks_is_named(tmp_path):
  writer = metrics.Writer(tmp_path, tensorboard=False)
  writer.write_rows(0, [{'thing': object()}])
  with pytest.raises(TypeError, match='a row holds object'):
    writer.close()


def test_a_closed_writer_refuses(tmp_path):
  writer = metrics.Writer(tmp_path, tensorboard=False)
  writer.close()
  writer.close()
  with pytest.raises(ValueError, match='closed'):
    writer.write(0, {'x': 1.})


def test_forgetting_to_close_loses_nothing(tmp_path):
  program = textwrap.dedent("""
      import sys
      from policyopt.training.metrics import Writer
      writer = Writer(sys.argv[1], tensorboard=False)
      for step in range(50):
        writer.write(step, {'x': step})
      raise KeyError('the run fails')
      """)
  process = subprocess.run(
      [sys.executable, '-c', program, str(tmp_path)], capture_output=True,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
  assert b'the run fails' in process.stderr
  assert len(metrics.read(tmp_path)) == 50


def test_other_processes_write_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with metrics.Writer(tmp_path / 'run') as writer:
    writer.write(0, {'x': 1.})
    writer.flush()
  assert not (tmp_path / 'run').exists()


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
  with metrics.Writer(tmp_path) as writer:
    writer.write(3, {'reward': (1., 2.), 'nan': jnp.nan}, {'seconds': 2.})
  event, = (tmp_path / 'tensorboard').iterdir()
  content = event.read_bytes()
  assert b'reward' in content and b'timing/seconds' in content
  assert b'nan' not in content
  # Without the package, everything else still works.
  monkeypatch.setattr(metrics, 'tensorboardX', None)
  with metrics.Writer(tmp_path / 'without') as writer:
    writer.write(0, {'x': 1.})
  assert [p.name for p in (tmp_path / 'without').iterdir()
          if p.is_dir()] == []


def test_reading_what_is_not_a_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='is this a run'):
    metrics.read(tmp_path)
