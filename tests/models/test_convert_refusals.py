"""Checkpoints that are not of the model are refused by name, unread."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors

from policyopt.models import convert
from policyopt.models.convert import folders as opened
from tests.models import folders

LAYER = 'model.layers.1.'


@pytest.fixture(name='folder')
def _folder(tmp_path):
  return folders.copy('qwen2', tmp_path / 'qwen2')


@pytest.fixture(autouse=True)
def _nothing_is_read(monkeypatch):
  """Whatever is refused is refused before a byte of a tensor is read."""
  def read(*_):
    raise AssertionError('a tensor was read')
  monkeypatch.setattr(opened, '_reader', lambda *_: read)


def _refused(folder, message, error=ValueError, **changes):
  with pytest.raises(error, match=message):
    convert.check(str(folder), convert.model_config(str(folder), **changes))
  with pytest.raises(error, match=message):
    folders.load(folder, **changes)


def _rewrite(folder, change):
  file = folder / 'model.safetensors'
  tensors = safetensors.load_file(file)
  change(tensors)
  safetensors.save_file(tensors, file)


def test_a_missing_tensor(folder):
  _rewrite(folder, lambda x: x.pop(f'{LAYER}mlp.up_proj.weight'))
  _refused(folder, r'lacks the tensor model\.layers\.1\.mlp\.up_proj\.weight '
           r'of shape \[48, 32\].*layers/up')


def test_a_tensor_too_many(folder):
  _rewrite(folder, lambda x: x.update(
      {f'{LAYER}self_attn.q_norm.weight': np.ones(8, np.float32)}))
  _refused(folder, r'layers\.1\.self_attn\.q_norm\.weight of .*model\.'
           'safetensors is no tensor of the model')


def test_a_layer_too_many(folder):
  _rewrite(folder, lambda x: x.update(
      {name.replace('.1.', '.2.'): y for name, y in x.items()
       if LAYER in name}))
  _refused(folder, r'model\.layers\.2\..* is no tensor of the model')


@pytest.mark.parametrize('name, key, value', [
    ('embed_tokens', 'vocab_size', 97), ('mlp.gate_proj', 'intermediate_size',
                                         64),
    ('self_attn.k_proj', 'num_key_value_heads', 1)])
def test_another_shape(folder, name, key, value):
  folders.change_config(folder, **{key: value})
  _refused(folder, rf'{name}\S* of .*model\.safetensors has the shape \[.*'
           r'the model needs \[')


def test_another_vocabulary_of_the_run(folder):
  _refused(folder, r'embed_tokens.weight of .* has the shape \[96, 32\]; the '
           r'model needs \[128, 32\]', vocab_size=128)


def test_a_tied_head_may_be_stored_and_an_untied_one_must_be(folder):
  def tie(tensors):
    tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'].copy()
  folders.change_config(folder, tie_word_embeddings=False)
  _refused(folder, r'lacks the tensor lm_head\.weight')
  folders.change_config(folder, tie_word_embeddings=True)
  _rewrite(folder, tie)
  convert.check(str(folder), convert.model_config(str(folder)))


def test_integers(folder):
  _rewrite(folder, lambda x: x.update(
      {'model.norm.weight': np.ones(32, np.int8)}))
  _refused(folder, r'model\.norm\.weight of .* has the dtype I8; supported')


@pytest.mark.parametrize('cut', [4, 200, 40_000])
def test_a_file_that_is_cut_short(folder, cut):
  file = folder / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:cut])
  _refused(folder, r'model\.safetensors is damaged')


def test_no_weights(folder):
  (folder / 'model.safetensors').unlink()
  _refused(folder, 'has neither model.safetensors nor')


@pytest.mark.parametrize('change, message', [
    (lambda index: index.pop('model.norm.weight'),
     r'holds model\.norm\.weight, which .* has in no file'),
    (lambda index: index.update({'lm_heed.weight': min(index.values())}),
     r'lacks lm_heed\.weight, which'),
    (lambda index: index.update({'x': 'model-9.safetensors'}),
     r'model-9\.safetensors is missing'),
    (lambda index: index.clear(), 'has no weight_map')])
def test_an_index_that_lies(tmp_path, change, message):
  folder = folders.copy('qwen3', tmp_path / 'qwen3')
  path = folder / 'model.safetensors.index.json'
  index = json.loads(path.read_text())
  change(index['weight_map'])
  path.write_text(json.dumps(index))
  _refused(folder, message)


@pytest.mark.parametrize('family, changes, message', [
    ('llama', dict(model_type='mamba'), "model_type is 'mamba'; supported"),
    ('llama', dict(model_type=None), 'model_type is None'),
    ('llama', dict(rope_parameters=dict(rope_type='yarn', factor=4.)),
     "rope_type is 'yarn'; supported are default, linear, llama3"),
    ('llama', dict(rope_parameters=None, rope_scaling=dict(
        type='dynamic', factor=2.)), "rope_type is 'dynamic'"),
    ('llama', dict(rope_parameters=dict(rope_type='llama3', factor=4.)),
     'low_freq_factor is missing'),
    ('llama', dict(attention_bias=True), 'attention_bias is True'),
    ('llama', dict(mlp_bias=True), 'mlp_bias is True'),
    ('llama', dict(hidden_act='relu'), "hidden_act is 'relu'; supported"),
    ('llama', dict(partial_rotary_factor=0.5), 'partial_rotary_factor is 0.5'),
    ('llama', dict(quantization_config=dict(bits=4)), 'quantization_config is'),
    ('llama', dict(num_key_value_heads=3), 'num_heads = 4 must be a multiple'),
    ('llama', dict(hidden_size='wide'), r'config\.json: '),
    ('qwen3', dict(layer_types=['chunked_attention'] * 2),
     "layer_types has 'chunked_attention'"),
    ('qwen3', dict(layer_types=['full_attention']), 'layer_types has 1 entr'),
    ('qwen3_moe', dict(mlp_only_layers=[0]), r'mlp_only_layers is \[0\]'),
    ('qwen3_moe', dict(decoder_sparse_step=2), 'decoder_sparse_step is 2'),
    ('olmoe', dict(clip_qkv=8.0), 'clip_qkv is 8.0'),
    ('gemma3_text', dict(attn_logit_softcapping=50.),
     'attn_logit_softcapping is 50.0'),
    ('gemma3_text', dict(sliding_window=None), 'sliding_window is missing'),
    ('gemma2', dict(use_bidirectional_attention=True),
     'use_bidirectional_attention is True')])
def test_a_config_that_asks_for_something_else(
    family, changes, message, tmp_path):
  folder = folders.copy(family, tmp_path / family)
  folders.change_config(folder, **changes)
  with pytest.raises(ValueError, match=message):
    convert.model_config(str(folder))


@pytest.mark.parametrize('key', [
    'hidden_size', 'num_hidden_layers', 'vocab_size', 'num_attention_heads',
    'intermediate_size'])
def test_a_key_that_is_missing(folder, key):
  folders.change_config(folder, remove=[key])
  with pytest.raises(ValueError, match=rf'config\.json: {key} is missing'):
    convert.model_config(str(folder))


def test_no_folder(tmp_path):
  with pytest.raises(ValueError, match='has no config.json'):
    convert.model_config(str(tmp_path))
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json is not JSON'):
    convert.model_config(str(tmp_path))


def test_a_field_that_does_not_exist(folder):
  with pytest.raises(ValueError, match="'dtyp': did you mean 'dtype'"):
    convert.model_config(str(folder), dtyp='bfloat16')
