"""Every config gives a run that could start."""

import importlib
import pathlib

from ml_collections import ConfigDict
import pytest

from configs import common
from policyopt import methods
from policyopt.training.compiles import count_compiles
from policyopt.training.setup import prepare
from tests.envs import problem_files as files

FOLDER = pathlib.Path(common.__file__).parent
CONFIGS = sorted(
    path.stem for path in FOLDER.glob('*.py')
    if path.stem not in ('common', '__init__'))


# Configs whose problems come from files, and what the files hold.
DATA = {'gsm8k': files.gsm8k, 'math500': files.math500,
        'aime24': files.math500, 'jsonl': files.gsm8k,
        'llama3_8b_v5p': files.gsm8k, 'qwen3_30b_a3b': files.gsm8k}


def get_config(name, arg=''):
  return importlib.import_module(f'configs.{name}').get_config(arg)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """A folder with a folder of problems for each config in `DATA`."""
  path = tmp_path_factory.mktemp('data')
  for name, make in DATA.items():
    files.folder(path / name, make, 32, 1400)
  files.folder(path / 'aime24' / 'aime24', files.aime24, 1, 32)
  return path


def test_there_are_configs():
  assert {'demo', 'grpo'} <= set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('arg', ['', 'quick'])
def test_a_config_prepares_without_compiling(name, arg, data):
  config = get_config(name, arg)
  assert isinstance(config, ConfigDict)
  for kw in (config.task_kw, config.evaluation.task_kw):
    if 'workers' in kw:
      kw.workers = 0  # No processes for a run that does not start.
  assert ('path' in config.task_kw) == (name in DATA)
  if name in DATA:
    # No machine has the data by itself.
    assert config.task_kw.path is None
    with pytest.raises(ValueError, match=r'set: .*task_kw\.path'):
      prepare(config, methods.from_config(config))
    config.task_kw.path = str(data / name)
    if name == 'jsonl':
      config.task_kw.path += '/test.jsonl'
    if config.evaluation.task:
      config.evaluation.task_kw.path = str(data / name / name)
  with count_compiles() as compiles:
    setup = prepare(config, methods.from_config(config))
    setup.close()
  assert compiles.count == 0
  assert setup.train.name == config.task
  assert setup.test.name == (config.evaluation.task or config.task)


@pytest.mark.parametrize('name', CONFIGS)
def test_quick_is_quick(name):
  whole, quick = get_config(name), get_config(name, 'quick')
  assert quick.steps <= 8 and quick.warm_start.steps <= 8
  assert quick.prompts * quick.samples < whole.prompts * whole.samples
  assert quick.method == whole.method
  assert quick.method_kw.to_dict() == whole.method_kw.to_dict()


@pytest.mark.parametrize('name', CONFIGS)
def test_words_set_top_level_keys(name):
  config = get_config(name, 'quick,steps=5,samples=16,method=rloo,seed=3')
  assert (config.steps, config.samples, config.seed) == (5, 16, 3)
  assert config.method == 'rloo' and config.prompts == 8
  # The last word wins.
  assert get_config(name, 'steps=5,quick').steps == 4


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('word, message', [
    ('quik', "'quik': did you mean 'quick'"),
    ('stepz=5', "'stepz': did you mean 'steps'"),
    ('steps', "'steps' lacks a value: steps=VALUE"),
    ('sampler=3', "unknown word of the config argument 'sampler'")])
def test_unknown_words_are_refused(name, word, message):
  with pytest.raises(ValueError, match=message):
    get_config(name, word)


def test_configs_do_not_share_their_parts():
  first, second = common.base(), common.base()
  first.optimizer.learning_rate = 5.
  first.method_kw.beta = 5.
  assert second.optimizer.learning_rate != 5.
  assert first.warm_start.optimizer.learning_rate != 5.
  assert second.method_kw.beta is None


def test_words_set_keys_of_sections():
  config = common.base('warm_start.steps=3,sampler.top_p=0.9')
  assert config.warm_start.steps == 3 and config.sampler.top_p == 0.9
  with pytest.raises(ValueError, match=r"did you mean 'warm_start\.steps'"):
    common.base('warm_start.step=3')


def test_another_task_drops_the_arguments_of_the_old_one():
  config = common.base('task=reasoning_gym:gcd')
  assert config.task == 'reasoning_gym:gcd'
  assert set(config.task_kw) == {'exact', 'workers', 'timeout_s'}
  assert not common.base('task=arithmetic').task_kw


def test_hyper_parameters_and_fields_of_the_model_can_be_set():
  config = common.base(
      'quick,method=ppo,method_kw.lam=0.5,model.kw.num_layers=1')
  config.task_kw.workers = 0
  assert prepare(config, methods.from_config(config)).model.num_layers == 1
  # One that belongs to another method is refused when the method is made.
  with pytest.raises(ValueError, match="of method ppo 'rounds'"):
    methods.from_config(common.base('method=ppo,method_kw.rounds=2'))
