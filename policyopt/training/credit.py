"""Credit assignment: a method's three chains, run on one rollout."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from policyopt.types import Array, Method, Rollout, State


class Credit(NamedTuple):
  """What the update needs to know of a rollout.

  Attributes:
    rollout: the rollout with `extras['token_rewards']`, f32[B, T], the reward
      after the method's reward transforms.
    advantages: f32[B, T].
    weights: f32[B, T], ending in the method's aggregator.
  """
  rollout: Rollout
  advantages: Array
  weights: Array


def init_credit(method: Method) -> State:
  """The initial states of a method's reward, advantage and weight chains."""
  return (method.rewards.init(), method.advantages.init(),
          method.weights.init())


def assign_credit(
    method: Method, state: State, rollout: Rollout) -> tuple[Credit, State]:
  """Turns rewards into advantages, and the loss mask into token weights.

  The reward chain starts from the sum of all channels, the advantage chain
  from the reward chain's result, the weight chain from the mask.

  Args:
    method: whose chains are run.
    state: as `init_credit` or an earlier call returned it.
    rollout: B rows of T tokens.

  Returns:
    (Credit, new state).

  Example:
    >>> import jax.numpy as jnp
    >>> from policyopt import methods
    >>> from policyopt.types import Rollout
    >>> mask = jnp.array([[False, True], [False, True]])
    >>> rollout = Rollout(
    ...     tokens=jnp.ones((2, 2), jnp.int32), mask=mask,
    ...     log_probs=jnp.zeros((2, 2)), group=jnp.zeros(2, jnp.int32),
    ...     rewards={'accuracy': jnp.array([[0., 1.], [0., 0.]])})
    >>> method = methods.rloo(beta=0.)
    >>> credit, _ = assign_credit(method, init_credit(method), rollout)
    >>> credit.advantages.tolist()
    [[0.0, 1.0], [0.0, -1.0]]
  """
  chex.assert_rank(rollout.mask, 2)
  reward_state, advantage_state, weight_state = state
  # One pass over channels; an empty mapping is a reward of zero.
  total = jnp.zeros(rollout.mask.shape, jnp.float32)
  for name in sorted(rollout.rewards):
    total += rollout.rewards[name]
  rewards, reward_state = method.rewards.update(total, reward_state, rollout)
  rollout = rollout._replace(
      extras={**rollout.extras, 'token_rewards': rewards})
  advantages, advantage_state = method.advantages.update(
      rewards, advantage_state, rollout)
  weights, weight_state = method.weights.update(
      rollout.mask.astype(jnp.float32), weight_state, rollout)
  credit = Credit(rollout, advantages, weights)
  return credit, (reward_state, advantage_state, weight_state)


def method_needs(method: Method) -> frozenset[str]:
  """Everything that some part of a method asks for (see `types.NEEDS`)."""
  return frozenset().union(
      method.rewards.needs, method.advantages.needs, method.weights.needs,
      method.loss.needs)
