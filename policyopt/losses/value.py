"""Regression of the value head."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.losses import base
from policyopt.ops import masking, ratios, returns
from policyopt.types import Array, Loss, read_extra


def squared_value_errors(
    values: Array,
    old_values: Array,
    targets: Array,
    *,
    clip: float | None = None,
) -> tuple[Array, Array]:
  """½·max((v − G)², (v_old + clip(v − v_old, ±c) − G)²), and where it clipped.

  Args:
    values: f32[B, T], v.
    old_values: f32[B, T], v_old.
    targets: f32[B, T], G.
    clip: c; None leaves only the first term.

  Returns:
    (f32[B, T], bool[B, T]: the clipped term is the larger one).

  Example:
    >>> one = jnp.ones((1, 1))
    >>> squared_value_errors(3 * one, one, one, clip=.5)[0].tolist()
    [[2.0]]
  """
  errors = jnp.square(values - targets)
  if clip is None:
    return 0.5 * errors, jnp.zeros(errors.shape, bool)
  near = ratios.clamp(values - old_values, clip) + old_values
  clipped = jnp.square(near - targets)
  return 0.5 * jnp.maximum(errors, clipped), clipped > errors


def value_loss(
    *,
    coef: float = 1.,
    clip: float | None = None,
    gamma: float = 1.,
    lam: float = 1.,
    observations: str = 'bridge',
) -> Loss:
  """Σ wₜ·coef·½(vₜ − Gₜ)² with Gₜ = Aₜ + Vₜ, the λ-return of the old values.

  Args:
    coef: weight of the term.
    clip: c: v may move by at most c from its old value, as the worse of the
      two errors counts; None: no clip.
    gamma: discount per chosen token; as in the advantage.
    lam: λ; as in the advantage.
    observations: 'bridge', 'decay' or 'cut'; as in the advantage.

  Returns:
    A Loss; needs 'values' (before the update) and 'token_rewards'. Metrics:
    'loss/value', 'value', 'value/target' and 'clip_fraction/value'.

  Raises:
    ValueError: an unknown `observations`.

  Source: "Proximal Policy Optimization Algorithms", Schulman, Wolski,
    Dhariwal, Radford, Klimov, 2017, arXiv:1707.06347.
  """
  returns.check_observations(observations)

  def apply(policy, advantages, weights, rollout):
    del advantages
    mask = rollout.mask
    old = masking.fill(read_extra(rollout, 'values', 'value_loss'), mask)
    rewards = read_extra(rollout, 'token_rewards', 'value_loss')
    values = masking.fill(
        base.read_policy(policy, 'values', 'value_loss'), mask)
    targets = old + returns.generalized_advantages(
        rewards, old, mask, gamma=gamma, lam=lam, observations=observations)
    old, targets = jax.lax.stop_gradient((old, targets))
    errors, clipped = squared_value_errors(values, old, targets, clip=clip)
    loss = coef * base.weighted_sum(errors, weights, mask)
    counted = mask & (weights != 0)
    metrics = {
        'loss/value': base.loss_metric(loss, weights),
        'value': base.mean_metric(values, counted),
        'value/target': base.mean_metric(targets, counted),
        'clip_fraction/value': base.mean_metric(clipped, counted),
    }
    return loss, metrics

  return Loss(apply, frozenset({'values', 'token_rewards'}))
