"""Wrong input ends the scripts with one line that says what is right."""

import importlib.util
import shutil

import numpy as np
import pytest

from policyopt import methods
from policyopt.training import checkpoints, loop, metrics, setup
from policyopt.training.compiles import count_compiles
from policyopt.training.errors import NonFiniteError, in_one_line

GRPO = 'configs/grpo.py'


@pytest.fixture(autouse=True)
def in_the_root(request, monkeypatch):
  """Configs are named as in the documentation."""
  monkeypatch.chdir(request.config.rootpath)


@pytest.fixture
def small(runs, script):
  """`small('word=...')` is the very small config."""
  script('train')  # Lets configs import each other.
  return _module(runs.config).get_config


def _module(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def build(config):
  return methods.build(
      config.method, config.method_kw, max_tokens=config.sampler.max_tokens)


@pytest.mark.parametrize('arguments, parts', [
    (['--config.method=grppo'], ["'grppo'", "did you mean 'grpo'"]),
    (['--config.method_kw.clip_lo=0.1'],
     ["no key 'clip_lo'", "did you mean 'clip_low'"]),
    (['--config.stepz=3'],
     ['--config.stepz=3', "no key 'stepz'", "did you mean 'steps'"]),
    (['--config.sampler.max_token=3'],
     ['--config.sampler.max_token=3', "did you mean 'max_tokens'"]),
    (['--config.steps=abc'], ['--config.steps=abc', "'abc'"]),
    (['--config.steps=0'], ['steps is 0', 'at least 1']),
    (['--config.task=aritmetic'], ['task', "did you mean 'arithmetic'"]),
    (['--config.task=reasoning_gym:chain_sun'],
     ["'chain_sun'", "'chain_sum'"]),
    (['--config.task=reasoning_gym'], ["'reasoning_gym:NAME'"]),
    (['--config.tokenizer=bite'], ["'bite'", 'byte']),
    (['--config.model.preset=tinny'], ["'tinny'", 'tiny']),
    (['--config.optimizer.name=adamww'], ["'adamww'", "'adamw'"]),
    (['--config.warm_start.optimizer.name=adamww'], ["'adamww'", "'adamw'"]),
    (['--config.samples=1'], ['samples is 1', "'grpo'", 'at least 2']),
    (['--config.prompts=7', '--config.batching.microbatches=2'],
     ['prompts is 7', 'multiple of']),
    (['--config.sampler.temperature=-1.'], ['temperature', '-1']),
    (['--config.sampler.max_tokens=1000'],
     ['sampler.max_tokens is 1000', 'model.max_length']),
    (['--config.mesh.tensor=3'], ['mesh', '3']),
    (['surplus'], ["'surplus'", '--']),
    (['--stepz=3'], ['stepz']),
])
def test_wrong_arguments(arguments, parts, message, tmp_path):
  with count_compiles() as compiles:
    text = message('train', f'--config={GRPO}:quick', f'--workdir={tmp_path}',
                   '--config.task_kw.workers=0', *arguments)
  for part in parts:
    assert part in text
  assert compiles.count == 0
  assert not list(tmp_path.iterdir())  # Not even the beginning of a run.


@pytest.mark.parametrize('config, parts', [
    (f'{GRPO}:quik', ["'quik'", 'quick']),
    (f'{GRPO}:steps=abc', ["'steps'", 'abc', 'int']),
    ('configs/gpro.py', ['configs/gpro.py', 'No such file'])])
def test_wrong_configs(config, parts, message, tmp_path):
  text = message('train', f'--config={config}', f'--workdir={tmp_path}')
  for part in parts:
    assert part in text


def test_a_keyword_that_the_method_does_not_have(message, runs, tmp_path):
  config = tmp_path / 'wrong.py'
  config.write_text(runs.config.read_text().replace(
      '  return', '  config.method_kw = dict(betta=0.1)\n  return'))
  text = message('train', f'--config={config}', f'--workdir={tmp_path}/run')
  assert "unknown argument of method grpo 'betta'" in text
  assert "did you mean 'beta'" in text and 'clip_low' in text


def test_a_folder_that_cannot_be_written_to(message, tmp_path):
  (tmp_path / 'file').write_text('')
  workdir = tmp_path / 'file' / 'run'
  text = message('train', f'--config={GRPO}:quick', f'--workdir={workdir}')
  assert f"workdir '{workdir}' cannot be written to" in text
  assert 'name a folder' in text
  assert 'workdir is empty' in message(
      'train', f'--config={GRPO}:quick', '--workdir=')


@pytest.mark.slow
def test_a_folder_with_another_run(message, runs, reference, tmp_path):
  shutil.copy(reference[0] / 'config.json', tmp_path)
  with count_compiles() as compiles:
    text = message('train', f'--config={runs.config}:seed=1',
                   f'--workdir={tmp_path}')
  assert 'holds a run with seed = 0, but the config says 1' in text
  assert 'another workdir' in text and compiles.count == 0
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


@pytest.mark.slow
def test_a_checkpoint_of_another_model(
    one_device, message, runs, reference, tmp_path):
  shutil.copytree(reference[0] / 'warm_start', tmp_path / 'warm_start')
  text = message('train', f'--config={runs.config}', f'--workdir={tmp_path}',
                 '--config.model.kw.width=24')
  assert 'is a checkpoint of another model' in text
  assert 'float32[' in text and ' there and ' in text


def test_a_reward_that_is_not_finite(
    one_device, message, runs, tmp_path, monkeypatch):
  environment = setup.environment

  def broken(*args, **kwargs):
    env = environment(*args, **kwargs)
    def score(ids, responses):
      scores = env.score(ids, responses)
      rewards = np.array(scores.rewards['accuracy'])
      rewards[5] = np.nan
      return scores._replace(rewards={'accuracy': rewards})
    return env._replace(score=score)

  monkeypatch.setattr(setup, 'environment', broken)
  text = message('train', f'--config={runs.config}', f'--workdir={tmp_path}',
                 '--config.warm_start.steps=0')
  # Rows of four samples each: row 5 belongs to the second problem.
  assert ("arithmetic: the reward in channel 'accuracy' is nan in row 5, "
          'problem 1') in text


@pytest.mark.slow
def test_a_run_that_has_gone_astray(one_device, small, tmp_path):
  """It stops at the same step whether or not it was interrupted."""
  config = small('max_skipped=2,steps=12,checkpoint_every=1')
  config.warm_start.steps = 0
  config.evaluation.every = 0
  # The first update makes every later logit infinite.
  config.optimizer.update(name='sgd', learning_rate=1e38, clip_norm=None)
  config.optimizer.kw = dict()
  config.method_kw = dict(beta=1e3)
  whole, parted = tmp_path / 'whole', tmp_path / 'parted'
  with pytest.raises(NonFiniteError) as caught:
    loop.train(config, build(config), str(whole))
  assert 'max_skipped = 2' in str(caught.value)
  assert '\n' not in str(caught.value)
  rows = metrics.read(whole)
  assert [row['skipped_in_a_row'] for row in rows[-2:]] == [2, 3]
  last = checkpoints.Checkpoints(whole / 'checkpoints').latest()
  assert last == len(rows)

  # As if it had been killed after the second skipped update.
  shutil.copytree(whole, parted)
  shutil.rmtree(parted / 'checkpoints' / f'{last:08d}')
  (parted / 'clock.json').unlink()
  with pytest.raises(SystemExit) as exit_, in_one_line():
    loop.train(config, build(config), str(parted))
  assert 'updates in a row were skipped' in exit_.value.code
  assert metrics.read(parted) == rows


def test_the_real_scripts(runs, tmp_path):
  """What is printed is one line on stderr, whatever finds the error."""
  for name, arguments, part in (
      ('train', [f'--config={GRPO}:quick'], '--workdir must have a value'),
      ('train', [f'--config={GRPO}:quick', f'--workdir={tmp_path}',
                 '--config.stepz=3'], "did you mean 'steps'?"),
      ('evaluate', [f'--workdir={tmp_path}/none'], 'holds no run')):
    done = runs.script(name, *arguments)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.startswith('error: ') and part in done.stderr
    assert done.stderr.count('\n') == 1


def test_a_traceback_for_those_who_ask(monkeypatch):
  monkeypatch.setenv('POLICYOPT_TRACEBACK', '1')
  with pytest.raises(ValueError, match='wrong'), in_one_line():
    raise ValueError('wrong')
  monkeypatch.delenv('POLICYOPT_TRACEBACK')
  with pytest.raises(SystemExit) as caught, in_one_line():
    raise KeyError('the key')
  assert caught.value.code.startswith('error: the key (set POLICYOPT_TRACEB')
  with pytest.raises(ZeroDivisionError), in_one_line():
    _ = 1 / 0  # A mistake of ours is not dressed up as one of theirs.
