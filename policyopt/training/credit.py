"""Credit assignment: a method's three chains, run on one rollout."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax.numpy as jnp

from policyopt.credit.base import join_metrics
from policyopt.types import (
    Array,
    CreditTransform,
    Method,
    Metrics,
    Rollout,
    State,
    total_reward,
)


class Credit(NamedTuple):
  """What the update needs to know of a rollout.

  Attributes:
    rollout: the rollout with `extras['token_rewards']`, f32[B, T], the reward
      after the method's reward transforms, and with what `derived` adds.
    advantages: f32[B, T].
    weights: f32[B, T], ending in the method's aggregator.
  """
  rollout: Rollout
  advantages: Array
  weights: Array


def init_credit(method: Method) -> State:
  """The initial states of a method's credit transforms.

  Args:
    method: any.

  Returns:
    (rewards, advantages, weights, derived) states.
  """
  return tuple(part.init() for part in _parts(method))


def assign_credit(
    method: Method, state: State, rollout: Rollout) -> tuple[Credit, State]:
  """Turns rewards into advantages, and the loss mask into token weights.

  The reward chain starts from the sum of all channels, the advantage chain
  from the reward chain's result, the weight chain from the mask, and what the
  loss must know of the whole batch from the advantages.

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
  credit, state, _ = _assign(method, state, rollout)
  return credit, state


def credit_metrics(method: Method, state: State, rollout: Rollout) -> Metrics:
  """What the method's credit transforms report of a rollout.

  Compiled together with `assign_credit` on the same arguments it costs next
  to nothing: what both compute is computed once.

  Args:
    method: whose transforms report.
    state: as given to `assign_credit`.
    rollout: as given to `assign_credit`.

  Returns:
    name -> (sum, weight).

  Raises:
    ValueError: two transforms report the same name.
  """
  return join_metrics(
      part.metrics(x, part_state, seen)
      for part, x, part_state, seen in _assign(method, state, rollout)[2])


def method_needs(method: Method) -> frozenset[str]:
  """Everything that some part of a method asks for (see `types.NEEDS`)."""
  return frozenset().union(
      *(part.needs for part in (*_parts(method), method.loss)))


_NOTHING = CreditTransform(
    lambda: (), lambda x, state, rollout: ({}, state))


def _parts(method):
  return (method.rewards, method.advantages, method.weights,
          method.derived or _NOTHING)


def _assign(method, state, rollout):
  """(Credit, new state, what each part was given)."""
  chex.assert_rank(rollout.mask, 2)
  rewards, advantages, weights, derived = _parts(method)
  given, states = [], []

  def run(part, x):
    given.append((part, x, state[len(given)], rollout))
    x, new = part.update(x, given[-1][2], rollout)
    states.append(new)
    return x

  def extend(extras):
    return rollout._replace(extras={**rollout.extras, **extras})

  rollout = extend({'token_rewards': run(rewards, total_reward(rollout))})
  advantage = run(advantages, rollout.extras['token_rewards'])
  weight = run(weights, rollout.mask.astype(jnp.float32))
  rollout = extend(run(derived, advantage))
  return Credit(rollout, advantage, weight), tuple(states), given
