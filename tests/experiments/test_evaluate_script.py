"""The script that evaluates the checkpoints of a run."""

import json
import shutil

import jax
import numpy as np
import pytest

from policyopt import methods
from policyopt.training import evaluate, loop, policies, record, setup
from policyopt.training.compiles import count_compiles


@pytest.fixture
def evaluate_run(one_device, script):
  """The script's function, on one device as the run was."""
  return script('evaluate').evaluate_run


@pytest.mark.slow
def test_the_policies_are_those_of_the_run(one_device, reference):
  """With the run's own key, both evaluations of the run come out again."""
  workdir = reference[0]
  config = record.load_config(str(workdir))
  parts = setup.prepare(config, methods.build(config.method))
  key = jax.random.fold_in(jax.random.key(config.seed), loop.EVALUATE)
  draw = loop.make_draw(parts)
  lengths = []
  with jax.set_mesh(parts.mesh):
    for wanted, step in ((0, 0), (None, 6), (3, 3)):
      params, found = policies.restore_params(parts, str(workdir), wanted)
      assert found == step
      result = evaluate.evaluate(
          draw(params, 4), parts.test, 16, config.prompts, key)
      if step == 3:
        continue
      with np.load(workdir / 'evaluations' / f'step-{step}.npz') as saved:
        for name in ('solved', 'length', 'truncated'):
          np.testing.assert_array_equal(getattr(result, name), saved[name])
      lengths.append(result.length)
  parts.close()
  # The two policies do differ.
  assert (lengths[0] != lengths[1]).any()


@pytest.mark.slow
def test_numbers(evaluate_run, reference):
  workdir = str(reference[0])
  first = evaluate_run(workdir, None, 20, 4, None, 7)
  assert first['step'] == 6 and first['problems'] == 20
  assert first['samples'] == 4 and first['verifier_failures'] == 0
  for name in ('pass@1', 'pass@4', 'maj@4'):
    assert 0 <= first[name]['mean'] <= 1
    assert first[name]['low'] <= first[name]['mean'] <= first[name]['high']
  assert first['pass@1']['mean'] <= first['pass@4']['mean']
  assert 1 <= first['length']['mean'] <= 4
  # The seed decides everything.
  assert evaluate_run(workdir, 6, 20, 4, None, 7) == first
  assert evaluate_run(workdir, 6, 20, 4, None, 8) != first
  assert evaluate_run(workdir, 0, 20, 4, None, 7) != first
  # Of four greedy samples one is as good as all.
  greedy = evaluate_run(workdir, 0, 20, 4, (1, 2, 4), 7, temperature=0.)
  assert greedy['pass@1']['mean'] == pytest.approx(greedy['pass@2']['mean'])
  assert greedy['pass@1']['mean'] == pytest.approx(greedy['pass@4']['mean'])


def test_table_and_json(runs, reference):
  done, again = (runs.script(
      'evaluate', f'--workdir={reference[0]}', '--step=0', '--problems=12',
      '--samples=4', '--k=1,2,4', '--seed=7') for _ in range(2))
  assert done.returncode == 0, done.stderr
  assert done.stdout == again.stdout
  *table, last = done.stdout.splitlines()
  numbers = json.loads(last)
  assert numbers['step'] == 0 and numbers['problems'] == 12
  assert {'pass@1', 'pass@2', 'pass@4', 'maj@4', 'length'} <= set(numbers)
  assert '12 held-out problems, 4 samples each' in table[0]
  assert 'step 0' in table[1]
  row, = (line.split() for line in table if line.startswith('pass@2'))
  assert 0 <= numbers['pass@1']['mean'] <= numbers['pass@4']['mean'] <= 1
  assert 1 <= numbers['length']['mean'] <= 4
  assert row[1] == f'{numbers["pass@2"]["mean"]:.3f}'


@pytest.mark.parametrize('arguments, parts', [
    (['--step=4'], ['no checkpoint of step 4', '[0, 3, 6]']),
    (['--samples=4', '--k=1,5'], ['k is 5', '4 samples', '[1, 4]']),
    (['--k=0'], ['k is 0']),
    (['--k=many'], ["'many'", 'numbers']),
    (['--samples=0'], ['samples is 0', 'at least 1']),
    (['--problems=-1'], ['problems is -1']),
    (['--temperature=-2'], ['temperature', '-2']),
    (['--top_p=0'], ['top_p']),
    (['--step=last'], ['--step=last']),
    (['6'], ["'6'"])])
def test_wrong_arguments(arguments, parts, message, reference):
  with count_compiles() as compiles:
    text = message('evaluate', f'--workdir={reference[0]}', *arguments)
  for part in parts:
    assert part in text
  assert compiles.count == 0


def test_a_folder_without_a_run(message, tmp_path):
  for workdir in (tmp_path, tmp_path / 'nowhere'):
    text = message('evaluate', f'--workdir={workdir}')
    assert f"workdir '{workdir}' holds no run" in text
  assert not (tmp_path / 'nowhere').exists()


def test_a_run_that_has_not_come_far(message, reference, tmp_path):
  shutil.copy(reference[0] / 'config.json', tmp_path)
  text = message('evaluate', f'--workdir={tmp_path}')
  assert 'has no checkpoint' in text and 'none' in text
  # In the middle of its warm start a run has no policy of step 0 yet.
  warm = tmp_path / 'warm_start' / 'checkpoints'
  shutil.copytree(
      reference[0] / 'warm_start' / 'checkpoints' / '00000018',
      warm / '00000018')
  text = message('evaluate', f'--workdir={tmp_path}', '--step=0')
  assert 'no checkpoint of step 0' in text
