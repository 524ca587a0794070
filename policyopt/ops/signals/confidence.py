"""How sure a policy was of what it wrote."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking
from policyopt.ops.signals import ordering

Array = jax.Array


def tail_confidence(
    log_probs: Array, mask: Array, *, fraction: float = 0.2) -> Array:
  """exp of the mean log-probability of the row's least probable tokens.

  Args:
    log_probs: f32[B, T].
    mask: bool[B, T], tokens that count.
    fraction: of them that are looked at, the least probable; at least one.

  Returns:
    f32[B] in (0, 1]; 1 for a row without tokens.

  Source: "Back to Basics: Revisiting Exploration in Reinforcement Learning for
    LLM Reasoning via Generative Probabilities", Li et al., 2026,
    arXiv:2602.05281.

  Example:
    >>> log_probs = jnp.log(jnp.array([[.9, .25, .8]]))
    >>> tail_confidence(log_probs, log_probs < 0).round(3).tolist()
    [0.25]
  """
  return jnp.exp(ordering.lowest_mean(log_probs, mask, fraction))


def prompt_tokens(mask: Array) -> Array:
  """The tokens before a row's first chosen one that something predicts.

  Args:
    mask: bool[B, T], chosen tokens.

  Returns:
    bool[B, T]; position 0, which nothing predicts, is never one, and a row
    that chose nothing has none.

  Example:
    >>> prompt_tokens(jnp.array([[False, False, True, False]])).tolist()
    [[False, True, False, False]]
  """
  chex.assert_rank(mask, 2)
  mask = jnp.asarray(mask) != 0
  before = jnp.cumsum(mask, axis=1) == 0
  later = jnp.arange(mask.shape[1]) > 0
  return before & later[None, :] & jnp.any(mask, axis=1)[:, None]


def confidence_shift(
    log_probs: Array,
    ref_log_probs: Array,
    mask: Array,
    *,
    length_normalised: bool = True,
) -> Array:
  """c = mean over the row of log π − log π_ref, or their sum.

  Args:
    log_probs: f32[B, T], of the policy that sampled.
    ref_log_probs: f32[B, T], of the reference.
    mask: bool[B, T], chosen tokens.
    length_normalised: False takes the sum.

  Returns:
    f32[B]; 0 for a row without tokens.

  Source: "Overconfident Errors Need Stronger Correction: Asymmetric Confidence
    Penalties for Reinforcement Learning", Xu et al., 2026, arXiv:2602.21420.

  Example:
    >>> log_probs = jnp.array([[-1., -3.]])
    >>> confidence_shift(log_probs, 2 * log_probs, log_probs < 0).tolist()
    [2.0]
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((log_probs, ref_log_probs, mask))
  reduce = masking.masked_mean if length_normalised else masking.masked_sum
  return reduce(
      masking.fill(log_probs, mask) - masking.fill(ref_log_probs, mask),
      mask, axis=1)


def error_multiplier(shift: Array, alpha: float) -> Array:
  """1 + α·log(1 + exp c): errors weigh more the surer they have become.

  Args:
    shift: f32[B], c, see `confidence_shift`.
    alpha: α.

  Returns:
    f32[B], at least 1 for α ≥ 0.

  Source: "Overconfident Errors Need Stronger Correction: Asymmetric Confidence
    Penalties for Reinforcement Learning", Xu et al., 2026, arXiv:2602.21420.

  Example:
    >>> error_multiplier(jnp.array([-1e4, 1e4]), 1.).tolist()
    [1.0, 10001.0]
  """
  return 1 + alpha * jax.nn.softplus(masking.as_float(shift))
