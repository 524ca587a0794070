"""The parameters of a layer: names, shapes, axes and first values."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.nn import initializers

from policyopt.models.config import ModelConfig
from policyopt.models.quantized import is_quantized


def layer_specs(config: ModelConfig) -> dict[str, tuple]:
  """name -> (shape, logical axes, initializer), without the axis of layers.

  The order matters: the random numbers of a parameter depend on it.

  Args:
    config: of the model.

  Returns:
    A dict; `partitioning.RULES` knows the axes.

  Example:
    >>> from policyopt.models import presets
    >>> layer_specs(presets.preset('nano'))['out'][:2]
    ((4, 16, 64), ('heads', 'head_dim', 'embed'))
  """
  width, dim = config.width, config.head_dim
  heads, kv_heads = config.num_heads, config.num_kv_heads
  zeros, ones = initializers.zeros, unit(config)
  specs = {
      'attention_norm': ((width,), ('norm',), ones),
      'query': ((width, heads, dim), ('embed', 'heads', 'head_dim'),
                _normal(width)),
      'key': ((width, kv_heads, dim), ('embed', 'kv_heads', 'head_dim'),
              _normal(width)),
      'value': ((width, kv_heads, dim), ('embed', 'kv_heads', 'head_dim'),
                _normal(width)),
      'out': ((heads, dim, width), ('heads', 'head_dim', 'embed'),
              _normal(heads * dim, config.num_layers)),
      'mlp_norm': ((width,), ('norm',), ones),
      **_mlp_specs(config),
  }
  if config.qkv_bias:
    for name, count in ('query', heads), ('key', kv_heads), ('value', kv_heads):
      axis = 'heads' if name == 'query' else 'kv_heads'
      specs[f'{name}_bias'] = ((count, dim), (axis, 'head_dim'), zeros)
  if config.qk_norm_whole:
    specs['query_norm'] = ((heads, dim), ('heads', 'head_dim'), ones)
    specs['key_norm'] = ((kv_heads, dim), ('kv_heads', 'head_dim'), ones)
  elif config.qk_norm:
    specs['query_norm'] = specs['key_norm'] = ((dim,), ('norm',), ones)
  if config.post_norms:
    for name in 'post_attention_norm', 'post_mlp_norm':
      specs[name] = ((width,), ('norm',), ones)
  return specs | _lora_specs(config, specs)


def _mlp_specs(config):
  """The gated MLP, or the router and the experts."""
  width, mlp = config.width, config.mlp_width
  if not config.num_experts:
    return {
        'gate': ((width, mlp), ('embed', 'mlp'), _normal(width)),
        'up': ((width, mlp), ('embed', 'mlp'), _normal(width)),
        'down': ((mlp, width), ('mlp', 'embed'),
                 _normal(mlp, config.num_layers)),
    }
  count, inner = config.num_experts, config.expert_width
  into = ((count, width, inner), ('experts', 'embed', 'expert_mlp'))
  return {
      'router': ((width, count), ('embed', 'router'), _normal(width)),
      'expert_gate': (*into, _normal(width)),
      'expert_up': (*into, _normal(width)),
      'expert_down': ((count, inner, width), ('experts', 'expert_mlp', 'embed'),
                      _normal(inner, config.num_layers)),
  }


def _lora_specs(config, specs):
  """a [in..., r] and b [r, out...] for each projection with an adapter."""
  adapters = {}
  for name in config.lora_targets if config.lora_rank else ():
    shape, axes, _ = specs[name]
    inner = 2 if name == 'out' else 1
    adapters[f'{name}_lora_a'] = (
        (*shape[:inner], config.lora_rank), (*axes[:inner], 'lora'),
        _normal(math.prod(shape[:inner])))
    # b starts at 0: the adapted model starts as the model itself.
    adapters[f'{name}_lora_b'] = (
        (config.lora_rank, *shape[inner:]), ('lora', *axes[inner:]),
        initializers.zeros)
  return adapters


def _normal(fan_in, layers=0.5):
  return initializers.truncated_normal((2 * layers * fan_in) ** -0.5)


def unit(config: ModelConfig):
  """Initializer of a norm that only normalises.

  Args:
    config: of the model.

  Returns:
    A function (key, shape, dtype) -> array.
  """
  return initializers.zeros if config.norm_offset else initializers.ones


def cast(params: Any, dtype: Any) -> Any:
  """The parameters in the dtype that a model computes in.

  In the compute dtype they say the same as the parameters themselves, bit for
  bit: what is wider is rounded where it is used. Scales of norms, the router
  and the value head are used as they are, and stay; so does what is in 8 bits.

  Args:
    params: of a model.
    dtype: for the others; None leaves all.

  Returns:
    A tree of the same structure.

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.ones(1)
    >>> out = cast({'layers': {'up': one, 'mlp_norm': one}}, 'bfloat16')
    >>> {name: str(x.dtype) for name, x in out['layers'].items()}
    {'mlp_norm': 'float32', 'up': 'bfloat16'}
  """
  if dtype is None:
    return params

  def narrow(path, x):
    if is_quantized(x):
      return x
    names = [entry.key for entry in path]
    exact = (names[-1].endswith('norm') or names[-1] == 'router'
             or names[0] == 'value_head')
    return x if exact else x.astype(dtype)

  return jax.tree_util.tree_map_with_path(
      narrow, params, is_leaf=is_quantized)
