"""The keys of config.json that all published families share.

Dimensions, rotary frequencies, and which layers see only a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyopt.models.config import ModelConfig

_ACTIVATIONS = {'silu': 'silu', 'swish': 'silu',
                'gelu_pytorch_tanh': 'gelu_tanh'}
# What the decoder does not have; any other value is refused.
_ABSENT = {
    'attention_bias': (False, None), 'mlp_bias': (False, None),
    'use_bidirectional_attention': (False, None),
    'partial_rotary_factor': (1, None), 'quantization_config': (None,),
    'mlp_only_layers': ([], None), 'decoder_sparse_step': (1, None),
    'clip_qkv': (None,)}


def check_absent(raw: Mapping[str, Any]) -> None:
  """Refuses keys that ask for what the decoder does not compute."""
  for key, fine in _ABSENT.items():
    if key in raw and raw[key] not in fine:
      raise ValueError(f'{key} is {raw[key]!r}, which is not supported')


def common_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of ModelConfig that all families read alike."""
  heads = raw['num_attention_heads']
  kv_heads = raw.get('num_key_value_heads')
  name = next((name for name in ('hidden_activation', 'hidden_act')
               if raw.get(name) is not None), 'hidden_act')
  if raw[name] not in _ACTIVATIONS:
    raise ValueError(f'{name} is {raw[name]!r}; supported are '
                     f'{", ".join(_ACTIVATIONS)}')
  theta, scaling, local_theta = _rope(raw)
  return dict(
      vocab_size=raw['vocab_size'], width=raw['hidden_size'],
      num_layers=raw['num_hidden_layers'], num_heads=heads,
      num_kv_heads=heads if kv_heads is None else kv_heads,
      head_dim=raw.get('head_dim') or raw['hidden_size'] // heads,
      mlp_width=raw['intermediate_size'],
      max_length=raw['max_position_embeddings'], rope_theta=float(theta),
      rope_scaling=scaling, norm_eps=raw['rms_norm_eps'],
      activation=_ACTIVATIONS[raw[name]],
      tied_embeddings=raw['tie_word_embeddings'],
      **_windows(raw, local_theta))


def common_keys(config: ModelConfig) -> dict[str, Any]:
  """The keys of config.json that all families write alike."""
  dims = dict(
      vocab_size=config.vocab_size, hidden_size=config.width,
      num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_kv_heads, head_dim=config.head_dim,
      intermediate_size=config.mlp_width,
      max_position_embeddings=config.max_length,
      rms_norm_eps=config.norm_eps, tie_word_embeddings=config.tied_embeddings,
      hidden_act=published_activation(config), attention_bias=False,
      attention_dropout=0.0, use_cache=True, rope_theta=config.rope_theta)
  scaling = config.rope_scaling
  if scaling is not None and len(scaling) == 1:
    dims['rope_scaling'] = dict(rope_type='linear', factor=scaling[0])
  elif scaling is not None:
    dims['rope_scaling'] = dict(
        rope_type='llama3', factor=scaling[0], low_freq_factor=scaling[1],
        high_freq_factor=scaling[2],
        original_max_position_embeddings=int(scaling[3]))
  return dims


def published_activation(config: ModelConfig) -> str:
  """The name of the activation in config.json."""
  return next(name for name, ours in _ACTIVATIONS.items()
              if ours == config.activation)


def _rope(raw):
  """(theta, scaling, theta of windowed layers or None)."""
  params = dict(raw.get('rope_parameters') or {})
  nested = {'full_attention', 'sliding_attention'} & set(params)
  whole = dict(params.get('full_attention') or {}) if nested else params
  local = dict(params.get('sliding_attention') or {}) if nested else {}
  whole |= raw.get('rope_scaling') or {}
  theta = whole.get('rope_theta', raw['rope_theta'])
  for part in (whole, local):
    if part.get('partial_rotary_factor', 1) != 1:
      raise ValueError(f'partial_rotary_factor is '
                       f'{part["partial_rotary_factor"]}, which is not '
                       'supported')
  kind = local.get('rope_type', local.get('type', 'default'))
  if kind != 'default':
    raise ValueError(f'rope_type of the sliding_attention layers is {kind!r}; '
                     'supported is default')
  local_theta = local.get('rope_theta', raw.get('rope_local_base_freq'))
  return (theta, _scaling(whole, raw['max_position_embeddings']),
          None if local_theta is None else float(local_theta))


def _scaling(params, max_length):
  kind = params.get('rope_type', params.get('type', 'default'))
  if kind == 'default':
    return None
  if kind == 'linear':
    return (float(params['factor']),)
  if kind == 'llama3':
    names = 'factor', 'low_freq_factor', 'high_freq_factor'
    original = params.get('original_max_position_embeddings', max_length)
    return (*(float(params[name]) for name in names), float(original))
  raise ValueError(f'rope_type is {kind!r}; supported are default, linear, '
                   'llama3')


def _windows(raw, local_theta):
  """Which layers see a window only, and their rotary frequencies."""
  window, layers = raw.get('sliding_window'), raw['num_hidden_layers']
  if raw.get('use_sliding_window') is False:
    window = None
  kinds = raw.get('layer_types')
  if kinds is None:
    kinds = _pattern(raw, window, layers)
  for kind in kinds:
    if kind not in ('sliding_attention', 'full_attention'):
      raise ValueError(f'layer_types has {kind!r}; supported are '
                       'full_attention, sliding_attention')
  if len(kinds) != layers:
    raise ValueError(f'layer_types has {len(kinds)} entries, but '
                     f'num_hidden_layers is {layers}')
  windowed = tuple(kind == 'sliding_attention' for kind in kinds)
  if not any(windowed):
    return {}
  if window is None:
    raise ValueError('sliding_window is missing, but layer_types has '
                     'sliding_attention')
  return dict(window=window, local_rope_theta=local_theta,
              windowed_layers=() if all(windowed) else windowed)


def _pattern(raw, window, layers):
  """What layer_types is when a config does not say."""
  names = {True: 'sliding_attention', False: 'full_attention'}
  pattern = raw.get('sliding_window_pattern')
  if pattern is not None:  # Every so many layers one sees everything.
    return [names[bool((i + 1) % pattern)] for i in range(layers)]
  first = raw.get('max_window_layers', 0)
  return [names[window is not None and i >= first] for i in range(layers)]


def layer_types(config: ModelConfig) -> list[str]:
  """The key of that name: whether each layer sees a window or everything."""
  if config.window is None:
    return ['full_attention'] * config.num_layers
  windowed = config.windowed_layers or (True,) * config.num_layers
  return ['sliding_attention' if yes else 'full_attention' for yes in windowed]
