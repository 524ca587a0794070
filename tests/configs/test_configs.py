"""Every config gives a run that could start."""

import importlib
import pathlib

from ml_collections import ConfigDict
import pytest

from configs import common
from policyopt import methods
from policyopt.training.compiles import count_compiles
from policyopt.training.setup import prepare

FOLDER = pathlib.Path(common.__file__).parent
CONFIGS = sorted(
    path.stem for path in FOLDER.glob('*.py')
    if path.stem not in ('common', '__init__'))


def get_config(name, arg=''):
  return importlib.import_module(f'configs.{name}').get_config(arg)


def test_there_are_configs():
  assert {'demo', 'grpo'} <= set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.parametrize('arg', ['', 'quick'])
def test_a_config_prepares_without_compiling(name, arg):
  config = get_config(name, arg)
  assert isinstance(config, ConfigDict)
  if 'workers' in config.task_kw:
    config.task_kw.workers = 0  # No processes for a run that does not start.
  with count_compiles() as compiles:
    setup = prepare(config, methods.from_config(config))
    setup.close()
  assert compiles.count == 0
  assert setup.train.name == setup.test.name


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
