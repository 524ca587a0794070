"""Adapters: what is trained, merging, and PEFT's format."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from policyopt.models import lora, partitioning, peft, scoring, transformer
from policyopt.models.presets import preset

PLAIN = preset(
    'nano', vocab_size=40, width=32, num_heads=4, num_kv_heads=2, head_dim=6,
    mlp_width=48, max_length=32, qkv_bias=True)
MODEL = PLAIN.replace(lora_rank=3, lora_alpha=7.)
ATTENTION = ('query', 'key', 'value', 'out')
pytestmark = pytest.mark.usefixtures('quick_compiles')


def random_params(config, seed=0):
  """Weights and an adapter that do something; nothing is compiled."""
  rng = np.random.default_rng(seed)

  def draw(path, x):
    center = 1. if 'norm' in path[-1].key else 0.
    return jnp.asarray(center + 0.15 * rng.normal(size=x.shape), x.dtype)

  return jax.tree_util.tree_map_with_path(
      draw, transformer.abstract_params(config))


def logits(config, params):
  tokens = jnp.asarray(np.random.default_rng(1).integers(1, 40, (2, 9)))
  return scoring.score(
      config, params, tokens, needs={'logits'}).logits


def assert_equal(actual, expected):
  """Bit for bit, and the same names."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def names(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/')
          for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_plain_model_is_trained_whole():
  params = transformer.abstract_params(PLAIN)
  assert lora.split(params) == (params, {})
  assert lora.adapter_only(params) == {}


@pytest.mark.parametrize('value_head', [False, True])
def test_only_the_adapter_and_the_value_head_are_trained(value_head):
  config = MODEL.replace(lora_targets=('query', 'down'), value_head=value_head)
  params = transformer.abstract_params(config)
  trainable, frozen = lora.split(params)
  wanted = {f'layers/{name}_lora_{side}'
            for name in ('query', 'down') for side in 'ab'}
  assert names(lora.adapter_only(params)) == wanted
  if value_head:
    wanted |= {'value_head/kernel', 'value_head/bias'}
  assert names(trainable) == wanted
  assert names(frozen) == names(params) - wanted
  assert lora.join(trainable, frozen) == params
  assert lora.join(frozen, trainable) == params
  assert lora.targets(params) == ('down', 'query')


def test_parts_with_a_name_in_common_are_refused():
  with pytest.raises(ValueError, match="both parts have 'layers/up'"):
    lora.join({'layers': {'up': 1}}, {'layers': {'up': 2}})


def test_the_base_is_a_plain_model():
  params = transformer.init(MODEL, jax.random.key(3))
  config, plain = lora.base(MODEL, params)
  assert config == PLAIN.replace(lora_alpha=7.)
  assert jax.tree.map(jnp.shape, plain) == jax.tree.map(
      lambda x: x.shape, transformer.abstract_params(PLAIN))
  assert plain['embedding'] is params['embedding']


def test_a_fresh_adapter_changes_nothing():
  params = transformer.init(MODEL, jax.random.key(0))
  np.testing.assert_array_equal(
      logits(MODEL, params), logits(*lora.base(MODEL, params)))
  assert_equal(lora.merge(MODEL, params)[1], lora.base(MODEL, params)[1])


@pytest.mark.slow
@pytest.mark.parametrize('targets', [
    MODEL.lora_targets, ('out',), ('gate',), ('key', 'down')])
def test_a_merged_model_equals_the_unmerged(targets):
  config = MODEL.replace(lora_targets=targets)
  params = random_params(config)
  expected = logits(config, params)
  plain, merged = lora.merge(config, params)
  assert plain.lora_rank == 0
  assert names(merged) == names(transformer.abstract_params(plain))
  np.testing.assert_allclose(logits(plain, merged), expected, atol=1e-5)
  without = logits(*lora.base(config, params))
  assert np.abs(np.asarray(without - expected)).max() > 1e-2
  # What is no target is the very same buffer.
  assert merged['embedding'] is params['embedding']


