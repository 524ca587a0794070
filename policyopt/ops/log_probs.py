"""Log-probabilities of tokens whose distributions are given by logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def log_probs_from_logits(logits: Array, tokens: Array) -> Array:
  """log π(a) = z[a] − log Σ exp(z), in nats.

  Without a table of all log-probabilities, forward or backward.

  Args:
    logits: f32[..., V]; −∞ for a token that was removed. What is NaN or +∞ is
      not hidden: their rows have gradients that are NaN.
    tokens: i32[...], a; one that is no index of V (−100 in padding) gets 0.

  Returns:
    f32[...]; the lowest finite number for a token that was removed.

  Raises:
    ValueError: tokens do not have the shape of the distributions.

  Example:
    >>> round(float(log_probs_from_logits(jnp.zeros(4), jnp.array(1))), 4)
    -1.3863
  """
  if tokens.shape != logits.shape[:-1]:
    raise ValueError(f'tokens have the shape {tokens.shape}, must have '
                     f'{logits.shape[:-1]}: logits without the last axis')
  logits, size = masking.as_float(logits), logits.shape[-1]
  # Reductions of nothing but logits: with a mask inside they take XLA's CPU
  # backend seven times as long.
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  top = jnp.where(jnp.isfinite(top), top, 0)
  total = jnp.sum(jnp.exp(logits - top[..., None]), axis=-1)
  inside = (tokens >= 0) & (tokens < size)
  index = jnp.where(inside, tokens, 0)
  picked = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
  found = jnp.isfinite(picked)
  out = (jnp.where(found, picked, 0) - top) - jnp.log(
      jnp.where(total > 0, total, 1))
  lowest = jnp.finfo(logits.dtype).min
  out = jnp.where(found, jnp.maximum(out, lowest), lowest)
  return jnp.where(inside, out, 0)
