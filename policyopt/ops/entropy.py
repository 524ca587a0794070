"""Entropy of distributions that are given by logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def entropy_from_logits(logits: Array) -> Array:
  """H = log Σ exp(z) − Σ softmax(z)·z, in nats.

  Args:
    logits: f32[..., V]; one that is not finite (−∞ for a token that was
      removed, NaN in padding) has probability 0.

  Returns:
    f32[...]; 0 where no logit is finite.

  Example:
    >>> round(float(entropy_from_logits(jnp.array([0., 0., -jnp.inf]))), 4)
    0.6931
  """
  logits = masking.as_float(logits)
  there = jnp.isfinite(logits)
  logits = jnp.where(there, logits, 0)
  # Measured from the largest: what is small is rounded less.
  lowest = jnp.finfo(logits.dtype).min
  top = jnp.max(
      logits, axis=-1, keepdims=True, where=there, initial=lowest)
  shifted = jnp.where(there, logits - jax.lax.stop_gradient(top), 0)
  powers = jnp.where(there, jnp.exp(shifted), 0)
  empty = ~jnp.any(there, axis=-1)
  total = jnp.where(empty, 1, jnp.sum(powers, axis=-1))
  mean = jnp.sum(powers * shifted, axis=-1) / total
  return jnp.where(empty, 0, jnp.log(total) - mean)
