"""The rollout schemes of `group`, inside a program that is being traced.

A task of pure JAX functions needs no host: its problems, samples and rewards
stay on the device, so a whole training run can be one program. Numbers are
those of the host's schemes. What only the host can see is not checked here:
every prompt must have 1 to `max_prompt` tokens; a row whose reward is not
finite takes no part, as one that could not be scored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.types import (
    Array,
    Environment,
    Plan,
    Prompts,
    Rollout,
    Scores,
)


class Groups(NamedTuple):
  """Groups that were sampled and scored, in the order of the plan.

  Attributes:
    rollout: of N*G rows.
    plan_index: i32[N], entries of the plan.
    flat: bool[N], groups that would teach nothing.
  """
  rollout: Rollout
  plan_index: Array
  flat: Array


def is_traced(plan: Plan) -> bool:
  """Whether a scheme is being traced, so that nothing may leave the device."""
  return isinstance(plan.prompt, jax.core.Tracer)


def check_pure(env: Environment) -> None:
  """Raises ValueError for a task that needs the host.

  Args:
    env: of the run.

  Raises:
    ValueError: the task is not made of JAX functions.
  """
  if not env.pure:
    raise ValueError(
        f'task {env.name!r} judges on the host, so it cannot be part of one '
        'program; use a task of pure JAX functions, or training.loop')


def refill(sample: Callable[[Array], Groups], samples: int,
           rounds: int) -> tuple[Groups, Array]:
  """Rounds of sampling until no group is flat, or there were `rounds`.

  Args:
    sample: round i32[] -> its Groups.
    samples: G.
    rounds: the most there may be.

  Returns:
    (the best N groups, rounds taken i32[]).
  """
  one = jnp.ones((), jnp.int32)
  best = sample(jnp.zeros((), jnp.int32))
  if rounds == 1:
    return best, one

  def go_on(carry):
    taken, best = carry
    return (taken < rounds) & best.flat.any()

  def again(carry):
    taken, best = carry
    return taken + 1, merge(best, sample(taken), samples)

  taken, best = jax.lax.while_loop(go_on, again, (one, best))
  return best, taken


def merge(old: Groups, new: Groups, samples: int) -> Groups:
  """The best N of 2N groups: those that are not flat, then plan order."""
  plan_index = jnp.concatenate([old.plan_index, new.plan_index])
  flat = jnp.concatenate([old.flat, new.flat])
  count = old.flat.shape[0]
  best = jnp.sort(jnp.lexsort((plan_index, flat))[:count])
  rows = (best[:, None] * samples + jnp.arange(samples)[None]).reshape(-1)
  rollout = jax.tree.map(
      lambda a, b: jnp.concatenate([a, b], axis=0)[rows],
      old.rollout, new.rollout)
  group = jnp.repeat(jnp.arange(count, dtype=jnp.int32), samples)
  rollout = rollout._replace(
      group=jnp.where(rollout.group >= 0, group, -1))
  return Groups(rollout, plan_index[best], flat[best])


def sample_groups(generate, env: Environment, plan: Plan, entries: Array,
                  key: Array, *, flat, to_rollout, most: int) -> Groups:
  """Samples and scores some entries of the plan.

  Args:
    generate: a `group.Generate` that may be traced.
    env: pure.
    plan: N or more entries.
    entries: i32[N] of the plan.
    key: consumed.
    flat: (total reward [N, G], scored [N, G]) -> bool[N].
    to_rollout: `rows.to_rollout`.
    most: the most samples a prompt may have; row g of entry i has the id
      i * most + g.

  Returns:
    Groups.
  """
  samples, count = generate.samples, entries.shape[0]
  prompts = padded(env, plan.prompt[entries])
  plan_index = jnp.repeat(entries.astype(jnp.int32), samples)
  member = jnp.tile(jnp.arange(samples, dtype=jnp.int32), count)
  problem = plan.prompt[plan_index].astype(jnp.int32)
  drawn = generate.apply(
      prompts, plan_index * most + member, key, plan.max_tokens[plan_index],
      **partner(env, problem))
  start = jnp.repeat(prompts.length, samples)
  if drawn.spoken is None:
    scores = env.score(problem, responses(drawn, start, env.max_prompt))
  else:
    scores = Scores({name: x.sum(axis=1)
                     for name, x in drawn.spoken.rewards.items()},
                    jnp.zeros(problem.shape, jnp.int32))
  rewards, verdict = checked(scores)
  group = jnp.repeat(jnp.arange(count, dtype=jnp.int32), samples)
  extras: dict[str, Any] = dict(
      prompt=problem, plan_index=plan_index, verdict=verdict)
  if scores.answer is not None:
    extras['answer_id'] = jnp.where(verdict == 0, scores.answer, -1)
  rollout = to_rollout(
      drawn, start, rewards, jnp.where(verdict == 0, group, -1), extras)
  total, scored = (x.reshape(-1, samples) for x in (
      sum(rewards.values()), verdict == 0))
  return Groups(rollout, entries, flat(total, scored))


def partner(env: Environment, problem: Array) -> dict[str, Any]:
  """Whom the rows of problems i32[B] talk to: further arguments of `apply`.

  Returns:
    A dict, empty for a task without turns.
  """
  return {} if env.turns is None else dict(turns=env.turns, problem=problem)


def padded(env: Environment, problem: Array) -> Prompts:
  """The prompts of problems i32[N] at the environment's full width."""
  tokens, length = env.reset(problem)
  tokens = tokens[:, :env.max_prompt]
  spare = env.max_prompt - tokens.shape[1]
  return Prompts(jnp.pad(tokens, ((0, 0), (0, spare))), length)


def responses(drawn, start: Array, width: int) -> Prompts:
  """The chosen tokens alone, as the environment reads them."""
  place = jnp.arange(drawn.tokens.shape[1] - width)[None]
  tokens = jnp.take_along_axis(drawn.tokens, start[:, None] + place, axis=1)
  return Prompts(
      jnp.where(place < drawn.length[:, None], tokens, 0), drawn.length)


def checked(scores) -> tuple[dict[str, Array], Array]:
  """Finite rewards {name: f32[B]}, and the verdict i32[B]."""
  verdict = jnp.asarray(scores.verdict, jnp.int32)
  finite = jnp.ones(verdict.shape, bool)
  for value in scores.rewards.values():
    finite &= jnp.isfinite(value)
  verdict = jnp.where((verdict == 0) & ~finite, 2, verdict)
  return {name: jnp.where(verdict == 0, value, 0.).astype(jnp.float32)
          for name, value in scores.rewards.items()}, verdict
