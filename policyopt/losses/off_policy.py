"""Surrogates for rows that an older policy sampled."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.losses import surrogate
from policyopt.ops import divergences, ratios
from policyopt.ops.surrogates import objectives, trust_region
from policyopt.types import Loss

GRADIENTS = ('likelihood', 'ratio')


def dppo_surrogate(
    max_fall: float = 0.15,
    max_rise: float = 0.15,
    *,
    divergence: str = 'tv',
    ratio_cap: float | None = 20.,
    gradient: str = 'likelihood',
    penalty: float = 0.,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·Mₜ·sg(min(ρₜ, c))·Aₜ·log π(yₜ), M drops what has moved too far.

  Args:
    max_fall: bound for tokens that become less likely, see
      `ops.divergence_mask`.
    max_rise: bound for tokens that become more likely.
    divergence: 'tv' or 'kl'.
    ratio_cap: c, or None.
    gradient: 'likelihood' as above; 'ratio' maximises M·ρ·A through ρ itself.
    penalty: of every token, dropped or not: penalty·(log ρ)².
    old: who sampled, as in `clipped_surrogate`.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential; None:
      only where that would overflow.

  Returns:
    A Loss. Metrics: as `clipped_surrogate`; clipped is what M drops.

  Raises:
    ValueError: an unknown `divergence`, `gradient` or `old`.

  Source: "Rethinking the Trust Region in LLM Reinforcement Learning", Qi et
    al., 2026, arXiv:2602.04879.
  """
  surrogate.check_choices(
      ('divergence', divergence, trust_region.DIVERGENCES),
      ('gradient', gradient, GRADIENTS))

  def objective(terms):
    ratio = divergences.bounded_exp(terms.log_ratio, log_ratio_limit)
    keep = trust_region.divergence_mask(
        terms.log_probs, terms.sampled, terms.advantages, max_fall, max_rise,
        divergence=divergence)
    weight = jnp.where(keep, ratios.clamp(ratio, (None, ratio_cap)), 0)
    if gradient == 'likelihood':
      maximised = objectives.weighted_likelihood(
          terms.log_probs, terms.advantages, weight)
    else:
      maximised = weight * terms.advantages
    if penalty:
      maximised = maximised - penalty * jnp.square(terms.log_ratio)
    return maximised, {**surrogate.ratio_metrics(ratio, terms.mask),
                       **surrogate.clip_metrics(~keep, terms.advantages)}

  return surrogate.surrogate(objective, reader='dppo_surrogate', old=old)


def dro_loss(beta: float, *, old: str = 'log_probs') -> Loss:
  """Σ −wₜ·(Aₜ·log π(yₜ) − ½β·(log ρₜ)²).

  Args:
    beta: β, the price of the distance from who sampled.
    old: who sampled, as in `clipped_surrogate`.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap' and
    'log_ratio/squared'.

  Raises:
    ValueError: an unknown `old`.

  Source: "Offline Regularised Reinforcement Learning for Large Language Models
    Alignment", Richemond et al., 2024, arXiv:2405.19107.
  """
  def objective(terms):
    maximised = objectives.quadratic_objective(
        terms.log_probs, terms.log_ratio, terms.advantages, beta)
    return maximised, {
        'log_ratio/squared': (jnp.square(terms.log_ratio), terms.mask)}

  return surrogate.surrogate(objective, reader='dro_loss', old=old)


def tapered_loss(
    positive: tuple[float, float] = (1., 1.),
    negative: tuple[float, float] = (0., 1.),
    *,
    old: str = 'log_probs',
) -> Loss:
  """Σ −wₜ·sg(clip(W, low, high))·Aₜ·log π(yₜ), W the response's ratio.

  Args:
    positive: (low, high) where A ≥ 0.
    negative: (low, high) where A < 0.
    old: who sampled, as in `clipped_surrogate`.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap',
    'weight/positive' and 'weight/negative' (mean weight by the sign of A).

  Raises:
    ValueError: a range whose bounds are negative or in the wrong order, or an
      unknown `old`.

  Source: "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement
    learning for LLMs", Le Roux et al., 2025, arXiv:2503.14286.
  """
  for name, (low, high) in (('positive', positive), ('negative', negative)):
    if not 0 <= low <= high:
      raise ValueError(
          f'{name} is ({low}, {high}); it must be a range 0 <= low <= high')

  def objective(terms):
    log_weight = ratios.sequence_log_weight(
        terms.log_ratio, terms.mask, limit=None)
    weight = objectives.tapered_weight(
        log_weight, terms.advantages, positive, negative)
    maximised = objectives.weighted_likelihood(
        terms.log_probs, terms.advantages, weight)
    return maximised, {'weight/positive': (weight, terms.advantages > 0),
                       'weight/negative': (weight, terms.advantages < 0)}

  return surrogate.surrogate(objective, reader='tapered_loss', old=old)
