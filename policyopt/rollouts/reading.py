"""Reading prompts: each once, whatever is then sampled from it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from policyopt.models import cache as kv_cache
from policyopt.models import transformer
from policyopt.models.config import ModelConfig
from policyopt.types import Array, Prompts

_VECTOR = 8


def read(config: ModelConfig, params: Any, prompts: Prompts, limit: int
         ) -> tuple[Array, kv_cache.Cache]:
  """Runs the model over the prompts.

  Args:
    config: of the model.
    params: of the model.
    prompts: N of up to P tokens.
    limit: response tokens that will follow.

  Returns:
    (hidden [N, D] that predicts the first tokens, a cache of P slots and as
    many more as make whole vectors, but no more than P + limit).
  """
  (num_prompts, width), length = prompts.tokens.shape, prompts.length
  positions = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None, :], (num_prompts, width))
  # Whole vectors of slots: sums over a few slots are rounded otherwise than
  # the same sums over many. Responses overwrite what padding has written.
  slots = min(width + limit, -(-width // _VECTOR) * _VECTOR)
  cache = kv_cache.init_cache(config, num_prompts, slots)
  hidden, cache = transformer.forward(
      config, params, prompts.tokens, positions, cache=cache,
      slot=jnp.int32(0))
  last = jnp.maximum(length - 1, 0)[:, None, None]
  return jnp.take_along_axis(hidden, last, axis=1)[:, 0], cache
