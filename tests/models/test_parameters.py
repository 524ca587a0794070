"""Names, shapes, axes and first values of the parameters."""

import functools

import jax
import numpy as np
import pytest

from policyopt.models import layers, presets, transformer
from tests.models import reference

SMALL, FAMILIES = reference.SMALL, reference.FAMILIES


def _tree(config):
  """name -> (shape, logical axes)."""
  got = {}
  jax.tree_util.tree_map_with_path(
      lambda path, x, a: got.update({
          jax.tree_util.keystr(path, simple=True, separator='/'):
              (x.shape, ' '.join(a))}),
      transformer.abstract_params(config), transformer.logical_axes(config))
  return got


def test_parameter_tree_is_pinned():
  """Checkpoints depend on these names, shapes and axes."""
  config = SMALL.replace(qk_norm=True, qkv_bias=True, tied_embeddings=False,
                         value_head=True)
  assert _tree(config) == {
      'embedding': ((29, 16), 'vocab embed'),
      'head': ((16, 29), 'embed vocab'),
      'final_norm': ((16,), 'norm'),
      'value_head/kernel': ((16,), 'norm'),
      'value_head/bias': ((), ''),
      'layers/attention_norm': ((2, 16), 'layers norm'),
      'layers/query': ((2, 16, 4, 8), 'layers embed heads head_dim'),
      'layers/key': ((2, 16, 2, 8), 'layers embed kv_heads head_dim'),
      'layers/value': ((2, 16, 2, 8), 'layers embed kv_heads head_dim'),
      'layers/query_bias': ((2, 4, 8), 'layers heads head_dim'),
      'layers/key_bias': ((2, 2, 8), 'layers kv_heads head_dim'),
      'layers/value_bias': ((2, 2, 8), 'layers kv_heads head_dim'),
      'layers/query_norm': ((2, 8), 'layers norm'),
      'layers/key_norm': ((2, 8), 'layers norm'),
      'layers/out': ((2, 4, 8, 16), 'layers heads head_dim embed'),
      'layers/mlp_norm': ((2, 16), 'layers norm'),
      'layers/gate': ((2, 16, 24), 'layers embed mlp'),
      'layers/up': ((2, 16, 24), 'layers embed mlp'),
      'layers/down': ((2, 24, 16), 'layers mlp embed'),
  }


@pytest.mark.parametrize('changes, gone, new', [
    (dict(num_experts=6, experts_per_token=2, expert_width=12),
     {'gate', 'up', 'down'}, {
         'router': ((2, 16, 6), 'layers embed router'),
         'expert_gate': ((2, 6, 16, 12), 'layers experts embed expert_mlp'),
         'expert_up': ((2, 6, 16, 12), 'layers experts embed expert_mlp'),
         'expert_down': ((2, 6, 12, 16), 'layers experts expert_mlp embed')}),
    (dict(post_norms=True, norm_offset=True, scale_embeddings=True), set(), {
        'post_attention_norm': ((2, 16), 'layers norm'),
        'post_mlp_norm': ((2, 16), 'layers norm')}),
    (dict(qk_norm=True, qk_norm_whole=True), set(), {
        'query_norm': ((2, 4, 8), 'layers heads head_dim'),
        'key_norm': ((2, 2, 8), 'layers kv_heads head_dim')}),
    (dict(lora_rank=3, lora_targets=('query', 'out', 'down')), set(), {
        'query_lora_a': ((2, 16, 3), 'layers embed lora'),
        'query_lora_b': ((2, 3, 4, 8), 'layers lora heads head_dim'),
        'out_lora_a': ((2, 4, 8, 3), 'layers heads head_dim lora'),
        'out_lora_b': ((2, 3, 16), 'layers lora embed'),
        'down_lora_a': ((2, 24, 3), 'layers mlp lora'),
        'down_lora_b': ((2, 3, 16), 'layers lora embed')}),
], ids=['experts', 'gemma', 'olmoe', 'lora'])
def test_what_a_family_adds_to_the_tree(changes, gone, new):
  plain, tree = _tree(SMALL), _tree(SMALL.replace(**changes))
  assert plain.items() - tree.items() == {
      item for item in plain.items() if item[0].removeprefix('layers/') in gone}
  assert dict(tree.items() - plain.items()) == {
      f'layers/{name}': value for name, value in new.items()}


def test_norms_begin_as_norms(key):
  """With an offset at 0, without one at 1."""
  init = reference.fast_jit(transformer.init, static_argnums=0)
  for name, want in ('gemma3', 0), ('qwen3', 1):
    params = init(FAMILIES[name], key)
    norms = [x for n, x in params['layers'].items() if n.endswith('norm')]
    assert len(norms) >= 4
    assert all((x == want).all() for x in [*norms, params['final_norm']])


def test_init_scale_and_layers_differ(key):
  config = presets.preset('tiny', param_dtype='bfloat16')
  params = reference.fast_jit(functools.partial(transformer.init, config))(key)
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'bfloat16'}
  layers = jax.tree.map(np.float32, params['layers'])
  # A truncated normal keeps 0.88 of the asked standard deviation.
  assert layers['query'].std() == pytest.approx(128 ** -0.5, rel=0.15)
  assert layers['down'].std() == pytest.approx((352 * 8) ** -0.5, rel=0.15)
  assert not np.allclose(layers['query'][0], layers['query'][1])


def test_they_are_declared_without_running_the_model(monkeypatch):
  """Setting up a run asks for their shapes and places ten times."""
  def layer(*_):
    raise AssertionError('a layer was traced')

  monkeypatch.setattr(layers, 'layer', layer)
  config = SMALL.replace(vocab_size=31, remat='full')
  shapes = transformer.abstract_params(config)
  assert shapes['embedding'].shape == (31, 16)
  params = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))
  assert shapes == params
  # What a caller does to the tree is its own business.
  del shapes['embedding'], shapes['layers']['query']
  assert transformer.abstract_params(config) == params


def test_wide_numbers_are_found_where_there_are_some():
  config = SMALL.replace(param_dtype='float64')
  with pytest.warns(UserWarning, match='float64'):
    narrow = transformer.abstract_params(config)
  with jax.enable_x64(True):
    wide = transformer.abstract_params(config)
  assert narrow['embedding'].dtype == 'float32'
  assert wide['embedding'].dtype == 'float64'
