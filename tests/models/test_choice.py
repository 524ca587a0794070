"""The model of a config: a preset, or a folder of published weights."""

import pathlib

import pytest

from configs import common
from policyopt import methods
from policyopt.models import choice

FOLDER = pathlib.Path(__file__).parent / 'fixtures' / 'qwen3'


def test_a_preset_with_its_changes():
  config = common.base('model.preset=nano,model.kw.num_layers=3').model
  model = choice.model_of(config, value_head=True)
  assert (model.num_layers, model.width, model.value_head) == (3, 64, True)


def test_a_folder_takes_the_place_of_the_preset():
  config = common.base('')
  config.model.folder = str(FOLDER)
  model = choice.model_of(config.model)
  assert model.width != choice.model_of(common.base('').model).width
  # A method that is told the sizes of the model is told those of the folder.
  config.method = 'capo'
  told = {}
  recipe = methods.lookup.recipe

  def watched(name):
    def fn(*, vocab_size: int, width: int):
      told.update(vocab_size=vocab_size, width=width)
      return recipe('grpo')()
    return fn

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(methods.lookup, 'recipe', watched)
    config.method_kw = {}
    methods.from_config(config)
  assert told == dict(vocab_size=model.vocab_size, width=model.width)


def test_a_folder_that_is_none_is_named():
  config = common.base('')
  config.model.folder = 'nowhere'
  with pytest.raises((ValueError, OSError), match='nowhere'):
    choice.model_of(config.model)
