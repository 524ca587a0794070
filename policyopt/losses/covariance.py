"""Surrogates that treat the tokens of a set chosen over the whole batch apart.

The set is an array of `rollout.extras` that `Method.derived` supplies.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.losses import surrogate
from policyopt.ops import ratios
from policyopt.types import Loss, read_extra


def without_tokens_surrogate(
    dropped: str,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    *,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """The clipped surrogate, with 0 and no gradient for the tokens of a set.

  They keep their place in the mean that the weights take.

  Args:
    dropped: name of the set, bool[B, T], in `rollout.extras`.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far it may rise above 1.
    old: who sampled, as in `clipped_surrogate`.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss. Metrics: as `clipped_surrogate`.

  Raises:
    ValueError: an unknown `old`; at apply, the set is missing.

  Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning
    Language Models", Cui et al., 2025, arXiv:2505.22617 (Clip-Cov).
  """
  def objective(terms):
    gone = read_extra(terms.rollout, dropped, 'without_tokens_surrogate')
    ratio = jnp.exp(ratios.clamp(terms.log_ratio, log_ratio_limit))
    maximised = ratios.clipped_objective(
        ratio, terms.advantages, clip_low, clip_high)
    clipped = ratios.clipped_away(
        ratio, terms.advantages, clip_low, clip_high)
    return jnp.where(gone, 0, maximised), {
        **surrogate.ratio_metrics(ratio, terms.mask),
        **surrogate.clip_metrics(clipped, terms.advantages)}

  return surrogate.surrogate(
      objective, reader='without_tokens_surrogate', old=old)


def kl_on_tokens_surrogate(
    charged: str,
    coef: float,
    *,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·(ρₜAₜ − coef·|log ρₜ| on the tokens of a set); nothing is clipped.

  Args:
    charged: name of the set, bool[B, T], in `rollout.extras`.
    coef: price of the distance from who sampled.
    old: who sampled, as in `clipped_surrogate`.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap', 'ratio',
    'ratio/squared' and 'log_ratio/charged' (mean |log ρ| of the set).

  Raises:
    ValueError: an unknown `old`; at apply, the set is missing.

  Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning
    Language Models", Cui et al., 2025, arXiv:2505.22617 (KL-Cov).
  """
  def objective(terms):
    charge = read_extra(terms.rollout, charged, 'kl_on_tokens_surrogate')
    ratio = jnp.exp(ratios.clamp(terms.log_ratio, log_ratio_limit))
    # Not clamped: what has gone furthest is what the price must pull back. And
    # not jnp.abs, whose slope at 0 is 1: a token that has not moved is left.
    distance = jnp.maximum(terms.log_ratio, -terms.log_ratio)
    maximised = ratio * terms.advantages - coef * jnp.where(
        charge, distance, 0)
    return maximised, {
        **surrogate.ratio_metrics(ratio, terms.mask),
        'log_ratio/charged': (distance, charge)}

  return surrogate.surrogate(
      objective, reader='kl_on_tokens_surrogate', old=old)
