"""A price of the distance from the reference that follows that distance."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.advantages import taking_part
from policyopt.credit.rewards import check_kl, kl_in_reward, reference_kl
from policyopt.names import check_name
from policyopt.ops import controllers, masking
from policyopt.types import Array, CreditTransform

MEASURES = ('sequence', 'token')


class AdaptiveKLState(NamedTuple):
  """State of `adaptive_kl_in_reward`.

  Attributes:
    beta: f32[], the price of the next batch.
  """
  beta: Array


def adaptive_kl_in_reward(
    beta: float,
    *,
    target: float = 6.,
    horizon: int = 10_000,
    measure: str = 'sequence',
    estimator: str = 'k1',
    policy: str = 'log_probs',
    limit: float = 0.2,
) -> CreditTransform:
  """rₜ − β·KLₜ, then β ← β·(1 + clip(KL / target − 1, ±limit)·n / horizon).

  KL is the mean over the batch's n rows. A batch is charged at the price that
  the batches before it have left.

  Args:
    beta: the first β.
    target: the KL to hold, in nats.
    horizon: rows after which β may have changed by about a factor of
      exp(±limit).
    measure: a row's KL: 'sequence', the sum over its tokens (the paper), or
      'token', their mean (verl).
    estimator: 'k1', 'k2', 'k3' or 'abs' (see `ops.kl_estimate`).
    policy: whose tokens they are: 'log_probs', the sampler's, or
      'old_log_probs', the learner's before its update.
    limit: largest relative error that counts.

  Returns:
    A CreditTransform for rewards whose state is an `AdaptiveKLState`. Metrics:
    'adaptive_kl/beta' and 'adaptive_kl/kl'.

  Raises:
    ValueError: an unknown `measure`, `policy` or `estimator`, or β, target or
      horizon is not positive.

  Source: "Fine-Tuning Language Models from Human Preferences", Ziegler et al.,
    2019, arXiv:1909.08593.
  """
  check_name('measure', measure, MEASURES)
  for name, value in (
      ('beta', beta), ('target', target), ('horizon', horizon)):
    if not value > 0:
      raise ValueError(f'{name} is {value}; it must be a positive number')
  needs = check_kl(estimator, policy)

  def distance(rollout):
    """KL of the tokens, its sum over rows, and the number of rows."""
    kl = reference_kl(
        rollout, estimator, policy, reader='adaptive_kl_in_reward')
    mask = taking_part(rollout)
    reduce = (masking.masked_sum if measure == 'sequence'
              else masking.masked_mean)
    rows = jnp.sum(jnp.any(mask, axis=1).astype(kl.dtype))
    return kl, jnp.sum(reduce(kl, mask, axis=1)), rows

  def init():
    return AdaptiveKLState(jnp.asarray(beta, jnp.float32))

  def update(x, state, rollout):
    kl, total, rows = distance(rollout)
    new = controllers.adapt_coefficient(
        state.beta, masking.safe_divide(total, rows), target, count=rows,
        horizon=horizon, limit=limit)
    return x - state.beta * kl, AdaptiveKLState(new)

  def metrics(x, state, rollout):
    del x
    _, total, rows = distance(rollout)
    return {'adaptive_kl/beta': (state.beta * rows, rows),
            'adaptive_kl/kl': (total, rows)}

  return CreditTransform(init, update, needs, metrics)


def kl_price(
    beta: float,
    *,
    estimator: str = 'k1',
    target: float | None = None,
    horizon: int = 10_000,
    measure: str = 'sequence',
) -> CreditTransform:
  """The reward transform of recipes that charge for the KL, or may not.

  Args:
    beta: β; 0 charges nothing and needs no reference model.
    estimator: 'k1', 'k2', 'k3' or 'abs' (see `ops.kl_estimate`).
    target: the KL that β is adapted to, in nats; None keeps β as it is.
    horizon: as in `adaptive_kl_in_reward`.
    measure: as in `adaptive_kl_in_reward`.

  Returns:
    `identity()`, `kl_in_reward` or `adaptive_kl_in_reward`.

  Raises:
    ValueError: a target with β = 0, which no factor changes, or as these.

  Example:
    >>> sorted(kl_price(0.).needs), sorted(kl_price(.1).needs)
    ([], ['ref_log_probs'])
  """
  if target is not None:
    return adaptive_kl_in_reward(
        beta, target=target, horizon=horizon, measure=measure,
        estimator=estimator)
  return kl_in_reward(beta, estimator=estimator) if beta else base.identity()
