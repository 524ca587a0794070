"""One token at a time on a CPU: layers written out, each with its own arrays.

A loop over stacked layers copies what it reads: for every token, on XLA's CPU
backend, the weights and the cache of each layer once more, and the cache again
into the order that its matrix products want. Here each layer has weights and
a cache of its own, rows and heads before slots; weights are cast once, before
the first token. In float32 the numbers are those of the loop, bit for bit.

One wide product in place of those that read the same activations was no faster,
and in float32 XLA rounds some of them otherwise. So it does where fewer slots
are read, which is why all of them are read here, whatever is filled.
"""

from __future__ import annotations

import operator
from typing import Any

import jax

from policyopt.models import attention_kernels, layers, parameters
from policyopt.models import cache as cache_lib
from policyopt.models.config import ModelConfig

Array = jax.Array

# The program grows with the layers, and with it the time to compile it.
_MOST_LAYERS = 16


def apart(config: ModelConfig) -> bool:
  """Whether this is how to decode: on one CPU, with a few layers."""
  mesh = jax.sharding.get_abstract_mesh()
  return (attention_kernels.platform() == 'cpu' and mesh.size <= 1
          and config.num_layers <= _MOST_LAYERS
          # Scales of keys and values are kept in the other form alone.
          and config.cache_dtype != 'int8')


def best_form(config: ModelConfig, params: Any):
  """Parameters, and a function for caches, as one token is decoded fastest.

  Args:
    config: of the model.
    params: of the model.

  Returns:
    (parameters for `transformer.forward` with a cache of the other form,
    cache -> cache of that form): both as they are where that is best.
  """
  if not apart(config):
    return params, lambda cache: cache
  params = parameters.cast(params, config.dtype)
  parts = [jax.tree.map(operator.itemgetter(index), params['layers'])
           for index in range(config.num_layers)]
  return {**params, 'layers': parts}, cache_lib.by_layer


def forward(config: ModelConfig, params: Any, tokens: Array,
            cache: cache_lib.LayerCache, where: layers.Places
            ) -> tuple[Array, cache_lib.LayerCache]:
  """`transformer.forward` with such parameters and such a cache."""
  x = layers.embed(config, params['embedding'], tokens)
  windowed = layers.static_windowed(config)
  for index, part in enumerate(params['layers']):
    each = config.windowed_layers[index] if windowed is None else windowed
    x, cache, _ = layers.layer(config, part, x, cache, index, each, where)
  return layers.rms_norm(x, params['final_norm'], config.norm_eps,
                         config.norm_offset), cache
