"""What one layer computes: plain functions of parameters and activations."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from policyopt.models import (
    attention,
    attention_shared,
    cache_layers,
    moe,
    partitioning,
    quantized,
)
from policyopt.models import cache as cache_lib
from policyopt.models.attention_shared import SharedPrompts
from policyopt.models.config import ModelConfig
from policyopt.models.matmul import product

Array = jax.Array
Params = Any
AnyCache = cache_lib.Cache | cache_layers.LayerCache

# Names of what the remat policies 'names' and 'offload' keep.
SAVED_NAMES = ('attention_out', 'mlp_out')
# Projections of what attention reads; together 'qkv' in `unrolled.weights`.
HEADS = ('query', 'key', 'value')


class Places(NamedTuple):
  """Where the tokens are: what every layer is told alike.

  Attributes:
    angles: (cos, sin), each f32[B, S, DH / 2].
    local_angles: the same for windowed layers; None: as the others.
    segments: i32[B, S] or None.
    slot: of the first token in the cache, i32[] or i32[B], or None.
    counted: bool[B, S], tokens whose routing is counted, or None.
    shared: of rows with one prompt and several responses, or None.
  """
  angles: tuple[Array, Array]
  local_angles: tuple[Array, Array] | None = None
  segments: Array | None = None
  slot: Array | None = None
  counted: Array | None = None
  shared: SharedPrompts | None = None


def places(config: ModelConfig, positions: Array, *,
           segments: Array | None = None, slot: Array | None = None,
           counted: Array | None = None, shared: SharedPrompts | None = None
           ) -> Places:
  """What is made once for all layers.

  Args:
    config: of the model.
    positions: i32[B, S].
    segments: i32[B, S] or None.
    slot: i32[] or i32[B] with a cache.
    counted: bool[B, S] or None.
    shared: of rows with one prompt and several responses, or None.

  Returns:
    Places.
  """
  angles = attention.rotary_angles(
      positions, config.head_dim, config.rope_theta, config.rope_scaling)
  local = None
  if config.local_rope_theta is not None:
    local = attention.rotary_angles(
        positions, config.head_dim, config.local_rope_theta)
  return Places(angles, local, segments, slot, counted, shared)


def embed(config: ModelConfig, table: Array, tokens: Array) -> Array:
  """[B, S, D]: what the first layer is given for tokens i32[B, S]."""
  x = quantized.take(table, tokens, config.dtype)
  if config.scale_embeddings:
    x = x * jnp.asarray(config.width ** 0.5, config.dtype)
  return partitioning.constrain(x, 'batch', 'length', 'features')


def layer(config: ModelConfig, params: Params, x: Array,
          cache: AnyCache | None, index: Array | int,
          windowed: Array | bool, where: Places
          ) -> tuple[Array, AnyCache | None, moe.Statistics | None]:
  """x += attention(norm(x)); x += mlp(norm(x)); the cache passes through.

  Args:
    config: of the model.
    params: of this layer.
    x: [B, S, D].
    cache: of all layers, or None.
    index: i32[], of this layer; an int when layers are apart.
    windowed: whether this layer is; also as a traced bool[].
    where: from `places`.

  Returns:
    (x, the cache, statistics of the router or None).
  """

  def norm(name, y):
    return rms_norm(y, params[name], config.norm_eps, config.norm_offset)

  out, cache = _attention(config, params, norm('attention_norm', x), cache,
                          index, windowed, where)
  if config.post_norms:
    out = norm('post_attention_norm', out)
  x = x + checkpoint_name(out, 'attention_out')
  inner, statistics = norm('mlp_norm', x), None
  if config.num_experts:
    out, statistics = moe.mlp(config, params, inner, where.counted)
  else:
    out = _mlp(config, params, inner)
  if config.post_norms:
    out = norm('post_mlp_norm', out)
  x = x + checkpoint_name(out, 'mlp_out')
  x = partitioning.constrain(x, 'batch', 'length', 'features')
  return x, cache, statistics


def static_windowed(config: ModelConfig) -> bool | None:
  """Whether layers are windowed when all are alike; None when they differ."""
  if config.window is None:
    return False
  kinds = set(config.windowed_layers) or {True}
  return kinds.pop() if len(kinds) == 1 else None


def _attention(config, params, x, cache, index, windowed, where):
  """Projections, rotary positions, the cache, attention, projection back."""

  def finish(name, y):
    if config.qkv_bias:
      y = y + params[f'{name}_bias'].astype(x.dtype)[None, None]
    if config.qk_norm and name != 'value':
      y = _head_norm(config, params[f'{name}_norm'], y)
    return y

  query, key, value = map(finish, HEADS, _heads(config, params, x))
  cos, sin = _angles(where, windowed)
  query = attention.rotate(query, cos, sin)
  key = attention.rotate(key, cos, sin)
  kw = dict(scale=config.attention_scale, softcap=config.attention_softcap)
  rows = kw | dict(windowed=windowed, window=config.window,
                   implementation=config.attention)
  if where.shared is not None:
    out = attention_shared.causal(query, key, value, where.shared, **rows)
  elif cache is None:
    out = attention.causal(
        query, key, value, segments=where.segments, **rows)
  elif isinstance(cache, cache_layers.LayerCache):
    cache = cache_layers.write(cache, key, value, index, where.slot)
    out = attention_shared.decode(
        query, cache, index, where.slot, **kw, windowed=windowed,
        window=config.window)
  else:
    cache = cache_lib.write(cache, key, value, index, where.slot)
    out = attention.decode(
        query, cache, index, where.slot, **kw, windowed=windowed,
        window=config.window, implementation=config.decode_attention)
  return linear(config, params, 'out', out), cache


def _heads(config, params, x):
  """The projections to queries, keys and values."""
  if 'qkv' not in params:
    return [linear(config, params, name, x) for name in HEADS]
  ends = config.num_heads, config.num_heads + config.num_kv_heads
  return jnp.split(product(x, params['qkv'], 1), ends, axis=2)


def _angles(where, windowed):
  if where.local_angles is None:
    return where.angles
  return tuple(_either(windowed, local, other) for local, other in zip(
      where.local_angles, where.angles))


def _either(windowed, yes, no):
  """One of two arrays, without computing both when it is known which."""
  if isinstance(windowed, bool):
    return yes if windowed else no
  return jnp.where(windowed, yes, no)


def _head_norm(config, scale, y):
  """RMSNorm over each head, or over all heads of the projection together."""
  if not config.qk_norm_whole:
    return rms_norm(y, scale, config.norm_eps, config.norm_offset)
  flat = y.reshape(*y.shape[:-2], -1)
  return rms_norm(flat, scale.reshape(-1), config.norm_eps,
                  config.norm_offset).reshape(y.shape)


def _mlp(config, params, x):
  """(act(x gate) * x up) down."""
  gate = linear(config, params, 'gate', x)
  hidden = moe.activate(config, gate) * linear(config, params, 'up', x)
  return linear(config, params, 'down', hidden)


def linear(config: ModelConfig, params: Params, name: str, x: Array) -> Array:
  """x · w, and (x · a) · b · α / r when the projection has an adapter.

  Args:
    config: of the model.
    params: of this layer.
    name: of the projection; w is [in..., out...].
    x: [B, S, in...].

  Returns:
    [B, S, out...].

  Source: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al.,
    2021, arXiv 2106.09685.
  """
  inner = x.ndim - 2
  y = product(x, params[name], inner)
  if config.lora_rank and name in config.lora_targets:
    low = jnp.tensordot(x, params[f'{name}_lora_a'].astype(x.dtype), inner)
    delta = jnp.tensordot(low, params[f'{name}_lora_b'].astype(x.dtype), 1)
    y = y + delta * (config.lora_alpha / config.lora_rank)
  return y


def rms_norm(x: Array, scale: Array, eps: float, offset: bool = False) -> Array:
  """x / √(mean x² + ε) · scale over the last axis, in float32 or wider.

  Args:
    x: [..., D].
    scale: [D].
    eps: ε.
    offset: multiply by 1 + scale instead.

  Returns:
    [..., D] in the dtype of x.

  Source: "Root Mean Square Layer Normalization", Zhang and Sennrich, 2019,
    arXiv 1910.07467.
  """
  wide = jnp.promote_types(x.dtype, jnp.float32)
  y = x.astype(wide)
  mean_square = jax.lax.platform_dependent(
      y, cpu=_paired_mean_square, default=_mean_square)
  y = y * jax.lax.rsqrt(mean_square + eps)
  scale = scale.astype(wide).reshape((1,) * (x.ndim - 1) + (-1,))
  return (y * (1 + scale if offset else scale)).astype(x.dtype)


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
