"""Tests of the learning curves and the script that draws them."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from policyopt.training import curves

SCRIPT = pathlib.Path(__file__).parents[2] / 'experiments' / 'plot.py'


def make_run(folder, steps, **columns):
  folder.mkdir(parents=True)
  with (folder / 'metrics.jsonl').open('w') as file:
    for step in range(steps):
      row = {name: value(step) for name, value in columns.items()}
      file.write(json.dumps({'step': step, **row}) + '\n')
  return folder


def size(path):
  """Width and height of a PNG."""
  data = path.read_bytes()
  assert data[:8] == b'\x89PNG\r\n\x1a\n'
  return tuple(int.from_bytes(data[i:i + 4], 'big') for i in (16, 20))


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were drawn."""
  figures = []
  grid = curves._grid

  def recorded(count):
    figure, axes = grid(count)
    figures.append(figure)
    return figure, axes

  monkeypatch.setattr(curves, '_grid', recorded)
  return figures


def test_one_run(tmp_path, drawn):
  run = make_run(
      tmp_path / 'demo', 60, reward=lambda i: i / 60,
      response_length=lambda i: None if i % 2 else 30. + i,
      **{'eval/pass@1': lambda i: 0.5 if i % 20 == 0 else None,
         'entropy/sampled': lambda i: 2 * math.exp(-i / 20),
         'other': lambda i: 1.})
  out = tmp_path / 'figures' / 'curve.png'
  curves.plot([run], out)
  assert size(out)[0] > 1000
  figure, = drawn
  assert [axis.get_title(loc='left') for axis in figure.axes] == [
      'Reward', 'Held-out accuracy', 'Response length', 'Entropy']
  raw, smooth = figure.axes[0].get_lines()
  assert raw.get_ydata()[-1] == 59 / 60
  assert abs(smooth.get_ydata()[30] - 0.5) < 1e-6
  assert figure.axes[1].get_lines()[0].get_xdata().tolist() == [0, 20, 40]
  assert figure.axes[2].get_lines()[0].get_xdata().tolist()[:3] == [0, 2, 4]
  assert figure.axes[3].get_ylabel() == 'nats per token'
  assert figure.get_suptitle() == 'demo' and not figure.legends


def test_runs_are_overlaid_and_told_apart(tmp_path, drawn):
  runs = [make_run(tmp_path / method / 'seed0', 5, reward=lambda i: i)
          for method in ('grpo', 'dapo', *map(str, range(7)))]
  curves.plot(runs, tmp_path / 'out.png')
  figure, = drawn
  legend, = figure.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert names[:2] == ['grpo/seed0', 'dapo/seed0']
  looks = {(line.get_color(), line.get_linestyle())
           for line in legend.get_lines()}
  assert len(looks) == 9


def test_smoothing_keeps_a_line_straight():
  values = [2. * i for i in range(50)]
  smooth = curves._smooth(values, 3)
  assert smooth[3:-3] == pytest.approx(values[3:-3])
  assert curves._smooth([5.] * 7, 3) == pytest.approx([5.] * 7)


def test_a_run_without_rows_is_named(tmp_path):
  empty = make_run(tmp_path / 'empty', 0)
  with pytest.raises(ValueError, match='empty has 0 rows in metrics.jsonl'):
    curves.plot([empty], tmp_path / 'out.png')
  barren = make_run(tmp_path / 'barren', 3, reward=lambda i: None)
  with pytest.raises(ValueError, match='barren has 3 rows.*reward'):
    curves.plot([barren], tmp_path / 'out.png')
  with pytest.raises(FileNotFoundError, match='missing.*is this a run'):
    curves.plot([tmp_path / 'missing'], tmp_path / 'out.png')
  with pytest.raises(ValueError, match='no run'):
    curves.plot([], tmp_path / 'out.png')
  assert not (tmp_path / 'out.png').exists()


def test_the_script(tmp_path):
  run = make_run(tmp_path / 'demo', 3, reward=lambda i: i)
  def call(*arguments):
    return subprocess.run(
        [sys.executable, '-W', 'error', str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, cwd=tmp_path,
        env={'PYTHONPATH': str(SCRIPT.parents[1]), 'JAX_PLATFORMS': 'cpu',
             'HOME': str(tmp_path), 'PATH': ''})

  done = call(run, '--out=curve.png')
  assert (done.returncode, done.stdout) == (0, 'curve.png\n'), done.stderr
  assert size(tmp_path / 'curve.png')[0] > 400
  failed = call(run, tmp_path / 'missing')
  assert failed.returncode == 1
  assert failed.stderr.count('\n') == 1 and 'is this a run' in failed.stderr
