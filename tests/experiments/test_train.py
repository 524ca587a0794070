"""What a run leaves behind and prints."""

import json

import pytest

from policyopt.training import metrics


def test_the_files_of_a_run(reference):
  workdir, done = reference
  result = json.loads((workdir / 'result.json').read_text())
  printed = json.loads(done.stdout.splitlines()[-1])
  assert printed['workdir'] == str(workdir)
  assert printed == {name: result[name] for name in printed}
  assert result['pass1_after'] == result['after']['pass@1']['mean']
  gain = result['gain']['pass@1']
  assert printed['ci'] == [gain['low'], gain['high']]
  assert gain['mean'] == pytest.approx(
      printed['pass1_after'] - printed['pass1_before'])
  assert (workdir / 'curve.png').read_bytes()[:4] == b'\x89PNG'
  assert list((workdir / 'tensorboard').iterdir())
  assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == [
      '00000003', '00000006']
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved['config']['steps'] == 6 and 'jax' in saved['versions']
  # The table on stdout, the progress on stderr.
  assert 'after grpo' in done.stdout and 'grpo 6/6' in done.stderr


def test_rows_and_samples(reference):
  workdir, _ = reference
  rows = metrics.read(workdir)
  assert [row['step'] for row in rows] == list(range(6))
  assert [row['step'] for row in rows if 'eval/pass@1' in row] == [1, 3, 5]
  # The held-out score after the last step is that of the result.
  result = json.loads((workdir / 'result.json').read_text())
  assert rows[-1]['eval/pass@1'] == pytest.approx(result['pass1_after'])
  assert any(row['grad_norm'] > 0 for row in rows)
  samples = metrics.read(workdir, metrics.SAMPLES)
  assert [row['step'] for row in samples] == list(range(6))
  for row in samples:
    total = sum(map(int, row['prompt'].rstrip('=').split('+')))
    assert len(row['responses']) == 4
    for response in row['responses']:
      assert response['reward'] == float(response['text'] == str(total))


def test_nothing_is_compiled_after_the_first_step(reference):
  timing = metrics.read(reference[0], metrics.TIMING)
  compiles = {row['compiles'] for row in timing}
  assert len(timing) == 6 and len(compiles) == 1
  assert compiles.pop() > 5
  assert all(row['tokens_per_second'] > 0 for row in timing)
  seconds = [row['seconds'] for row in timing]
  assert seconds == sorted(seconds)
