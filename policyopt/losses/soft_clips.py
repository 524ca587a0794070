"""Surrogates that bound the ratio without dropping the token's gradient."""

from __future__ import annotations

import math

import jax.numpy as jnp

from policyopt.losses import surrogate
from policyopt.ops import ratios
from policyopt.ops.surrogates import objectives
from policyopt.types import Loss

BOUNDS = ('both', 'upper')


def cispo_surrogate(
    clip_low: float = 1.,
    clip_high: float = 4.,
    *,
    bounds: str = 'both',
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·sg(clip(ρₜ))·Aₜ·log π(yₜ): a clipped weight on every token.

  Args:
    clip_low: for 'both', how far the weight may fall below 1.
    clip_high: for 'both', how far it may rise above 1; for 'upper', its
      largest value.
    bounds: 'both' clips to [1 − clip_low, 1 + clip_high], 'upper' takes
      min(ρ, clip_high).
    old: who sampled, as in `clipped_surrogate`.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss. Metrics: as `clipped_surrogate`.

  Raises:
    ValueError: an unknown `bounds` or `old`.

  Source: "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning
    Attention", 2025, arXiv:2506.13585.
  """
  surrogate.check_choices(('bounds', bounds, BOUNDS))
  low, high = 1 - clip_low, 1 + clip_high
  if bounds == 'upper':
    low, high = None, clip_high

  def objective(terms):
    ratio = jnp.exp(ratios.clamp(terms.log_ratio, log_ratio_limit))
    weight = ratios.clamp(ratio, (low, high))
    return objectives.weighted_likelihood(
        terms.log_probs, terms.advantages, weight), {
            **surrogate.ratio_metrics(ratio, terms.mask),
            **surrogate.clip_metrics(weight != ratio, terms.advantages)}

  return surrogate.surrogate(objective, reader='cispo_surrogate', old=old)


def gmpo_surrogate(
    clip_low: float = 0.4,
    clip_high: float = 0.4,
    *,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
    count_eps: float = 0.,
) -> Loss:
  """Σ −wₜ·Aₜ·exp(mean over the row of the one-sidedly clipped log ρ).

  Args:
    clip_low: how far log ρₜ may fall below 0 where A < 0.
    clip_high: how far it may rise above 0 where A > 0.
    old: who sampled, as in `clipped_surrogate`.
    log_ratio_limit: the mean is clamped to ±limit before the exponential.
    count_eps: added to the number of tokens that the mean divides by.

  Returns:
    A Loss. Metrics: as `clipped_surrogate`; 'ratio' is the row's.

  Raises:
    ValueError: an unknown `old`.

  Source: "Geometric-Mean Policy Optimization", 2025, arXiv:2507.20673.
  """
  def objective(terms):
    clipped = objectives.one_sided_clip(
        terms.log_ratio, terms.advantages, clip_low, clip_high)
    mean = ratios.sequence_log_ratio(
        clipped, terms.mask, count_eps=count_eps)
    ratio = jnp.exp(ratios.clamp(mean, log_ratio_limit))
    return ratio * terms.advantages, {
        **surrogate.ratio_metrics(ratio, terms.mask),
        **surrogate.clip_metrics(
            clipped != terms.log_ratio, terms.advantages)}

  return surrogate.surrogate(objective, reader='gmpo_surrogate', old=old)


def sapo_surrogate(
    tau_positive: float = 1.,
    tau_negative: float = 1.05,
    *,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·Aₜ·(4 / τ)·sigmoid(τ(ρₜ − 1)): a gate that closes smoothly.

  Args:
    tau_positive: τ where A > 0; the larger, the sooner the gate closes.
    tau_negative: τ elsewhere.
    old: who sampled, as in `clipped_surrogate`.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap', 'ratio',
    'ratio/squared', and 'gate', the mean factor 4σ(1 − σ) that the gate leaves
    of ρ·A·∇log π.

  Raises:
    ValueError: a temperature that is not positive, or an unknown `old`.

  Source: "Soft Adaptive Policy Optimization", 2025, arXiv:2511.20347.
  """
  for name, tau in (('tau_positive', tau_positive),
                    ('tau_negative', tau_negative)):
    if not tau > 0:
      raise ValueError(f'{name} is {tau}; it must be positive')

  def objective(terms):
    ratio = jnp.exp(ratios.clamp(terms.log_ratio, log_ratio_limit))
    gate = objectives.soft_gate(
        ratio, terms.advantages, tau_positive, tau_negative)
    tau = jnp.where(terms.advantages > 0, tau_positive, tau_negative)
    open_part = gate * tau / 4
    return gate * terms.advantages, {
        **surrogate.ratio_metrics(ratio, terms.mask),
        'gate': (4 * open_part * (1 - open_part), terms.mask)}

  return surrogate.surrogate(objective, reader='sapo_surrogate', old=old)


# What VESPO's authors keep the weight of a response within.
VESPO_LIMIT = (math.log(1e-8), 20.)


def vespo_surrogate(
    positive: tuple[float, float] = (2., 3.),
    negative: tuple[float, float] = (3., 2.),
    *,
    old: str = 'log_probs',
    token_limit: ratios.Limit = 20.,
    limit: ratios.Limit = VESPO_LIMIT,
) -> Loss:
  """Σ −wₜ·φ(W)·Aₜ·log π(yₜ), W the ratio of the whole response.

  φ(W) = Wᵏ·exp(λ(1 − W)), a constant.

  Args:
    positive: (k, λ) where A ≥ 0.
    negative: (k, λ) where A < 0.
    old: who sampled, as in `clipped_surrogate`.
    token_limit: each log ρₜ is clamped to ±limit before they are added.
    limit: log W is clamped to it.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap', 'weight'
    (mean φ) and 'log_weight' (mean log W).

  Raises:
    ValueError: an unknown `old`.

  Source: "VESPO: Variational Sequence-Level Soft Policy Optimization for
    Stable Off-Policy LLM Training", 2026, arXiv:2602.10693.
  """
  def objective(terms):
    log_weight = ratios.sequence_log_weight(
        terms.log_ratio, terms.mask, token_limit=token_limit, limit=limit)
    phi = objectives.gamma_weight(
        log_weight, terms.advantages, positive, negative)
    return objectives.weighted_likelihood(
        terms.log_probs, terms.advantages, phi), {
            'weight': (phi, terms.mask),
            'log_weight': (log_weight, terms.mask)}

  return surrogate.surrogate(objective, reader='vespo_surrogate', old=old)
