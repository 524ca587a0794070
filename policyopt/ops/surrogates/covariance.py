"""Tokens by how much they drive the entropy down: their covariance."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def token_covariance(
    advantages: Array,
    log_probs: Array,
    mask: Array,
    *,
    count_eps: float = 0.,
) -> Array:
  """(A − Ā)·(log π − mean log π) with means over all chosen tokens.

  Args:
    advantages: f32[B, T].
    log_probs: f32[B, T].
    mask: bool[B, T], chosen tokens.
    count_eps: added to the number of tokens in both means.

  Returns:
    f32[B, T], 0 outside the mask; a constant.

  Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning
    Language Models", Cui et al., 2025, arXiv:2505.22617.

  Example:
    >>> advantages, log_probs = jnp.array([[1., -1.]]), jnp.array([[0., -4.]])
    >>> mask = jnp.ones((1, 2), bool)
    >>> token_covariance(advantages, log_probs, mask).tolist()
    [[2.0, 2.0]]
  """
  chex.assert_equal_shape((advantages, log_probs, mask))
  advantages, log_probs = (
      masking.fill(x - masking.masked_mean(x, mask, count_eps=count_eps), mask)
      for x in (advantages, log_probs))
  return jax.lax.stop_gradient(advantages * log_probs)


def fraction_of_tokens(
    mask: Array, fraction: float, dtype=jnp.float32) -> Array:
  """max(1, ⌊fraction·N⌋), N the places of the mask.

  Args:
    mask: bool[B, T].
    fraction: in [0, 1].
    dtype: in which the product is made.

  Returns:
    i32[].

  Example:
    >>> int(fraction_of_tokens(jnp.ones((4, 5), bool), 0.25))
    5
  """
  total = jnp.sum((jnp.asarray(mask) != 0).astype(dtype))
  return jnp.maximum(jnp.floor(fraction * total), 1).astype(jnp.int32)


def token_words(
    key: Array, tokens: Array, log_probs: Array, mask: Array) -> Array:
  """A random word for each chosen token, whatever row it stands in.

  The word depends on the key and on what the row says, so neither the order
  of rows nor padding nor observations change a draw that sorts by it; two rows
  that agree in every token and log-probability get the same words.

  Args:
    key: random key.
    tokens: i32[B, T].
    log_probs: f32[B, T], as the tokens were sampled.
    mask: bool[B, T], chosen tokens; the others are not read.

  Returns:
    u32[B, T]; what stands outside the mask means nothing.

  Example:
    >>> tokens, mask = jnp.array([[1, 2], [3, 2]]), jnp.ones((2, 2), bool)
    >>> words = token_words(
    ...     jax.random.key(0), tokens, jnp.zeros((2, 2)), mask)
    >>> len(set(words.reshape(-1).tolist()))
    4
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((tokens, log_probs, mask))
  mask = jnp.asarray(mask) != 0
  # Counted over chosen tokens, so that observations between them do nothing.
  places = jnp.cumsum(mask, axis=1).astype(jnp.uint32)
  bits = jax.lax.bitcast_convert_type(
      masking.fill(log_probs, mask).astype(jnp.float32), jnp.uint32)
  first, second = jax.random.split(key)
  fold = jax.random.fold_in

  def own(token, place, bit):
    return jax.random.bits(fold(fold(fold(first, token), place), bit))

  words = jax.vmap(jax.vmap(own))(
      tokens.astype(jnp.uint32), places, bits)
  # Sums of words wrap around: a row's signature takes any number of them.
  row = jnp.sum(jnp.where(mask, words, 0), axis=1, dtype=jnp.uint32)

  def joint(signature, word):
    return jax.random.bits(fold(fold(second, signature), word))

  return jax.vmap(jax.vmap(joint, (None, 0)))(row, words)