def test_merging_on_a_mesh():
  params = random_params(MODEL)
  mesh = partitioning.make_mesh((1, 4, 2, 1))
  placed = jax.device_put(params, partitioning.param_shardings(MODEL, mesh))
  _, expected = lora.merge(MODEL, params)
  with jax.set_mesh(mesh):
    _, merged = lora.merge(MODEL, placed)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               merged, expected)


def test_attached_where_it_belongs():
  mesh = partitioning.make_mesh((1, 4, 2, 1))
  whole = transformer.init(MODEL, jax.random.key(5))
  _, plain = lora.base(MODEL, whole)
  params = lora.attach(MODEL, mesh, plain, jax.random.key(5))
  assert_equal(params, whole)
  assert params['embedding'] is plain['embedding']
  places = partitioning.param_shardings(MODEL, mesh)
  assert jax.tree.map(
      lambda x: x.sharding, lora.adapter_only(params)
      ) == lora.adapter_only(places)


def test_frozen_weights_may_be_narrow():
  config = MODEL.replace(param_dtype='bfloat16', value_head=True)
  trainable, frozen = lora.split(transformer.abstract_params(config))
  assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype('bfloat16')}
  assert {x.dtype for x in jax.tree.leaves(trainable)} == {jnp.dtype('float32')}
  whole = transformer.abstract_params(config.replace(lora_rank=0))
  assert {x.dtype for x in jax.tree.leaves(whole)} == {jnp.dtype('bfloat16')}


# --- PEFT's format ---------------------------------------------------------


@pytest.fixture(scope='module')
def params():
  return random_params(MODEL)


def test_what_is_written(tmp_path, params):
  peft.save(str(tmp_path / 'new' / 'folder'), MODEL, params, base='me/mine')
  folder = tmp_path / 'new' / 'folder'
  tensors = safetensors.load_file(folder / 'adapter_model.safetensors')
  assert len(tensors) == 2 * 7 * MODEL.num_layers
  prefix = 'base_model.model.model.layers.1.'
  layers = jax.tree.map(np.asarray, params['layers'])
  a, b = (tensors[f'{prefix}self_attn.q_proj.lora_{side}.weight']
          for side in 'AB')
  assert a.shape == (3, 32) and b.shape == (4 * 6, 3)
  np.testing.assert_array_equal(a, layers['query_lora_a'][1].T)
  np.testing.assert_array_equal(
      b.reshape(4, 6, 3), layers['query_lora_b'][1].transpose(1, 2, 0))
  a, b = (tensors[f'{prefix}self_attn.o_proj.lora_{side}.weight']
          for side in 'AB')
  assert a.shape == (3, 4 * 6) and b.shape == (32, 3)
  np.testing.assert_array_equal(
      a.reshape(3, 4, 6), layers['out_lora_a'][1].transpose(2, 0, 1))
  config = json.loads((folder / 'adapter_config.json').read_text())
  assert (config['r'], config['lora_alpha']) == (3, 7)
  assert config['base_model_name_or_path'] == 'me/mine'
  assert config['peft_type'] == 'LORA' and 'q_proj' in config['target_modules']


@pytest.mark.parametrize('targets', [MODEL.lora_targets, ATTENTION, ('down',)])
def test_a_round_trip_is_exact(tmp_path, targets):
  config = MODEL.replace(lora_targets=targets, lora_alpha=0.5)
  params, other = random_params(config), random_params(config, seed=1)
  peft.save(str(tmp_path), config, params, base='mine')
  assert PLAIN.replace(**peft.fields(str(tmp_path))) == config
  loaded = peft.load(str(tmp_path), config, other, base='mine')
  assert_equal(lora.adapter_only(loaded), lora.adapter_only(params))
  assert loaded['embedding'] is other['embedding']


def test_a_round_trip_on_a_mesh(tmp_path, params):
  places = partitioning.param_shardings(
      MODEL, partitioning.make_mesh((1, 4, 2, 1)))
  placed = jax.device_put(params, places)
  peft.save(str(tmp_path), MODEL, placed)
  loaded = peft.load(str(tmp_path), MODEL, jax.tree.map(jnp.zeros_like, placed))
  assert_equal(lora.adapter_only(loaded), lora.adapter_only(params))
  assert jax.tree.map(lambda x: x.sharding, loaded) == places


