"""The decoder: the one file that knows Flax Linen.

Modules only declare parameters with logical axes; a layer is the plain
function `_layer(config, params, x, ...)`. Layers are scanned, so their
parameters are stacked on axis 0, and everyone else sees a plain nested dict.
"""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from policyopt.models import attention, partitioning
from policyopt.models import cache as cache_lib
from policyopt.models import config as config_lib

Array = jax.Array
Params = Any
ModelConfig = config_lib.ModelConfig

_SAVED_NAMES = ('attention_out', 'mlp_out')


@functools.partial(jax.jit, static_argnames='config')
def init(config: ModelConfig, key: Array) -> Params:
  """Fresh parameters; consumes the key.

  Projections are drawn with standard deviation 1/√fan_in, those that write to
  the residual stream divided by √(2L); embeddings with 0.02; the value head
  starts at 0.

  Args:
    config: of the model.
    key: a typed random key.

  Returns:
    A nested dict of arrays; those of 'layers' are stacked on axis 0.
  """
  return jax.tree.map(_value, _boxed(config, key), is_leaf=_is_box)


def logical_axes(config: ModelConfig) -> Params:
  """The logical name of every dimension of every parameter.

  Returns:
    A tree of `jax.sharding.PartitionSpec` in the structure of the parameters;
    `partitioning.RULES` maps the names to mesh axes.
  """
  boxed = jax.eval_shape(lambda: _boxed(config, jax.random.key(0)))
  return jax.tree.map(lambda box: box.get_partition_spec(), boxed,
                      is_leaf=_is_box)


def abstract_params(config: ModelConfig) -> Params:
  """Shapes and dtypes of the parameters, without making them.

  Returns:
    A tree of `jax.ShapeDtypeStruct`.
  """
  return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def forward(config: ModelConfig, params: Params, tokens: Array,
            positions: Array, *, segments: Array | None = None,
            cache: cache_lib.Cache | None = None, slot: Array | None = None
            ) -> tuple[Array, cache_lib.Cache | None]:
  """Runs the decoder.

  Without a cache: causal attention inside the row, so padding on the right
  changes nothing to its left. With a cache: writes the S new keys and values
  to slots [slot, slot + S), then token s attends to the slots j <= slot + s.

  Args:
    config: of the model.
    params: from `init`.
    tokens: i32[B, S].
    positions: i32[B, S], for the rotary embedding.
    segments: i32[B, S], attention stays inside equal segments (packed rows; 0
      is padding); only without a cache.
    cache: to read and write; slots >= slot + S.
    slot: i32 scalar, or i32[B] when each row has a place of its own; only
      with a cache.

  Returns:
    (hidden [B, S, D] after the final norm, the new cache or None).

  Raises:
    ValueError: for segments together with a cache, or a cache without slot.
  """
  if cache is not None and segments is not None:
    raise ValueError('segments and cache cannot be used together')
  if (cache is None) != (slot is None):
    raise ValueError('cache and slot must be given together')
  if cache is None:
    mask = _causal_mask(tokens.shape[1], segments)
  else:
    slot = jnp.asarray(slot, jnp.int32)
    mask = _slot_mask(tokens.shape[1], slot, cache.slots)
  hidden, cache = _Decoder(config).apply(
      {'params': params}, tokens, positions, mask, cache, slot)
  return hidden, cache


def logits(config: ModelConfig, params: Params, hidden: Array) -> Array:
  """Unnormalised log-probabilities of the next token.

  Args:
    config: of the model.
    params: from `init`.
    hidden: [..., D] from `forward`.

  Returns:
    f32[..., V].
  """
  dtype = jnp.dtype(config.dtype)
  if config.tied_embeddings:
    head, spec = params['embedding'], '...d,vd->...v'
  else:
    head, spec = params['head'], '...d,dv->...v'
  return jnp.einsum(spec, hidden.astype(dtype), head.astype(dtype),
                    preferred_element_type=_wide(dtype))


def values(config: ModelConfig, params: Params, hidden: Array) -> Array:
  """The value head's prediction.

  Args:
    config: of a model with `value_head`.
    params: from `init`.
    hidden: [..., D] from `forward`.

  Returns:
    f32[...].

  Raises:
    ValueError: when the model has no value head.
  """
  if not config.value_head:
    raise ValueError('values need a model with a value head: set '
                     'value_head = True')
  wide = _wide(config.dtype)
  head = params['value_head']
  return jnp.einsum('...d,d->...', hidden.astype(wide),
                    head['kernel'].astype(wide)) + head['bias'].astype(wide)


