"""Returns to go and generalised advantages, backwards over tokens.

Tokens that the policy did not choose (prompt, observations, padding) are
BRIDGED unless one asks otherwise: value and running return pass through them
unchanged, so inserting observation tokens changes nothing at the chosen ones.
Rows that hold several sequences name their last tokens in `dones`.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array

OBSERVATIONS = ('bridge', 'decay', 'cut')


def check_observations(observations: str) -> None:
  """Raises ValueError for an unknown rule.

  Args:
    observations: must be one of `OBSERVATIONS`.

  Raises:
    ValueError: it is not.

  Example:
    >>> check_observations('bridge')
  """
  if observations not in OBSERVATIONS:
    raise ValueError(
        f'observations is {observations!r}; it must be one of {OBSERVATIONS}')


def _enter(mask: Array, dones: Array | None, *arrays: Array):
  """The mask and the ends as bool, the arrays as floats that are 0 outside."""
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((mask, *arrays))
  mask = jnp.asarray(mask) != 0
  dones = jnp.zeros_like(mask) if dones is None else jnp.asarray(dones) != 0
  chex.assert_equal_shape((mask, dones))
  return mask, dones, *(masking.fill(x, mask) for x in arrays)


# Compiled, as every eager call of a scan would otherwise compile anew.
@functools.partial(jax.jit, static_argnames='observations')
def discounted_returns(
    rewards: Array,
    mask: Array,
    *,
    gamma: float = 1.,
    observations: str = 'bridge',
    dones: Array | None = None,
) -> Array:
  """Gₜ = rₜ + γ Gₜ₊₁ over the chosen tokens.

  Args:
    rewards: f32[B, T]; what lies outside the mask is ignored.
    mask: bool[B, T], chosen tokens.
    gamma: discount per chosen token.
    observations: what a token that was not chosen does to the return that runs
      through it: 'bridge' nothing, 'decay' costs one γ as a chosen token of
      reward 0 would, 'cut' lets nothing through.
    dones: bool[B, T], last tokens of the sequences that share a row; nothing
      passes from the next sequence. None: one sequence to a row.

  Returns:
    f32[B, T], 0 outside the mask.

  Raises:
    ValueError: an unknown `observations`.

  Example:
    >>> rewards = jnp.array([[0., 0., 1.]])
    >>> mask = jnp.array([[True, False, True]])
    >>> discounted_returns(rewards, mask, gamma=0.5).tolist()
    [[0.5, 0.0, 1.0]]
    >>> discounted_returns(
    ...     rewards, mask, gamma=0.5, observations='decay').tolist()
    [[0.25, 0.0, 1.0]]
  """
  check_observations(observations)
  mask, dones, rewards = _enter(mask, dones, rewards)

  def step(running, xs):
    reward, chosen, done = xs
    running = jnp.where(done, 0, running)
    passed = {'bridge': running, 'decay': gamma * running,
              'cut': jnp.zeros_like(running)}[observations]
    running = jnp.where(chosen, reward + gamma * running, passed)
    return running, running

  start = jnp.zeros_like(rewards[:, 0])
  _, returns = jax.lax.scan(
      step, start, (rewards.T, mask.T, dones.T), reverse=True)
  return masking.fill(returns.T, mask)


@functools.partial(jax.jit, static_argnames='observations')
def generalized_advantages(
    rewards: Array,
    values: Array,
    mask: Array,
    *,
    gamma: float = 1.,
    lam: float = 1.,
    observations: str = 'bridge',
    dones: Array | None = None,
) -> Array:
  """δₜ = rₜ + γ Vₜ₊₁ − Vₜ;  Aₜ = δₜ + γλ Aₜ₊₁ over the chosen tokens.

  Equals the return to go (under the same rule for observations) minus the
  value when λ = 1. Nothing is bootstrapped after the last chosen token. The
  value targets are Aₜ + Vₜ.

  Args:
    rewards: f32[B, T]; what lies outside the mask is ignored.
    values: f32[B, T], value before token t was chosen; ignored outside.
    mask: bool[B, T], chosen tokens.
    gamma: discount per chosen token.
    lam: decay of the advantage, λ.
    observations: what a token that was not chosen does to what runs through
      it: 'bridge' nothing (verl, Tunix, AReaL); 'decay' costs one γλ, as a
      chosen token of value 0 and reward 0 would (OpenRLHF, SkyRL, slime);
      'cut' lets nothing through, as the end of a sequence (open-instruct).
    dones: bool[B, T], last tokens of the sequences that share a row; nothing
      passes from the next sequence. None: one sequence to a row.

  Returns:
    f32[B, T]; outside the mask the running advantage that passes through.

  Raises:
    ValueError: an unknown `observations`.

  Source: "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation", Schulman, Moritz, Levine, Jordan, Abbeel, 2015,
    arXiv:1506.02438.

  Example:
    >>> rewards = jnp.array([[0., 0., 1.]])
    >>> values = jnp.array([[.25, 9., .5]])
    >>> mask = jnp.array([[True, False, True]])
    >>> generalized_advantages(rewards, values, mask).tolist()
    [[0.75, 0.5, 0.5]]
    >>> generalized_advantages(
    ...     rewards, values, mask, observations='cut').tolist()
    [[-0.25, 0.0, 0.5]]
  """
  check_observations(observations)
  mask, dones, rewards, values = _enter(mask, dones, rewards, values)

  def step(carry, xs):
    reward, value, chosen, done = xs
    next_value, running = (jnp.where(done, 0, x) for x in carry)
    delta = reward + gamma * next_value - value
    there = (value, delta + gamma * lam * running)
    # Outside the mask reward and value are 0, and `there` is what they give.
    passed = {'bridge': (next_value, running), 'decay': there,
              'cut': (jnp.zeros_like(running),) * 2}[observations]
    carry = tuple(jnp.where(chosen, a, b) for a, b in zip(there, passed))
    return carry, carry[1]

  zero = jnp.zeros_like(values[:, 0])
  _, advantages = jax.lax.scan(
      step, (zero, zero), (rewards.T, values.T, mask.T, dones.T), reverse=True)
  return advantages.T
