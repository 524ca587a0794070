"""The method that a dialect describes, made of the parts that recipes use.

A difference between two frameworks is thus a difference between two fields of
their dialects, and nowhere else.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, planning, rollouts
from policyopt.methods.framework_dialect import Dialect, check_dialect
from policyopt.ops import masking, ratios
from policyopt.types import CreditTransform, Loss, Method


def assemble(d: Dialect) -> Method:
  """The method that does what a dialect says.

  Args:
    d: the choices.

  Returns:
    A Method.

  Raises:
    ValueError: a choice that does not exist, or that others rule out.

  Example:
    >>> from policyopt.methods.frameworks import dialect
    >>> sorted(assemble(dialect('prime-rl', 'grpo')).loss.needs)
    []
  """
  check_dialect(d)
  return Method(
      rewards=_rewards(d),
      advantages=_advantages(d),
      weights=_weights(d),
      loss=_loss(d),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=1 if d.baseline == 'critic' else 2)


def _limits(d: Dialect) -> dict:
  return dict(
      k3_input_limit=d.k3_input_limit, k3_output_limit=d.k3_output_limit,
      input_limit=d.kl_input_limit, output_limit=d.kl_output_limit)


def _price(d: Dialect) -> CreditTransform:
  return credit.kl_in_reward(
      d.beta, estimator=d.kl, policy=d.old, **_limits(d))


def _clip(limit: float) -> CreditTransform:
  return credit.stateless(
      lambda x, rollout: ratios.clamp(masking.as_float(x), limit))


def _rewards(d: Dialect) -> CreditTransform:
  steps = []
  first = d.reward_clip_place == 'reward' or d.baseline == 'critic'
  if d.reward_clip is not None and first:
    steps.append(_clip(d.reward_clip))
  if d.beta and d.kl_place == 'reward':
    steps.append(_price(d))
  return credit.chain(*steps)


def _advantages(d: Dialect) -> CreditTransform:
  steps = [_baseline(d)]
  if d.whiten != 'none':
    guard = dict(eps=d.whiten_eps) if d.whiten_guard == 'add' else dict(
        eps=0., floor=d.whiten_eps)
    steps.append(credit.whiten(ddof=int(d.whiten == 'sample'), **guard))
  if d.importance is not None:
    # On the advantage it is a weight of the policy term alone: the clips of
    # ρ·wA are those of ρ·A, times w. The KL term and the means do not see it.
    steps.append(credit.importance_weights(
        d.importance, bound=d.importance_bound, cap=d.importance_cap,
        floor=d.importance_floor, bound_level=d.importance_judge,
        log_ratio_limit=d.importance_limit))
  return credit.chain(*steps)


def _baseline(d: Dialect) -> CreditTransform:
  if d.baseline == 'critic':
    return credit.gae(gamma=d.gamma, lam=d.lam, observations=d.observations)
  if d.baseline == 'group_mean':
    step = credit.group_standardize(
        std=d.std, eps=d.eps, singleton=d.singleton)
  elif d.std == 'others':
    step = credit.leave_one_out_standardize(eps=d.eps, singleton=d.singleton)
  else:
    step = credit.leave_one_out(singleton=d.singleton)
  if d.reward_clip is not None and d.reward_clip_place == 'score':
    step = credit.chain(step, _clip(d.reward_clip))
  if d.beta and d.kl_place == 'advantage':
    nothing = credit.stateless(
        lambda x, rollout: jnp.zeros_like(masking.as_float(x)))
    step = credit.add(step, credit.chain(
        nothing, _price(d),
        credit.reward_to_go(d.gamma, observations=d.observations)))
  return step


def _weights(d: Dialect) -> CreditTransform:
  mean = credit.aggregate(
      d.aggregation, length=d.max_tokens, empty_rows=d.empty_rows)
  return credit.chain(credit.drop_flat_groups(), mean) if d.drop_flat else mean


def _loss(d: Dialect) -> Loss:
  shared = dict(old=d.old, log_ratio_limit=d.log_ratio_limit)
  if d.trust_region == 'ratio':
    terms = [losses.clipped_surrogate(
        d.clip_low, d.clip_high, dual_clip=d.dual_clip, level=d.level,
        **shared)]
  else:
    terms = [losses.dppo_surrogate(
        d.clip_low, d.clip_high, ratio_cap=None, gradient='ratio',
        penalty=d.drift_penalty, **shared)]
  if d.beta and d.kl_place == 'loss':
    terms.append(losses.kl_penalty(
        d.beta, value=d.kl, gradient=d.kl_gradient,
        ratio_weighted=d.kl_ratio == 'old', score=d.kl_ratio == 'one',
        **shared, **_limits(d)))
  if d.baseline == 'critic':
    terms.append(losses.value_loss(
        coef=d.value_coef, clip=d.value_clip, gamma=d.gamma, lam=d.lam,
        observations=d.observations))
  if d.entropy_coef:
    terms.append(losses.entropy_bonus(d.entropy_coef))
  return losses.add(*terms)
