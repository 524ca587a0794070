"""A baseline for each prompt: what the greedy response to it earns."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from policyopt.rollouts import group
from policyopt.types import Array, Environment, Plan, Rollout, total_reward


def with_greedy(scheme: Callable[..., Rollout]) -> Callable[..., Rollout]:
  """Adds extras['greedy_reward'] f32[B] to the rollouts of a scheme.

  One more response to each prompt of the plan is decoded greedily and judged;
  it is not learned from. A greedy response that could not be scored counts as
  0, a baseline like any other.

  Args:
    scheme: that the rollouts come from.

  Returns:
    (generate, env, plan, key) -> Rollout. Consumes the key. It raises
    ValueError if the sampler cannot decode greedily.

  Source: "ReMax: A Simple, Effective, and Efficient Reinforcement Learning
    Method for Aligning Large Language Models", Li et al., 2023,
    arXiv:2310.10505.
  """
  def wrapped(generate: group.Generate, env: Environment, plan: Plan,
              key: Array) -> Rollout:
    if generate.greedy is None:
      raise ValueError(
          'generate.greedy is None; with_greedy needs a sampler that decodes '
          'greedily')
    rollout_key, greedy_key = jax.random.split(key)
    rollout = scheme(generate, env, plan, rollout_key)
    once = plan._replace(samples=np.ones(len(plan.prompt), np.int32))
    greedy = group.sample_groups()(
        group.Generate(generate.greedy, 1), env, once, greedy_key)
    return rollout._replace(extras={
        **rollout.extras,
        'greedy_reward': _of_entry(greedy, rollout.extras['plan_index'])})

  return wrapped


@jax.jit
def _of_entry(greedy: Rollout, plan_index: Array) -> Array:
  """f32[B]: what the greedy response to each row's prompt earned."""
  return total_reward(greedy).sum(axis=1)[plan_index]
