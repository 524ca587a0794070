"""Held-out evaluation: pass@k, majority votes and lengths with intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policyopt.ops import statistics
from policyopt.rollouts import group, hosts
from policyopt.types import Array, Environment, Plan

# A row counts as solved from this total reward on.
SOLVED = 1.0 - 1e-6


class Evaluation(NamedTuple):
  """What N held-out problems gave, S samples each.

  Attributes:
    solved: bool[N, S].
    scored: bool[N, S], False where the verifier failed.
    answer: i32[N, S], equal for equal answers to a problem; -1 where there
      is none or the verifier failed.
    length: i32[N, S], response tokens.
    truncated: bool[N, S], reached the length limit.
  """
  solved: np.ndarray
  scored: np.ndarray
  answer: np.ndarray
  length: np.ndarray
  truncated: np.ndarray


def evaluate(generate: group.Generate, env: Environment, problems: int,
             prompts: int, key: Array,
             interrupt: Callable[[], None] = lambda: None) -> Evaluation:
  """Samples and judges problems 0 ... `problems` - 1 of an environment.

  Args:
    generate: draws S samples per prompt.
    env: held-out problems.
    problems: N, how many.
    prompts: per call of `generate`; the shape that it was compiled for.
    key: consumed; problem i is sampled alike whatever `prompts` is only if
      the calls have the same shape.
    interrupt: called before each call of `generate`; may raise.

  Returns:
    Evaluation; alike in all processes, each of which has judged its own rows.
  """
  if env.size is not None and problems > env.size:
    raise ValueError(
        f'evaluation.problems is {problems}, but task {env.name!r} has only '
        f'{env.size} held-out problems')
  scheme = group.sample_groups()
  parts = []
  for start in range(0, problems, prompts):
    interrupt()
    ids = np.minimum(np.arange(start, start + prompts), problems - 1)
    zeros = np.zeros(prompts, np.int32)
    plan = Plan(ids.astype(np.int32), zeros, zeros.astype(np.float32), zeros)
    rollout = scheme(generate, env, plan, jax.random.fold_in(key, start))
    parts.append(_judged(_fetched(rollout), generate.samples))
  return jax.tree.map(lambda *xs: np.concatenate(xs)[:problems], *parts)


def summary(result: Evaluation, ks: tuple[int, ...] | None = None
            ) -> dict[str, Any]:
  """The numbers of an evaluation, each with its 95% interval over problems.

  Args:
    result: N problems, S samples each.
    ks: for pass@k; by default 1 and S.

  Returns:
    name -> number, or {'mean', 'low', 'high'} for 'pass@k', 'maj@S', 'length'.
  """
  samples = result.solved.shape[1]
  ks = ks or tuple(sorted({1, samples}))
  numbers: dict[str, Any] = {
      'problems': int(result.solved.shape[0]), 'samples': int(samples),
      'verifier_failures': int((~result.scored).sum()),
      'truncated': float(result.truncated.mean())}
  for k in ks:
    numbers[f'pass@{k}'] = _interval(pass_at(result, k))
  majority = statistics.maj_at_k(
      jnp.asarray(result.answer), jnp.asarray(result.solved))
  numbers[f'maj@{samples}'] = _interval(np.asarray(majority))
  numbers['length'] = _interval(result.length.mean(1))
  return numbers


def pass_at(result: Evaluation, k: int) -> np.ndarray:
  """Unbiased pass@k of each problem, f32[N]; NaN with fewer than k scored."""
  correct = (result.solved & result.scored).sum(1)
  return np.asarray(statistics.pass_at_k(
      jnp.asarray(correct), jnp.asarray(result.scored.sum(1)), k))


def gain(before: Evaluation, after: Evaluation, k: int) -> dict[str, float]:
  """Paired gain in pass@k on the same problems, with its 95% interval."""
  pair = np.stack([pass_at(before, k), pass_at(after, k)])
  pair = pair[:, ~np.isnan(pair).any(0)]
  return _numbers(statistics.paired_gain_interval(
      jnp.asarray(pair[0]), jnp.asarray(pair[1])))


def _fetched(rollout):
  """What is looked at, on the host."""
  names = [name for name in ('verdict', 'length', 'truncated', 'answer_id')
           if name in rollout.extras]
  tokens, rewards, extras = hosts.fetch((
      rollout.tokens, rollout.rewards,
      {name: rollout.extras[name] for name in names}))
  return rollout._replace(tokens=tokens, rewards=rewards, extras=extras)


def _judged(rollout, samples: int) -> Evaluation:
  rows = rollout.tokens.shape[0]
  # The form of a response, a channel of its own, solves nothing.
  rewards = rollout.rewards
  names = ('accuracy',) if 'accuracy' in rewards else sorted(rewards)
  reward = sum(np.asarray(rewards[name]).sum(1) for name in names)
  shape = (rows // samples, samples)
  scored = rollout.extras['verdict'] == 0
  return Evaluation(
      solved=(reward >= SOLVED).reshape(shape),
      scored=scored.reshape(shape),
      # A response without a verdict has no vote.
      answer=np.where(scored, _answer_ids(rollout), -1).reshape(shape),
      length=rollout.extras['length'].reshape(shape),
      truncated=rollout.extras['truncated'].reshape(shape))


def _answer_ids(rollout) -> np.ndarray:
  """i32[B]: rows with the same prompt and final answer share an id."""
  if 'answer_id' in rollout.extras:
    return rollout.extras['answer_id']
  # Then the whole response is the answer.
  _, ids = np.unique(rollout.tokens, axis=0, return_inverse=True)
  return ids.reshape(-1).astype(np.int32)


def _interval(x: np.ndarray) -> dict[str, float]:
  return _numbers(statistics.mean_interval(jnp.asarray(x[~np.isnan(x)])))


def _numbers(interval) -> dict[str, float]:
  return {name: float(value) for name, value in interval._asdict().items()}
