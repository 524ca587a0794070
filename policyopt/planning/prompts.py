"""Planners that decide which prompts come next."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt.types import Array, Plan, Planner


class PromptState(NamedTuple):
  """Where in the data a `uniform_prompts` planner stands.

  Attributes:
    position: i32[], problems taken from the present order; without an end,
      problems taken in all.
    order: i32[size], the present epoch's order; empty without an end.
  """
  position: Array
  order: Array


def uniform_prompts(samples: int = 0) -> Planner:
  """Every problem once per epoch, in an order drawn anew for each epoch.

  Problems that never end are taken one after the other. The state is all that
  a resumed run needs to go on with the next problem.

  Args:
    samples: rollouts for each prompt; 0 means the trainer's own group size.

  Returns:
    A Planner that ignores feedback.

  Raises:
    ValueError: at init, when there are no problems.

  Example:
    >>> planner = uniform_prompts(samples=4)
    >>> state = planner.init(3)
    >>> plan, state = planner.propose(state, 6, jax.random.key(0))
    >>> sorted(plan.prompt[:3].tolist()), sorted(plan.prompt[3:].tolist())
    ([0, 1, 2], [0, 1, 2])
  """
  def init(size):
    if size is None:
      return PromptState(jnp.zeros((), jnp.int32), jnp.zeros((0,), jnp.int32))
    if size < 1:
      raise ValueError(f'size is {size}; an environment needs a problem')
    # A used-up epoch: the first proposal draws the first order.
    return PromptState(
        jnp.asarray(size, jnp.int32), jnp.arange(size, dtype=jnp.int32))

  def propose(state, count, key):
    size = state.order.shape[0]
    if size == 0:
      prompt = state.position + jnp.arange(count, dtype=jnp.int32)
      state = state._replace(position=state.position + count)
    else:
      prompt, state = _walk(state, count, key)
    plan = Plan(
        prompt=prompt,
        samples=jnp.full((count,), samples, jnp.int32),
        hint=jnp.zeros((count,), jnp.float32),
        max_tokens=jnp.zeros((count,), jnp.int32))
    return plan, state

  return Planner(init, propose, lambda state, feedback: state)


def _walk(state: PromptState, count: int, key: Array):
  """The next `count` problems, through as many new epochs as that takes."""
  size = state.order.shape[0]
  epochs = -(-count // size)
  keys = jax.random.split(key, epochs)
  orders = jax.vmap(lambda k: jax.random.permutation(k, size))(keys)
  orders = jnp.concatenate(
      [state.order[None], orders.astype(jnp.int32)], axis=0)
  prompt = jax.lax.dynamic_slice(
      orders.reshape(-1), (state.position,), (count,))
  end = state.position + count
  epoch = (end - 1) // size
  return prompt, PromptState(end - epoch * size, orders[epoch])


def oversample(planner: Planner, rounds: int) -> Planner:
  """Proposes `rounds` times as many prompts, for schemes that refill.

  The first `count` of them serve the first round, and so on. Prompts of rounds
  that never came are used up all the same.

  Args:
    planner: proposes the prompts.
    rounds: at least 1.

  Returns:
    A Planner with the state of `planner`.

  Raises:
    ValueError: `rounds` is less than 1.

  Example:
    >>> planner = oversample(uniform_prompts(), rounds=3)
    >>> plan, _ = planner.propose(planner.init(None), 2, jax.random.key(0))
    >>> plan.prompt.tolist()
    [0, 1, 2, 3, 4, 5]
  """
  if rounds < 1:
    raise ValueError(f'rounds is {rounds}; it must be at least 1')

  def propose(state, count, key):
    return planner.propose(state, count * rounds, key)

  return Planner(planner.init, propose, planner.update)
