"""Surrogates whose gradient is the policy gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from policyopt.losses import base
from policyopt.ops import divergences, masking, ratios
from policyopt.types import Array, Loss, Metrics, Rollout, read_extra

OLD = ('log_probs', 'old_log_probs')


class Terms(NamedTuple):
  """What token surrogates are made of; everything is 0 outside the mask.

  Attributes:
    log_probs: f32[B, T], of the policy being trained.
    sampled: f32[B, T], of the policy that sampled; constants.
    log_ratio: f32[B, T], their difference, not clamped.
    advantages: f32[B, T].
    mask: bool[B, T], chosen tokens.
    rollout: the rollout.
  """
  log_probs: Array
  sampled: Array
  log_ratio: Array
  advantages: Array
  mask: Array
  rollout: Rollout


# Terms -> (what is maximised [B, T], {metric: (values [B, T], where [B, T])}).
Objective = Callable[
    [Terms], tuple[Array, Mapping[str, tuple[Array, Array]]]]


def check_choices(*choices: tuple[str, object, tuple]) -> None:
  """Raises ValueError for a value that is none of those allowed.

  Args:
    *choices: (argument, value, what it may be).

  Raises:
    ValueError: a value is not allowed; names the argument and what may be.

  Example:
    >>> check_choices(('old', 'log_probs', OLD))
  """
  for argument, value, allowed in choices:
    if value not in allowed:
      raise ValueError(f'{argument} is {value!r}; it must be one of {allowed}')


def drift_metrics(log_probs: Array, sampled: Array, mask: Array) -> Metrics:
  """How far the policy is from who sampled: 'kl/sampler', 'log_prob_gap'.

  Args:
    log_probs: f32[B, T], of the policy being trained.
    sampled: f32[B, T], at sampling.
    mask: bool[B, T], tokens that count.

  Returns:
    The two metrics.
  """
  sampled = masking.fill(sampled, mask)
  log_probs = masking.fill(log_probs, mask)
  # k3 with the sampler in the first place: E over its tokens of ρ − 1 − log ρ.
  kl = divergences.kl_estimate(sampled, log_probs, value='k3')
  return {
      'kl/sampler': base.mean_metric(kl, mask),
      'log_prob_gap': base.mean_metric(jnp.abs(log_probs - sampled), mask)}


def ratio_metrics(ratio: Array, mask: Array) -> dict:
  """'ratio' and 'ratio/squared', from which the effective sample size comes.

  Args:
    ratio: f32[B, T].
    mask: bool[B, T], tokens that count.

  Returns:
    The metrics of an `Objective`.
  """
  return {'ratio': (ratio, mask), 'ratio/squared': (jnp.square(ratio), mask)}


def clip_metrics(clipped: Array, advantages: Array) -> dict:
  """'clip_fraction/positive' and '/negative', by the sign of A.

  Args:
    clipped: bool[B, T], where a bound has taken the gradient away.
    advantages: f32[B, T].

  Returns:
    The metrics of an `Objective`.
  """
  return {'clip_fraction/positive': (clipped, advantages > 0),
          'clip_fraction/negative': (clipped, advantages < 0)}


def surrogate(
    objective: Objective,
    *,
    reader: str,
    old: str = 'log_probs',
    needs: frozenset[str] = frozenset(),
) -> Loss:
  """Σ −wₜ·oₜ for an objective oₜ of the token's terms.

  Args:
    objective: see `Objective`.
    reader: name of the loss, for messages.
    old: who sampled: 'log_probs', the sampler's, or 'old_log_probs', the
      learner's before its update.
    needs: what the objective reads besides.

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap' (mean
    |log π − log π_sampler|), and those of the objective.

  Raises:
    ValueError: an unknown `old`.
  """
  check_choices(('old', old, OLD))

  def apply(policy, advantages, weights, rollout):
    mask = rollout.mask
    sampled = rollout.log_probs
    if old != 'log_probs':
      sampled = read_extra(rollout, old, reader)
    log_ratio = ratios.log_ratio(policy.log_probs, sampled, mask, limit=None)
    terms = Terms(
        masking.fill(policy.log_probs, mask), masking.fill(sampled, mask),
        log_ratio, masking.fill(advantages, mask), mask, rollout)
    maximised, reported = objective(terms)
    loss = base.weighted_sum(-maximised, weights, mask)
    counted = mask & (weights != 0)
    metrics = {
        'loss/policy': base.loss_metric(loss, weights),
        **drift_metrics(policy.log_probs, rollout.log_probs, counted)}
    for name, (values, where) in reported.items():
      metrics[name] = base.mean_metric(values, counted & where)
    return loss, metrics

  return Loss(apply, frozenset(needs) | ({old} - {'log_probs'}))


def policy_gradient_loss() -> Loss:
  """Σ −wₜ·Aₜ·log π(yₜ).

  Returns:
    A Loss. Metrics: 'loss/policy', 'kl/sampler', 'log_prob_gap'.

  Source: "Simple Statistical Gradient-Following Algorithms for Connectionist
    Reinforcement Learning", Williams, 1992, Machine Learning 8:229-256.
  """
  return surrogate(
      lambda terms: (terms.advantages * terms.log_probs, {}),
      reader='policy_gradient_loss')


def clipped_surrogate(
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    *,
    dual_clip: float | None = None,
    ratio_cap: float | None = None,
    level: str = 'token',
    gradient: str = 'sequence',
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
) -> Loss:
  """Σ −wₜ·min(ρₜAₜ, clip(ρₜ, 1 − clip_low, 1 + clip_high)·Aₜ).

  With level 'sequence' ρₜ is the row's geometric mean of the token ratios,
  with 'product' their product, which is the ratio of the whole responses.

  Args:
    clip_low: how far the ratio may fall below 1.
    clip_high: how far it may rise above 1; infinite for no bound.
    dual_clip: c: where A < 0 the term is no smaller than c·A; None: no bound.
    ratio_cap: δ: min(ρ, δ) takes the place of the unclipped ρ; None: no cap.
    level: 'token', 'sequence' or 'product'.
    gradient: for level 'sequence', see `ops.sequence_log_ratio`.
    old: who sampled: 'log_probs', the sampler's, or 'old_log_probs', the
      learner's before its update.
    log_ratio_limit: log ρ is clamped to ±limit before the exponential; None:
      only where that would overflow.

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
  check_choices(('level', level, ('token', 'sequence', 'product')),
                ('gradient', gradient, ('sequence', 'token')))

  def objective(terms):
    log_ratio = terms.log_ratio
    if level == 'sequence':
      # The limit belongs to the exponent; single tokens enter the mean as is.
      log_ratio = ratios.sequence_log_ratio(
          log_ratio, terms.mask, gradient=gradient)
    elif level == 'product':
      log_ratio = ratios.sequence_log_weight(
          log_ratio, terms.mask, limit=None)
    ratio = divergences.bounded_exp(log_ratio, log_ratio_limit)
    maximised = ratios.clipped_objective(
        ratio, terms.advantages, clip_low, clip_high, dual_clip=dual_clip,
        ratio_cap=ratio_cap)
    clipped = ratios.clipped_away(
        ratio, terms.advantages, clip_low, clip_high)
    return maximised, {**ratio_metrics(ratio, terms.mask),
                       **clip_metrics(clipped, terms.advantages)}

  return surrogate(objective, reader='clipped_surrogate', old=old)
