"""A surrogate whose clip and advantage depend on the entropy of the token."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.losses import surrogate
from policyopt.ops import masking, ratios
from policyopt.ops.signals import entropy_scale
from policyopt.types import Loss, read_extra


def heterogeneous_surrogate(
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    *,
    clip_alpha: float = 1.,
    adv_beta: float = 1.,
    dual_clip: float | None = 10.,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """The clipped surrogate with a clip range and a factor on A for each token.

  With ĥ = extras['entropy_score'], in [−1, 1] and constant:

    ε_low ← ε_low·(1 − αĥ) where ĥ ≤ 0;  ε_high ← ε_high·(1 + αĥ) where ĥ > 0
    A ← A·(1 + βĥ) where ĥ > 0 and ρ is outside (1 − ε_low/2, 1 + ε_high/2),
      or ĥ ≤ 0 and ρ is inside

  Equals `clipped_surrogate` where ĥ = 0, and for α = β = 0.

  Args:
    clip_low: ε_low, how far a ratio may fall below 1.
    clip_high: ε_high, how far it may rise above 1.
    clip_alpha: α; 0 is one clip range for all tokens.
    adv_beta: β; 0 leaves the advantages as they are.
    dual_clip: c: where A < 0 the term is no smaller than c·A; None: no bound.
    old: who sampled: 'log_probs' or 'old_log_probs'.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss; `Method.derived` supplies 'entropy_score'. Metrics: those of
    `clipped_surrogate`, by the sign of the changed A, and
    'entropy_score/changed', the share of tokens whose A changed.

  Raises:
    ValueError: an unknown `old`, or a negative `clip_alpha` or `adv_beta`.

  Source: "From Uniform to Heterogeneous: Tailoring Policy Optimization to
    Every Token's Nature", Liu et al., 2025, arXiv:2509.16591.
  """
  for name, value in (('clip_alpha', clip_alpha), ('adv_beta', adv_beta)):
    if value < 0:
      raise ValueError(f'{name} is {value}; it must be 0 or more')

  def inner(low, high):
    return surrogate.clipped_surrogate(
        low, high, dual_clip=dual_clip, old=old,
        log_ratio_limit=log_ratio_limit)

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    score = masking.fill(read_extra(
        rollout, 'entropy_score', 'heterogeneous_surrogate'), mask)
    sampled = rollout.log_probs
    if old != 'log_probs':
      sampled = read_extra(rollout, old, 'heterogeneous_surrogate')
    ratio = jax.lax.stop_gradient(jnp.exp(ratios.log_ratio(
        policy.log_probs, sampled, mask, limit=log_ratio_limit)))
    low, high = entropy_scale.adaptive_clip(
        score, clip_low, clip_high, alpha=clip_alpha)
    advantages = masking.fill(advantages, mask)
    changed = entropy_scale.redistribute(
        advantages, score, ratio, low, high, beta=adv_beta)
    loss, metrics = inner(low, high).apply(policy, changed, weights, rollout)
    counted = (mask & (weights != 0)).astype(score.dtype)
    moved = counted * (changed != advantages)
    return loss, {
        **metrics,
        'entropy_score/changed': (jnp.sum(moved), jnp.sum(counted))}

  return Loss(apply, inner(clip_low, clip_high).needs)
