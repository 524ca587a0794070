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
    logits: f32[..., V]; one that is not finite (−∞ for a token that was
      removed, NaN in padding) has probability 0.
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
  lowest = jnp.finfo(logits.dtype).min
  there = jnp.isfinite(logits)
  top = jax.lax.stop_gradient(jnp.max(
      logits, axis=-1, keepdims=True, where=there, initial=lowest))
  shifted = jnp.where(there, jnp.where(there, logits, 0) - top, 0)
  total = jnp.sum(jnp.where(there, jnp.exp(shifted), 0), axis=-1)
  # A comparison instead of a gather: its gradient is no scatter, and a sharded
  # vocabulary stays sharded.
  places = jax.lax.broadcasted_iota(
      tokens.dtype, logits.shape, logits.ndim - 1)
  chosen = tokens[..., None] == places
  picked = jnp.sum(jnp.where(chosen, shifted, 0), axis=-1)
  found = jnp.any(chosen & there, axis=-1)
  out = picked - jnp.log(jnp.where(found, total, 1))
  inside = (tokens >= 0) & (tokens < size)
  out = jnp.where(found, jnp.maximum(out, lowest), lowest)
  return jnp.where(inside, out, 0)
