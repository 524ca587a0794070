"""Model configurations say what is wrong; presets have published sizes."""

import math

import jax
import pytest

from policyopt.models import presets, transformer
from policyopt.models.config import ModelConfig

# Parameters in the released checkpoints, tied embeddings counted once.
PUBLISHED = {
    'qwen2.5-0.5b': 494_032_768,
    'qwen2.5-1.5b': 1_543_714_304,
    'qwen2.5-3b': 3_085_938_688,
    'qwen2.5-7b': 7_615_616_512,
    'qwen3-0.6b': 596_049_920,
    'qwen3-1.7b': 1_720_574_976,
    'qwen3-4b': 4_022_468_096,
    'qwen3-8b': 8_190_735_360,
    'llama3.2-1b': 1_235_814_400,
    'llama3.2-3b': 3_212_749_824,
    'llama3.1-8b': 8_030_261_248,
}


def _count(config):
  return sum(math.prod(x.shape)
             for x in jax.tree.leaves(transformer.abstract_params(config)))


@pytest.mark.parametrize('name', sorted(PUBLISHED))
def test_published_sizes(name):
  assert _count(presets.preset(name)) == PUBLISHED[name]


def test_every_preset_is_published_or_small():
  assert set(presets.PRESETS) == set(PUBLISHED) | {'nano', 'tiny'}
  assert 0.05e6 < _count(presets.preset('nano')) < 0.2e6
  assert 0.5e6 < _count(presets.preset('tiny')) < 1e6


def test_unknown_preset_names_the_nearest():
  with pytest.raises(ValueError, match='qwen3-0.6.*did you mean.*qwen3-0.6b'):
    presets.preset('qwen3-0.6')


def test_unknown_field_names_the_nearest():
  with pytest.raises(ValueError, match="'num_layer'.*num_layers"):
    presets.preset('nano', num_layer=3)


@pytest.mark.parametrize('changes, message', [
    (dict(vocab_size=0), 'vocab_size = 0 must be a positive integer'),
    (dict(width=1.5), 'width = 1.5 must be a positive integer'),
    (dict(num_layers=True), 'num_layers = True must be a positive'),
    (dict(num_kv_heads=3), 'num_heads = 4 must be a multiple'),
    (dict(head_dim=3), 'head_dim = 3 must be even'),
    (dict(norm_eps=0.0), 'norm_eps = 0.0 must be positive'),
    (dict(rope_scaling=(8.0,)), r'rope_scaling = \(8.0,\) must be None or'),
    (dict(remat='some'), "remat = 'some' must be one of none, full"),
    (dict(dtype='int8'), "dtype = 'int8' must be one of float32"),
])
def test_validation_names_field_value_and_remedy(changes, message):
  with pytest.raises(ValueError, match=message):
    presets.preset('nano', **changes)


def test_config_is_a_static_argument():
  assert hash(presets.preset('nano')) == hash(presets.preset('nano'))
  assert isinstance(presets.preset('nano'), ModelConfig)
