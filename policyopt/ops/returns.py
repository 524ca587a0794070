"""Returns to go and generalised advantages, backwards over tokens.

Tokens that the policy did not choose (prompt, observations, padding) are
BRIDGED: value and running return pass through them unchanged, so inserting
observation tokens changes nothing at the chosen ones.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


# Compiled, as every eager call of a scan would otherwise compile anew.
@jax.jit
def discounted_returns(
    rewards: Array, mask: Array, *, gamma: float = 1.) -> Array:
  """Gₜ = rₜ + γ Gₜ₊₁ over the chosen tokens.

  Args:
    rewards: f32[B, T]; what lies outside the mask is ignored.
    mask: bool[B, T], chosen tokens.
    gamma: discount per chosen token.

  Returns:
    f32[B, T], 0 outside the mask.

  Example:
    >>> rewards = jnp.array([[0., 0., 1.]])
    >>> mask = jnp.array([[True, False, True]])
    >>> discounted_returns(rewards, mask, gamma=0.5).tolist()
    [[0.5, 0.0, 1.0]]
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((rewards, mask))
  mask = jnp.asarray(mask) != 0
  rewards = masking.fill(rewards, mask)

  def step(running, xs):
    reward, chosen = xs
    running = jnp.where(chosen, reward + gamma * running, running)
    return running, running

  start = jnp.zeros_like(rewards[:, 0])
  _, returns = jax.lax.scan(step, start, (rewards.T, mask.T), reverse=True)
  return masking.fill(returns.T, mask)


@jax.jit
def generalized_advantages(
    rewards: Array,
    values: Array,
    mask: Array,
    *,
    gamma: float = 1.,
    lam: float = 1.,
) -> Array:
  """δₜ = rₜ + γ Vₜ₊₁ − Vₜ;  Aₜ = δₜ + γλ Aₜ₊₁ over the chosen tokens.

  Equals the return to go minus the value when λ = 1. Nothing is bootstrapped
  after the last chosen token. The value targets are Aₜ + Vₜ.

  Args:
    rewards: f32[B, T]; what lies outside the mask is ignored.
    values: f32[B, T], value before token t was chosen; ignored outside.
    mask: bool[B, T], chosen tokens.
    gamma: discount per chosen token.
    lam: decay of the advantage, λ.

  Returns:
    f32[B, T]; outside the mask the running advantage that passes through.

  Source: "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation", Schulman, Moritz, Levine, Jordan, Abbeel, 2015,
    arXiv:1506.02438.

  Example:
    >>> rewards = jnp.array([[0., 0., 1.]])
    >>> values = jnp.array([[.25, 9., .5]])
    >>> mask = jnp.array([[True, False, True]])
    >>> generalized_advantages(rewards, values, mask).tolist()
    [[0.75, 0.5, 0.5]]
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((rewards, values, mask))
  mask = jnp.asarray(mask) != 0
  rewards, values = masking.fill(rewards, mask), masking.fill(values, mask)

  def step(carry, xs):
    next_value, running = carry
    reward, value, chosen = xs
    delta = reward + gamma * next_value - value
    running = jnp.where(chosen, delta + gamma * lam * running, running)
    next_value = jnp.where(chosen, value, next_value)
    return (next_value, running), running

  zero = jnp.zeros_like(values[:, 0])
  _, advantages = jax.lax.scan(
      step, (zero, zero), (rewards.T, values.T, mask.T), reverse=True)
  return advantages.T
