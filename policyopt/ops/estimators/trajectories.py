"""Returns of trajectories whose steps have their own discount, λ and ratio.

As everywhere, steps outside the mask are bridged: what runs backwards passes
through them unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


class VTrace(NamedTuple):
  """What `vtrace` makes of a batch of trajectories, each f32[B, T].

  Attributes:
    errors: Gₜ − Vₜ, the V-trace target less the value.
    advantages: min(ρₜ, ρ̄_pg)·(qₜ − Vₜ), for a policy gradient.
    q: qₜ, the estimate of the action's value.
  """
  errors: Array
  advantages: Array
  q: Array


def _scan(step, carry, mask, *arrays):
  """A reverse scan over T whose carry and outputs skip what is not chosen."""
  def guarded(carry, xs):
    chosen, *xs = xs
    live, *values = carry
    new, out = step(live, *values, *xs)
    values = [jnp.where(chosen, a, b) for a, b in zip(new, values)]
    return (live | chosen, *values), out

  xs = [x.T for x in (mask, *arrays)]
  live = jnp.zeros(mask.shape[0], bool)
  _, out = jax.lax.scan(guarded, (live, *carry), xs, reverse=True)
  return [masking.fill(x.T, mask) for x in out]


def _spread(x, like):
  return jnp.broadcast_to(jnp.asarray(x, like.dtype), like.shape)


@jax.jit
def lambda_returns(
    rewards: Array,
    discounts: Array,
    next_values: Array,
    mask: Array | None = None,
    *,
    lam: float | Array = 1.,
) -> Array:
  """Gₜ = rₜ + γₜ((1 − λₜ) V′ₜ + λₜ Gₜ₊₁), with V′ for G after the last step.

  Equals GAE plus the value when V′ₜ is the value of the next step; equals the
  bootstrapped discounted return when λ = 1.

  Args:
    rewards: f32[B, T], what step t earned.
    discounts: f32[B, T], γₜ of what comes after step t; 0 where it was the
      last of an episode.
    next_values: f32[B, T], V′ₜ, the value of the state that step t led to.
    mask: bool[B, T], steps that count; None: all of them.
    lam: λ, a number or f32[B, T].

  Returns:
    f32[B, T], 0 outside the mask.

  Source: "Reinforcement Learning: An Introduction", Sutton, Barto, 2018,
    chapter 12.

  Example:
    >>> one = jnp.ones((1, 2))
    >>> lambda_returns(one, .5 * one, 4 * one).tolist()
    [[2.5, 3.0]]
    >>> lambda_returns(one, .5 * one, 4 * one, lam=0.).tolist()
    [[3.0, 3.0]]
  """
  mask = jnp.ones(rewards.shape, bool) if mask is None else mask != 0
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((mask, rewards, discounts, next_values))
  rewards, discounts, next_values = (
      masking.fill(x, mask) for x in (rewards, discounts, next_values))

  def step(live, following, reward, discount, value, lam):
    following = jnp.where(live, following, value)
    g = reward + discount * ((1 - lam) * value + lam * following)
    return (g,), (g,)

  return _scan(step, (jnp.zeros_like(rewards[:, 0]),), mask, rewards,
               discounts, next_values, _spread(lam, rewards))[0]


@jax.jit
def vtrace(
    values: Array,
    rewards: Array,
    discounts: Array,
    ratios: Array,
    next_values: Array | None = None,
    mask: Array | None = None,
    *,
    lam: float | Array = 1.,
    clip_rho: float = 1.,
    clip_pg_rho: float = 1.,
) -> VTrace:
  """Targets Gₜ and advantages of a policy from another policy's trajectories.

  δₜ = min(ρₜ, ρ̄)·(rₜ + γₜ V′ₜ − Vₜ)
  Gₜ − Vₜ = δₜ + γₜ·λₜ·min(ρₜ, 1)·(Gₜ₊₁ − Vₜ₊₁)
  qₜ = rₜ + γₜ·(Vₜ₊₁ + λₜ·(Gₜ₊₁ − Vₜ₊₁)), after the last step rₜ + γₜ V′ₜ

  Equals the λ-returns, with GAE as the errors, when all ρ are 1.

  Args:
    values: f32[B, T], Vₜ, the value before step t.
    rewards: f32[B, T], what step t earned.
    discounts: f32[B, T], γₜ of what comes after step t; 0 where it was the
      last of an episode.
    ratios: f32[B, T], ρₜ, the policy's probability of the action over the
      probability with which it was taken.
    next_values: f32[B, T], V′ₜ, the value of the state that step t led to;
      None: that of the next step, and 0 after the last.
    mask: bool[B, T], steps that count; None: all of them.
    lam: λ, a number or f32[B, T].
    clip_rho: ρ̄, bound on the ratio in δ.
    clip_pg_rho: ρ̄_pg, bound on the ratio before the advantage.

  Returns:
    A VTrace, 0 outside the mask.

  Source: "IMPALA: Scalable Distributed Deep-RL with Importance Weighted
    Actor-Learner Architectures", Espeholt et al., 2018, arXiv:1802.01561.

  Example:
    >>> one = jnp.ones((1, 2))
    >>> vtrace(0 * one, one, .5 * one, 2 * one).advantages.tolist()
    [[1.5, 1.0]]
  """
  mask = jnp.ones(rewards.shape, bool) if mask is None else mask != 0
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((mask, values, rewards, discounts, ratios))
  values, rewards, discounts, ratios = (
      masking.fill(x, mask) for x in (values, rewards, discounts, ratios))
  given = next_values is not None
  next_values = masking.fill(next_values, mask) if given else values

  def step(live, error, later, value, reward, discount, ratio, after, lam):
    later = jnp.where(live, later, after if given else 0)
    after = after if given else later
    q = reward + discount * (later + lam * error)
    delta = jnp.minimum(ratio, clip_rho) * (reward + discount * after - value)
    error = delta + discount * lam * jnp.minimum(ratio, 1) * error
    advantage = jnp.minimum(ratio, clip_pg_rho) * (q - value)
    return (error, value), (error, advantage, q)

  zero = jnp.zeros_like(values[:, 0])
  return VTrace(*_scan(
      step, (zero, zero), mask, values, rewards, discounts, ratios,
      next_values, _spread(lam, rewards)))
