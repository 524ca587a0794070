"""Model configurations say what is wrong; presets have published sizes."""

import math

import jax
import pytest

from policyopt.models import presets, transformer
from policyopt.models.config import ModelConfig

# Parameters in the released checkpoints, tied embeddings counted once.
PUBLISHED = {
    'qwen2-0.5b': 494_032_768,
    'qwen2-1.5b': 1_543_714_304,
    'qwen2-7b': 7_615_616_512,
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
    'qwen3-30b-a3b': 30_532_122_624,
    'mixtral-8x7b': 46_702_792_704,
    'olmoe-1b-7b': 6_919_161_856,
    'gemma2-2b': 2_614_341_888,
    'gemma2-9b': 9_241_705_984,
    'gemma2-27b': 27_227_128_320,
    'gemma3-1b': 999_885_952,
    'gemma3-4b': 3_880_263_168,
    'gemma3-12b': 11_766_034_176,
    'gemma3-27b': 27_009_346_304,
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
    (dict(rope_scaling=(8.0, 1.0)), r'rope_scaling = \(8.0, 1.0\) must be No'),
    (dict(activation='relu'), "activation = 'relu' must be one of silu"),
    (dict(attention='flash'), "attention = 'flash' must be one of auto"),
    (dict(attention_softcap=0.0), 'attention_softcap = 0.0 must be None or'),
    (dict(qk_norm=False, qk_norm_whole=True), 'must go with qk_norm = True'),
    (dict(window=0), 'window = 0 must be a positive integer'),
    (dict(windowed_layers=(True, False)), 'must go with a window'),
    (dict(window=4, windowed_layers=(True,)), 'tuple of num_layers = 2 bools'),
    (dict(local_rope_theta=1e4), 'local_rope_theta = 10000.0 must go with a'),
    (dict(num_experts=-1), 'num_experts = -1 must be a non-negative integer'),
    (dict(num_experts=4, expert_width=8), 'experts_per_token = 0 must be'),
    (dict(num_experts=4, experts_per_token=5, expert_width=8),
     'experts_per_token = 5 must be at most num_experts = 4'),
    (dict(expert_dispatch='drop'), "expert_dispatch = 'drop' must be one of"),
    (dict(lora_targets=('query', 'head')), 'must be a tuple of different'),
    (dict(lora_rank=2, lora_targets=()), 'must not be empty when lora_rank'),
    (dict(lora_rank=2, num_experts=4, experts_per_token=2, expert_width=8),
     'query, key, value, out when num_experts > 0: the weights of experts'),
    (dict(remat='some'), "remat = 'some' must be one of none, full"),
    (dict(dtype='int8'), "dtype = 'int8' must be one of float32"),
])
def test_validation_names_field_value_and_remedy(changes, message):
  with pytest.raises(ValueError, match=message):
    presets.preset('nano', **changes)


def test_config_is_a_static_argument():
  assert hash(presets.preset('nano')) == hash(presets.preset('nano'))
  assert isinstance(presets.preset('nano'), ModelConfig)
