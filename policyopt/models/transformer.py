"""The decoder: the one file that knows Flax Linen.

Modules only declare parameters with logical axes; a layer is the plain
function `layers.layer`. Layers are scanned, so their parameters are stacked on
axis 0, and everyone else sees a plain nested dict.
"""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from policyopt.models import config as config_lib
from policyopt.models import (
    layers,
    moe,
    parameters,
    quantized,
    remat,
    unrolled,
)
from policyopt.models.attention_shared import SharedPrompts

Array = jax.Array
Params = Any
ModelConfig = config_lib.ModelConfig


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
  return jax.tree.map(lambda box: box.get_partition_spec(), _declared(config),
                      is_leaf=_is_box)


def abstract_params(config: ModelConfig) -> Params:
  """Shapes and dtypes of the parameters, without making them.

  Returns:
    A tree of `jax.ShapeDtypeStruct`.
  """
  return jax.tree.map(_value, _declared(config), is_leaf=_is_box)


def forward(config: ModelConfig, params: Params, tokens: Array,
            positions: Array, *, segments: Array | None = None,
            shared: SharedPrompts | None = None,
            cache: layers.AnyCache | None = None, slot: Array | None = None
            ) -> tuple[Array, layers.AnyCache | None]:
  """Runs the decoder.

  Without a cache: causal attention inside the row, so padding on the right
  changes nothing to its left. With a cache: writes the S new keys and values
  to slots [slot, slot + S), then token s attends to the slots j <= slot + s.

  Args:
    config: of the model.
    params: from `init`; from `unrolled.weights` with a cache of its form.
    tokens: i32[B, S].
    positions: i32[B, S], for the rotary embedding.
    segments: i32[B, S], attention stays inside equal segments (packed rows; 0
      is padding); only without a cache.
    shared: of rows with one prompt and several responses; only by itself.
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
  slot = None if slot is None else jnp.asarray(slot, jnp.int32)
  where = layers.places(
      config, positions, segments=segments, slot=slot, shared=shared)
  if cache is None and unrolled.pays(config, tokens.size):
    params = unrolled.split(config, params)
  if isinstance(params['layers'], list):
    return unrolled.forward(config, params, tokens, cache, where)
  hidden, cache, _ = _Decoder(config).apply(
      {'params': params}, tokens, cache, where)
  return hidden, cache


def forward_with_router(config: ModelConfig, params: Params, tokens: Array,
                        positions: Array, *, counted: Array,
                        segments: Array | None = None
                        ) -> tuple[Array, moe.Statistics]:
  """`forward` without a cache, and what the routers did.

  Args:
    config: of a model with experts.
    params: from `init`.
    tokens: i32[B, S].
    positions: i32[B, S].
    counted: bool[B, S], tokens that enter the statistics.
    segments: as in `forward`.

  Returns:
    (hidden [B, S, D], `moe.Statistics` with a leading axis of layers).

  Raises:
    ValueError: when the model has no experts.
  """
  if not config.num_experts:
    raise ValueError('router statistics need a model with experts: set '
                     'num_experts')
  where = layers.places(config, positions, segments=segments, counted=counted)
  hidden, _, statistics = _Decoder(config).apply(
      {'params': params}, tokens, None, where)
  return hidden, statistics


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
  head, scale = quantized.split(head)
  out = jnp.einsum(spec, hidden.astype(dtype), head.astype(dtype),
                   preferred_element_type=_wide(dtype))
  if scale is not None:
    out = quantized.rescale(out, scale.reshape(-1))
  cap = config.logit_softcap
  return out if cap is None else cap * jnp.tanh(out / cap)


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
  def __call__(self, carry, windowed, where):
    config = self.config
    params = {name: _param(self, name, *spec)
              for name, spec in parameters.layer_specs(config).items()}
    if self.is_initializing():  # Nothing depends on what it computes.
      return carry, None
    if windowed is None:
      windowed = layers.static_windowed(config)
    x, cache, index = carry
    x, cache, statistics = layers.layer(
        config, params, x, cache, index, windowed, where)
    return (x, cache, index + 1), statistics


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
  def __call__(self, tokens, cache, where):
    config = self.config
    table = (config.vocab_size, config.width)
    normal = nn.initializers.normal(0.02)
    embedding = _param(self, 'embedding', table, ('vocab', 'embed'), normal)
    if not config.tied_embeddings:
      _param(self, 'head', table[::-1], ('embed', 'vocab'), normal)
    if config.value_head:
      _ValueHead(config, name='value_head')()
    x = layers.embed(config, embedding, tokens)
    # Sampling is never differentiated, so nothing is recomputed with a cache.
    block = _Block if cache is not None else _remat(config.remat)
    windowed = None
    if layers.static_windowed(config) is None:
      windowed = jnp.asarray(config.windowed_layers)
    scanned = nn.scan(
        block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(0, nn.broadcast), length=config.num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'})
    carry = (x, cache, jnp.zeros((), jnp.int32))
    (x, cache, _), statistics = scanned(config, name='layers')(
        carry, windowed, where)
    scale = _param(self, 'final_norm', (config.width,), ('norm',),
                   parameters.unit(config))
    hidden = layers.rms_norm(x, scale, config.norm_eps, config.norm_offset)
    return hidden, cache, statistics


def _remat(name):
  """The block under one of the named policies of recomputation."""
  if name == 'none':
    return _Block
  return nn.remat(_Block, prevent_cse=False, policy=remat.policy(name))


def _param(module, name, shape, axes, initializer):
  """Declares a parameter in the stored dtype, with its logical axes."""
  boxed = nn.with_logical_partitioning(initializer, axes)
  dtype = jnp.dtype(module.config.param_dtype)
  if module.config.lora_rank and (
      '_lora_' in name or isinstance(module, _ValueHead)):
    # The frozen weights may be narrow; what is trained is not.
    dtype = _wide(dtype)
  # Linen's own unboxing would replicate the array inside a mesh.
  return _value(module.param(name, boxed, shape, dtype, unbox=False))


def _boxed(config, key):
  tokens = jnp.zeros((1, 1), jnp.int32)
  config = config.replace(remat='none')  # There is nothing to keep.
  variables = _Decoder(config).init(
      {'params': key}, tokens, None, layers.places(config, tokens))
  return variables['params']


def _declared(config):
  """Shapes of `_boxed`."""
  return _declare(config, jax.config.jax_enable_x64)


@functools.lru_cache
def _declare(config, wide):
  """Once for a config: a run asks ten times, and tracing takes a while."""
  del wide  # Decides which dtypes there are.
  return jax.eval_shape(lambda: _boxed(config, jax.random.key(0)))


def _is_box(x):
  return isinstance(x, nn.LogicallyPartitioned)


def _value(x):
  return x.value if _is_box(x) else x


def _wide(dtype):
  return jnp.promote_types(dtype, jnp.float32)
