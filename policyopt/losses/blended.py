"""Two advantages of the same tokens under one clip."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.losses import base, surrogate
from policyopt.ops import masking, ratios
from policyopt.types import Loss, read_extra


def blended_surrogate(
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    *,
    dual_clip: float | None = None,
    global_coef: float = 1.,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·(vₜ·clip(ρₜ, Aₜ) + coef·(1 − vₜ)·clip(ρₜ, Gₜ)).

  clip(ρ, A) is the clipped objective of PPO (`ops.clipped_objective`), A the
  advantage and G another one of the same token, v how much A counts.

  Equals `clipped_surrogate` where v = 1.

  Args:
    clip_low: how far the ratio may fall below 1.
    clip_high: how far it may rise above 1.
    dual_clip: c: where an advantage is negative its term is no smaller than c
      times it; None: no bound.
    global_coef: coef, weight of the second term.
    old: who sampled: 'log_probs', the sampler's, or 'old_log_probs', the
      learner's before its update.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss; reads 'global_advantages' (G) and 'local_weight' (v), f32[B, T],
    which a method's `derived` supplies. Metrics: those of `clipped_surrogate`
    with A, and 'clip_fraction/global' with G.

  Raises:
    ValueError: an unknown `old`.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.
  """
  plain = surrogate.clipped_surrogate(
      clip_low, clip_high, dual_clip=dual_clip, old=old,
      log_ratio_limit=log_ratio_limit)

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    sampled = rollout.log_probs
    if old != 'log_probs':
      sampled = read_extra(rollout, old, 'blended_surrogate')
    other = masking.fill(
        read_extra(rollout, 'global_advantages', 'blended_surrogate'), mask)
    share = masking.fill(
        read_extra(rollout, 'local_weight', 'blended_surrogate'), mask)
    ratio = jnp.exp(ratios.log_ratio(
        policy.log_probs, sampled, mask, limit=log_ratio_limit))

    def objective(of):
      return ratios.clipped_objective(
          ratio, of, clip_low, clip_high, dual_clip=dual_clip)

    blend = share * objective(masking.fill(advantages, mask))
    blend = blend + global_coef * (1 - share) * objective(other)
    loss = base.weighted_sum(-blend, weights, mask)
    # The compiler drops the plain loss, of which only the metrics are used.
    metrics = dict(plain.apply(policy, advantages, weights, rollout)[1])
    clipped = ratios.clipped_away(ratio, other, clip_low, clip_high)
    metrics['loss/policy'] = base.loss_metric(loss, weights)
    metrics['clip_fraction/global'] = base.mean_metric(
        clipped, mask & (weights != 0) & (other != 0))
    return loss, metrics

  return Loss(apply, plain.needs)
