"""A run that is killed and started again ends with the same bits."""

import json
import random
import shutil

import pytest


def rows(path, count):
  """A kill point: `path` has `count` lines."""
  def reached(_):
    return path.exists() and path.read_bytes().count(b'\n') >= count
  return reached


def appears(path):
  """A kill point: `path` exists."""
  return lambda _: path.exists()


def saving(folder):
  """A kill point: an unfinished checkpoint that was not there before."""
  def unfinished():
    found = set()
    for path in folder.glob('tmp-*'):
      try:
        stat = path.stat()
      except FileNotFoundError:
        continue
      found.add((path.name, stat.st_ino))
    return found
  before = unfinished()
  return lambda _: bool(unfinished() - before)


@pytest.mark.slow
def test_a_kill_in_the_loop(tmp_path, runs, reference, outcome):
  assert runs.train_and_kill(tmp_path, rows(tmp_path / 'metrics.jsonl', 4))
  assert not (tmp_path / 'result.json').exists()
  runs.train(tmp_path)
  assert outcome(tmp_path) == outcome(reference[0])


@pytest.mark.slow
def test_kills_everywhere(tmp_path, runs, reference, outcome):
  warm = tmp_path / 'warm_start'
  points = [
      ('in the warm start', lambda: rows(warm / 'metrics.jsonl', 8)),
      ('in a save of the warm start', lambda: saving(warm / 'checkpoints')),
      ('in the first evaluation', lambda: appears(tmp_path / 'evaluations')),
      ('before the first checkpoint',
       lambda: rows(tmp_path / 'metrics.jsonl', 1)),
      ('in a save', lambda: saving(tmp_path / 'checkpoints')),
      ('after a checkpoint', lambda: rows(tmp_path / 'metrics.jsonl', 5)),
      ('in the last evaluation',
       lambda: appears(tmp_path / 'checkpoints' / '00000006')),
  ]
  for name, point in points:
    assert runs.train_and_kill(tmp_path, point()), f'no kill {name}'
  assert not (tmp_path / 'result.json').exists()
  runs.train(tmp_path)
  assert outcome(tmp_path) == outcome(reference[0])
  # Nothing unfinished stays behind.
  assert not list(tmp_path.rglob('checkpoints/tmp-*'))


@pytest.mark.slow
def test_kills_at_random_moments_with_a_verifier_process(
    tmp_path, runs, outcome):
  config = runs.folder / 'text.py'
  config.write_text(runs.config.read_text().replace(
      "config.task = 'arithmetic'\n  config.task_kw = dict(digits=1)",
      "common.set_task(config, 'reasoning_gym:chain_sum', min_terms=2, "
      'max_terms=2, min_digits=1, max_digits=1, replace=(('
      "'State the final answer to the following arithmetic problem: ', ''),))"
      '\n  config.task_kw.update(exact=False, timeout_s=120.)').replace(
          'length=32', 'length=64'))
  task = f'--config={config}'
  whole, run = tmp_path / 'whole', tmp_path / 'run'
  runs.train(whole, task)
  seconds = json.loads((whole / 'result.json').read_text())['seconds']
  # That run compiled everything; the next are about twice as fast.
  fractions, kills = random.Random(0), 0
  for _ in range(3):
    delay = fractions.uniform(.1, .6) * seconds
    kills += runs.train_and_kill(
        run, lambda elapsed, delay=delay: elapsed > delay, task)
  assert kills
  runs.train(run, task)
  assert outcome(run) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['truncated', 'without manifest', 'missing'])
def test_a_damaged_newest_checkpoint(
    damage, tmp_path, runs, reference, outcome):
  run = tmp_path / 'run'
  shutil.copytree(reference[0], run)
  (run / 'result.json').unlink()
  newest = run / 'checkpoints' / '00000006'
  if damage == 'missing':
    shutil.rmtree(newest)
  elif damage == 'without manifest':
    (newest / 'manifest.json').unlink()
  else:
    largest = max((path for path in newest.rglob('*') if path.is_file()),
                  key=lambda path: path.stat().st_size)
    with largest.open('r+b') as file:
      file.truncate(largest.stat().st_size // 2)
  done = runs.train(run)
  warned = [line for line in done.stderr.splitlines() if 'Warning' in line]
  assert len(warned) == 1 and 'checkpoint of step 6' in warned[0], done.stderr
  assert outcome(run) == outcome(reference[0])
  timing = (run / 'timing.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in timing] == list(range(6))


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is_and_may_be_prolonged(
    tmp_path, runs, reference, outcome):
  run = tmp_path / 'run'
  shutil.copytree(reference[0], run)
  again = runs.train(run)
  assert outcome(run) == outcome(reference[0])
  first, second = (json.loads(done.stdout.splitlines()[-1])
                   for done in (reference[1], again))
  for name in ('pass1_before', 'pass1_after', 'ci', 'tokens_per_second'):
    assert first[name] == second[name]
  runs.train(run, '--config.steps=8')
  longer = outcome(run, 8)
  for name in ('metrics.jsonl', 'samples.jsonl'):
    assert longer[name].startswith(outcome(reference[0])[name])
    assert longer[name].count(b'\n') == 8
