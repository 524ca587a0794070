"""Surrogates whose gradient is the policy gradient."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.losses import base
from policyopt.ops import divergences, masking, ratios
from policyopt.types import Array, Loss, Metrics, read_extra


def _drift(log_probs: Array, sampled: Array, mask: Array) -> Metrics:
  """How far the policy is from who sampled."""
  sampled = masking.fill(sampled, mask)
  log_probs = masking.fill(log_probs, mask)
  # k3 with the sampler in the first place: E over its tokens of ρ − 1 − log ρ.
  kl = divergences.kl_estimate(sampled, log_probs, value='k3')
  return {
      'kl/sampler': base.mean_metric(kl, mask),
      'log_prob_gap': base.mean_metric(jnp.abs(log_probs - sampled), mask)}


def policy_gradient_loss() -> Loss:
  """Σ −wₜ·Aₜ·log π(yₜ).

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap'.

  Source: "Simple Statistical Gradient-Following Algorithms for Connectionist
    Reinforcement Learning", Williams, 1992, Machine Learning 8:229-256.
  """
  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    log_probs = masking.fill(policy.log_probs, mask)
    loss = base.weighted_sum(
        -masking.fill(advantages, mask) * log_probs, weights, mask)
    counted = mask & (weights != 0)
    metrics = {
        'loss/policy': base.loss_metric(loss, weights),
        **_drift(log_probs, rollout.log_probs, counted),
    }
    return loss, metrics

  return Loss(apply)


def clipped_surrogate(
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    *,
    dual_clip: float | None = None,
    level: str = 'token',
    gradient: str = 'sequence',
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·min(ρₜAₜ, clip(ρₜ, 1 − clip_low, 1 + clip_high)·Aₜ).

  With level 'sequence' ρₜ is the row's geometric mean of the token ratios.

  Args:
    clip_low: how far the ratio may fall below 1.
    clip_high: how far it may rise above 1.
    dual_clip: c: where A < 0 the term is no smaller than c·A; None: no bound.
    level: 'token' or 'sequence'.
    gradient: for level 'sequence', see `ops.sequence_log_ratio`.
    old: who sampled: 'log_probs', the sampler's, or 'old_log_probs', the
      learner's before its update.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap' (mean
    |log π − log π_sampler|), 'ratio', 'ratio/squared' (ratio² / squared is the
    effective sample size as a fraction),
    'clip_fraction/positive' and 'clip_fraction/negative' by the sign of A.

  Raises:
    ValueError: an unknown `level`, `gradient` or `old`.

  Source: "Proximal Policy Optimization Algorithms", Schulman, Wolski,
    Dhariwal, Radford, Klimov, 2017, arXiv:1707.06347; level 'sequence':
    "Group Sequence Policy Optimization", Zheng et al., 2025, arXiv:2507.18071.
  """
  choices = (('level', level, ('token', 'sequence')),
             ('gradient', gradient, ('sequence', 'token')),
             ('old', old, ('log_probs', 'old_log_probs')))
  for argument, value, allowed in choices:
    if value not in allowed:
      raise ValueError(f'{argument} is {value!r}; it must be one of {allowed}')

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    sampled = rollout.log_probs
    if old != 'log_probs':
      sampled = read_extra(rollout, old, 'clipped_surrogate')
    if level == 'token':
      log_ratio = ratios.log_ratio(
          policy.log_probs, sampled, mask, limit=log_ratio_limit)
    else:
      # The limit belongs to the exponent; single tokens enter the mean as is.
      log_ratio = ratios.log_ratio(policy.log_probs, sampled, mask, limit=None)
      log_ratio = ratios.clamp(
          ratios.sequence_log_ratio(log_ratio, mask, gradient=gradient),
          log_ratio_limit)
    ratio = jnp.exp(log_ratio)
    advantages = masking.fill(advantages, mask)
    objective = ratios.clipped_objective(
        ratio, advantages, clip_low, clip_high, dual_clip=dual_clip)
    loss = base.weighted_sum(-objective, weights, mask)
    counted = mask & (weights != 0)
    clipped = ratios.clipped_away(ratio, advantages, clip_low, clip_high)
    metrics = {
        'loss/policy': base.loss_metric(loss, weights),
        **_drift(policy.log_probs, rollout.log_probs, counted),
        'ratio': base.mean_metric(ratio, counted),
        'ratio/squared': base.mean_metric(jnp.square(ratio), counted),
        'clip_fraction/positive': base.mean_metric(
            clipped, counted & (advantages > 0)),
        'clip_fraction/negative': base.mean_metric(
            clipped, counted & (advantages < 0)),
    }
    return loss, metrics

  return Loss(apply, frozenset({old} - {'log_probs'}))