def test_a_model_without_an_adapter_has_none_to_save(tmp_path):
  with pytest.raises(ValueError, match='lora_rank = 0'):
    peft.save(str(tmp_path), PLAIN, {})


@pytest.mark.parametrize('changes, message', [
    (dict(r=4), 'r is 4, but the model has lora_rank = 3'),
    (dict(lora_alpha=8), 'lora_alpha is 8, but the model has lora_alpha = 7'),
    (dict(target_modules=['q_proj']), "target_modules are those of ('query',)"),
    (dict(target_modules=['c_attn']), "target_modules has 'c_attn'; it must"),
    (dict(target_modules='.*proj'), "target_modules is '.*proj'; it must be a"),
    (dict(base_model_name_or_path='you'),
     "base_model_name_or_path is 'you', but the model is 'mine'"),
    (dict(use_dora=True), 'use_dora is True; only False is supported'),
    (dict(use_rslora=True), 'use_rslora is True'),
    (dict(modules_to_save=['lm_head']), "modules_to_save is ['lm_head']"),
    (dict(rank_pattern={'q_proj': 2}), "rank_pattern is {'q_proj': 2}"),
    (dict(bias='all'), "bias is 'all'; only 'none' is supported"),
    (dict(peft_type='IA3'), "peft_type is 'IA3'; only 'LORA' is"),
])
def test_another_adapter_is_refused(tmp_path, params, changes, message):
  peft.save(str(tmp_path), MODEL, params, base='mine')
  path = tmp_path / 'adapter_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  with pytest.raises(ValueError) as error:
    peft.load(str(tmp_path), MODEL, params, base='mine')
  assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('changes, message', [
    (dict(width=40), "layers.0.self_attn.q_proj.lora_A.weight' is [3, 40], but "
                     'the model needs [3, 32]'),
    (dict(num_layers=3), "has 'base_model.model.model.layers.2."),
    (dict(num_layers=1), "lacks 'base_model.model.model.layers.1.self_attn."),
    (dict(mlp_width=50), "layers.0.mlp.gate_proj.lora_B.weight' is [50, 3]"),
])
def test_an_adapter_of_another_model_is_refused(
    tmp_path, params, changes, message):
  other = MODEL.replace(**changes)
  peft.save(str(tmp_path), other, random_params(other))
  with pytest.raises(ValueError) as error:
    peft.load(str(tmp_path), MODEL, params)
  assert message in str(error.value)
  assert 'another base model' in str(error.value)


def test_a_tensor_that_is_none_of_ours_is_refused(tmp_path, params):
  peft.save(str(tmp_path), MODEL, params)
  path = tmp_path / 'adapter_model.safetensors'
  name = 'base_model.model.lm_head.lora_A.weight'
  safetensors.save_file(
      {**safetensors.load_file(path), name: np.zeros((3, 32))}, path)
  with pytest.raises(ValueError, match=f'has {name!r}, which is no LoRA'):
    peft.load(str(tmp_path), MODEL, params)


def test_missing_and_damaged_files(tmp_path, params):
  with pytest.raises(ValueError, match='adapter_config.json does not exist'):
    peft.load(str(tmp_path), MODEL, params)
  peft.save(str(tmp_path), MODEL, params)
  (tmp_path / 'adapter_model.safetensors').unlink()
  with pytest.raises(ValueError, match='safetensors does not exist'):
    peft.load(str(tmp_path), MODEL, params)
  path = tmp_path / 'adapter_config.json'
  path.write_text('{"r": 3}')
  with pytest.raises(ValueError, match="has no 'lora_alpha'"):
    peft.fields(str(tmp_path))
  path.write_text('{')
  with pytest.raises(ValueError, match='is not JSON'):
    peft.fields(str(tmp_path))