# --- modules: parameters and the scan -------------------------------------


class _Block(nn.Module):
  """One layer: declares its parameters and calls the plain function."""
  config: ModelConfig

  @nn.compact
  def __call__(self, carry, cos, sin, mask, slot):
    params = {name: _param(self, name, *spec)
              for name, spec in _layer_specs(self.config).items()}
    return _layer(self.config, params, carry, cos, sin, mask, slot), None


class _ValueHead(nn.Module):
  """Declares the value head."""
  config: ModelConfig

  @nn.compact
  def __call__(self):
    zeros = nn.initializers.zeros
    _param(self, 'kernel', (self.config.width,), ('norm',), zeros)
    _param(self, 'bias', (), (), zeros)


class _Decoder(nn.Module):
  """Embedding, scanned layers, final norm; declares the heads too."""
  config: ModelConfig

  @nn.compact
  def __call__(self, tokens, positions, mask, cache, slot):
    config = self.config
    table = (config.vocab_size, config.width)
    normal = nn.initializers.normal(0.02)
    embedding = _param(self, 'embedding', table, ('vocab', 'embed'), normal)
    if not config.tied_embeddings:
      _param(self, 'head', table[::-1], ('embed', 'vocab'), normal)
    if config.value_head:
      _ValueHead(config, name='value_head')()
    x = embedding[tokens].astype(config.dtype)
    x = partitioning.constrain(x, 'batch', 'length', 'features')
    cos, sin = attention.rotary_angles(
        positions, config.head_dim, config.rope_theta, config.rope_scaling)
    # Sampling is never differentiated, so nothing is recomputed with a cache.
    block = _Block if cache is not None else _remat(config.remat)
    scanned = nn.scan(
        block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(nn.broadcast,) * 4, length=config.num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'})
    carry = (x, cache, jnp.zeros((), jnp.int32))
    (x, cache, _), _ = scanned(config, name='layers')(
        carry, cos, sin, mask, slot)
    scale = _param(self, 'final_norm', (config.width,), ('norm',),
                   nn.initializers.ones)
    return _rms_norm(x, scale, config.norm_eps), cache


def _remat(name):
  """The block under one of the named policies of recomputation."""
  policies = jax.checkpoint_policies
  if name == 'none':
    return _Block
  policy = {
      'full': lambda: policies.nothing_saveable,
      'dots': lambda: policies.dots_with_no_batch_dims_saveable,
      'names': lambda: policies.save_only_these_names(*_SAVED_NAMES),
      'offload': lambda: policies.save_and_offload_only_these_names(
          names_which_can_be_saved=[],
          names_which_can_be_offloaded=list(_SAVED_NAMES),
          offload_src='device', offload_dst='pinned_host'),
  }[name]()
  return nn.remat(_Block, prevent_cse=False, policy=policy)


def _param(module, name, shape, axes, initializer):
  """Declares a parameter in the stored dtype, with its logical axes."""
  boxed = nn.with_logical_partitioning(initializer, axes)
  # Linen's own unboxing would replicate the array inside a mesh.
  return _value(module.param(
      name, boxed, shape, jnp.dtype(module.config.param_dtype), unbox=False))


def _boxed(config, key):
  tokens = jnp.zeros((1, 1), jnp.int32)
  mask = jnp.ones((1, 1, 1), bool)
  variables = _Decoder(config.replace(remat='none')).init(
      {'params': key}, tokens, tokens, mask, None, None)
  return variables['params']


def _is_box(x):
  return isinstance(x, nn.LogicallyPartitioned)


def _value(x):
  return x.value if _is_box(x) else x


def _layer_specs(config):
  """name -> (shape, logical axes, initializer) of one layer's parameters."""
  width, mlp, dim = config.width, config.mlp_width, config.head_dim
  heads, kv_heads = config.num_heads, config.num_kv_heads
  ones, zeros = nn.initializers.ones, nn.initializers.zeros

  def normal(fan_in, layers=0.5):
    return nn.initializers.truncated_normal((2 * layers * fan_in) ** -0.5)

  specs = {
      'attention_norm': ((width,), ('norm',), ones),
      'query': ((width, heads, dim), ('embed', 'heads', 'head_dim'),
                normal(width)),
      'key': ((width, kv_heads, dim), ('embed', 'kv_heads', 'head_dim'),
              normal(width)),
      'value': ((width, kv_heads, dim), ('embed', 'kv_heads', 'head_dim'),
                normal(width)),
      'out': ((heads, dim, width), ('heads', 'head_dim', 'embed'),
              normal(heads * dim, config.num_layers)),
      'mlp_norm': ((width,), ('norm',), ones),
      'gate': ((width, mlp), ('embed', 'mlp'), normal(width)),
      'up': ((width, mlp), ('embed', 'mlp'), normal(width)),
      'down': ((mlp, width), ('mlp', 'embed'), normal(mlp, config.num_layers)),
  }
  if config.qkv_bias:
    for name, count in ('query', heads), ('key', kv_heads), ('value', kv_heads):
      axis = 'heads' if name == 'query' else 'kv_heads'
      specs[f'{name}_bias'] = ((count, dim), (axis, 'head_dim'), zeros)
  if config.qk_norm:
    specs['query_norm'] = specs['key_norm'] = ((dim,), ('norm',), ones)
  return specs


# --- plain functions -------------------------------------------------------


def _layer(config, params, carry, cos, sin, mask, slot):
  """x += attention(norm(x)); x += mlp(norm(x)); the cache passes through."""
  x, cache, layer = carry
  inner = _rms_norm(x, params['attention_norm'], config.norm_eps)
  out, cache = _attention(config, params, inner, cos, sin, mask, cache, layer,
                          slot)
  x = x + checkpoint_name(out, 'attention_out')
  inner = _rms_norm(x, params['mlp_norm'], config.norm_eps)
  x = x + checkpoint_name(_mlp(params, inner), 'mlp_out')
  x = partitioning.constrain(x, 'batch', 'length', 'features')
  return x, cache, layer + 1


def _attention(config, params, x, cos, sin, mask, cache, layer, slot):
  """Projections, rotary positions, the cache, attention, projection back."""

  def project(name):
    y = jnp.einsum('bsd,dhk->bshk', x, params[name].astype(x.dtype))
    if config.qkv_bias:
      y = y + params[f'{name}_bias'].astype(x.dtype)[None, None]
    return y

  query, key, value = project('query'), project('key'), project('value')
  if config.qk_norm:
    query = _rms_norm(query, params['query_norm'], config.norm_eps)
    key = _rms_norm(key, params['key_norm'], config.norm_eps)
  query = attention.rotate(query, cos, sin)
  key = attention.rotate(key, cos, sin)
  if cache is not None:
    keys, key = cache_lib.update_layer(cache.keys, key, layer, slot)
    values_, value = cache_lib.update_layer(cache.values, value, layer, slot)
    cache = cache_lib.Cache(keys, values_)
  out = attention.attend(query, key, value, mask)
  out = jnp.einsum('bshk,hkd->bsd', out, params['out'].astype(x.dtype))
  return out, cache


def _mlp(params, x):
  """SwiGLU: (silu(x gate) * x up) down."""
  gate, up, down = (params[name].astype(x.dtype)
                    for name in ('gate', 'up', 'down'))
  return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def _rms_norm(x, scale, eps):
  """x / √(mean x² + ε) · scale over the last axis, in float32 or wider."""
  wide = _wide(x.dtype)
  y = x.astype(wide)
  mean_square = jax.lax.platform_dependent(
      y, cpu=_paired_mean_square, default=_mean_square)
  y = y * jax.lax.rsqrt(mean_square + eps)
  scale = scale.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))
  return (y * scale).astype(x.dtype)


def _mean_square(y):
  return jnp.mean(y * y, axis=-1, keepdims=True)


def _paired_mean_square(y):
  """Adds halves to halves: an order that does not depend on other dimensions.

  XLA's CPU backend orders a plain sum by the shape around it, so one token
  decoded by itself would not have the log-probability that it has in a row.
  """
  square = y * y
  while square.shape[-1] % 2 == 0:
    half = square.shape[-1] // 2
    square = square[..., :half] + square[..., half:]
  # What is left is odd, and short for any width that models have.
  columns = jnp.split(square, square.shape[-1], axis=-1)
  return functools.reduce(jnp.add, columns) / y.shape[-1]


def _causal_mask(length, segments):
  index = jnp.arange(length)
  mask = (index[:, None] >= index[None, :])[None]
  if segments is not None:
    mask = mask & (segments[:, :, None] == segments[:, None, :])
  return mask


def _slot_mask(length, slot, slots):
  last = slot.reshape(-1, 1) + jnp.arange(length)[None]
  return jnp.arange(slots)[None, None, :] <= last[:, :, None]


def _wide(dtype):
  return jnp.promote_types(dtype, jnp.float32)
