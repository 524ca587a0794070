"""Layers written out one after the other, as a CPU runs them fastest.

A loop over stacked layers copies what it reads: for every token that is
decoded, on XLA's CPU backend, the weights and the cache of each layer once
more, and the cache again into the order that its matrix products want. Here
each layer has weights and a cache of its own, heads before slots; weights are
cast once, before the first token. In float32 a small model has the numbers of
the loop, bit for bit; one that is `large` has them up to rounding.

The gradient through such a loop stacks what each layer leaves for the backward
pass: arrays that are zeroed, written slice by slice and read slice by slice. An
update takes 0.9 of the time without them, 0.75 in bfloat16, and longer to
compile. What is computed again in the backward pass saves memory in a loop
alone: without one XLA computes it for all layers before it needs the first.

Where fewer slots are read XLA rounds float32 otherwise, which is why all of
them are read here, whatever is filled; but where rows share prompts, whose
numbers are others anyway, there are no more than will soon be (`stages`).
"""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from policyopt.models import (
    attention_kernels,
    cache_layers,
    layers,
    parameters,
    quantized,
)
from policyopt.models import cache as cache_lib
from policyopt.models.config import ModelConfig

Array = jax.Array

# The program grows with the layers, and with it the time to compile it.
_MOST_LAYERS = 16
# Parameters of a layer. Copying less costs less than compiling it again.
_LARGE = 2 ** 17
# Tokens. Fewer take less time in a loop than compiling layer by layer does.
_MANY = 64


def possible(config: ModelConfig) -> bool:
  """Whether to decode so: on one CPU, with a few layers."""
  mesh = jax.sharding.get_abstract_mesh()
  return (attention_kernels.platform() == 'cpu' and mesh.size <= 1
          and config.num_layers <= _MOST_LAYERS
          # What the other form alone has: scales, and a kernel.
          and config.cache_dtype != 'int8'
          and config.decode_attention != 'ragged')


def large(config: ModelConfig) -> bool:
  """Whether it also pays to compile for it what small models do without."""
  layer = parameters.layer_specs(config).values()
  return possible(config) and sum(
      math.prod(shape) for shape, *_ in layer) >= _LARGE


def pays(config: ModelConfig, tokens: int) -> bool:
  """Whether to train so: large layers, on more than a few tokens, where no
  memory is to be saved."""
  return large(config) and tokens >= _MANY and config.remat == 'none'


def weights(config: ModelConfig, params: Any, rows: int) -> Any:
  """Parameters in the form that one token is decoded fastest with.

  Args:
    config: of the model.
    params: of the model.
    rows: that are decoded at a time.

  Returns:
    Parameters for `transformer.forward` with a cache of the same form.
  """
  if not possible(config):
    return params
  params = parameters.cast(params, config.dtype)
  parts = [jax.tree.map(operator.itemgetter(index), params['layers'])
           for index in range(config.num_layers)]
  if large(config) and _alone(config, parts[0]['query'], rows):
    parts = [_joined(part) for part in parts]
  return {**params, 'layers': parts}


def _alone(config, query, rows):
  """Whether one core would do each of the products that give what is attended.

  XLA's CPU backend shares none of up to 2²² multiplications in float32.
  """
  plain = not config.lora_rank and not quantized.is_quantized(query)
  return (plain and query.dtype == jnp.float32
          and rows * query.size <= 2 ** 22)


def _joined(params):
  """Parameters of a layer with one product in place of three."""
  apart = [params[name] for name in layers.HEADS]
  rest = {name: x for name, x in params.items() if name not in layers.HEADS}
  return {**rest, 'qkv': jnp.concatenate(apart, axis=1)}


def by_layer(config: ModelConfig, cache: cache_lib.Cache, slots: int
             ) -> layers.AnyCache:
  """The cache in the form of `weights`, rows apart.

  Args:
    config: of the model.
    cache: of up to `slots` slots.
    slots: of the rows that are decoded.

  Returns:
    The cache; of the same tiles for all caches of rows of so many slots.
  """
  if not possible(config):
    return cache
  # Over tiles XLA rounds the sums of small models otherwise than the loop.
  width = cache_layers.tile(slots) if large(config) else None
  return cache_layers.by_layer(cache, width)


def split(config: ModelConfig, params: Any) -> Any:
  """Parameters with a list of layers; to be differentiated through.

  The gradient of taking one layer at a time would add up as many arrays of all
  layers; that of this is one concatenation.
  """
  stacked, tree = jax.tree.flatten(params['layers'])
  count = config.num_layers
  apart = [jax.lax.split(x, (1,) * count) for x in stacked]
  return {**params, 'layers': [
      tree.unflatten([jnp.squeeze(x[index], 0) for x in apart])
      for index in range(count)]}


def forward(config: ModelConfig, params: Any, tokens: Array,
            cache: cache_layers.LayerCache | None, where: layers.Places
            ) -> tuple[Array, Any]:
  """`transformer.forward` with a list of layers, with or without a cache."""
  x = layers.embed(config, params['embedding'], tokens)
  windowed = layers.static_windowed(config)
  for index, part in enumerate(params['layers']):
    each = config.windowed_layers[index] if windowed is None else windowed
    if cache is None:
      x = _layer(config, part, x, each, where)
    else:
      x, cache, _ = layers.layer(config, part, x, cache, index, each, where)
  return layers.rms_norm(x, params['final_norm'], config.norm_eps,
                         config.norm_offset), cache


@functools.partial(jax.jit, static_argnames=('config', 'windowed'))
def _layer(config, params, x, windowed, where):
  """A layer without a cache; traced, and differentiated, once for all."""
  return layers.layer(config, params, x, None, 0, windowed, where)[0]
