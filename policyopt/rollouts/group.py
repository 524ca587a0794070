"""Rollout schemes that draw a group of responses to each prompt.

A scheme is a function (generate, env, plan, key) -> Rollout. It runs on the
host: `generate` is compiled, and every array it is given has the same shape in
every round of every step. Text stays with the environment: what comes back
from it are numbers.

Response g to entry i of the plan has the row id i * 2**12 + g, so no two rows
of a step share their random numbers, and a row's text depends on no other row.

Both schemes fill these extras: 'policy_log_probs', 'entropy' and, if tokens
were ruled out, 'kept', all [B, T...] from the sampler; 'truncated' bool[B],
'length' i32[B] response tokens; 'prompt' i32[B] id of the problem,
'plan_index' i32[B] entry of the plan; 'verdict' i32[B] of the environment;
'answer_id' i32[B] if it compares answers; 'rounds' i32[B], rounds of sampling
that the batch took. A task with turns is talked to: see `multi_turn`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policyopt.ops import segments
from policyopt.rollouts import judging, rows, traced
from policyopt.rollouts.flat import FlatRule, all_equal
from policyopt.rollouts.sampler import Samples
from policyopt.types import (
    Array,
    Environment,
    Feedback,
    Plan,
    Rollout,
    total_reward,
)

MAX_SAMPLES = 2**12


class Generate(NamedTuple):
  """A sampler with its model and parameters bound, as schemes receive it.

  Attributes:
    apply: (prompts, row_ids i32[N*G], key, max_tokens i32[N*G]) -> Samples;
      row n*G + g of the result is response g to prompt n. Consumes the key.
      For a task with turns also `turns` and `problem` i32[N*G].
    samples: G.
    greedy: the same with G = 1 and the most likely token each time, or None.
    chunks: pieces that the prompts of a round are drawn in; one is judged while
      the next is drawn. Divides N.
  """
  apply: Callable[..., Samples]
  samples: int
  greedy: Callable[..., Samples] | None = None
  chunks: int = 1


class _Round(NamedTuple):
  """Groups that were sampled and scored, in the order of the plan."""
  rollout: Rollout
  plan_index: np.ndarray
  flat: np.ndarray


def sample_groups() -> Callable[..., Rollout]:
  """The plain scheme: G responses to each prompt of the plan, once.

  A row that the environment could not score (verdict not 0) takes no part: its
  mask is False, its group -1 and its reward 0.

  Returns:
    (generate, env, plan, key) -> Rollout of N*G rows, the group of a row being
    the position of its prompt in the plan. Consumes the key. It raises
    ValueError for a plan that asks for another number of samples than the
    sampler draws, or for hints; for a prompt that is empty or too long; and
    for a reward that is not finite.
  """
  return refill_flat_groups(1)


def refill_flat_groups(
    rounds: int, *, flat: FlatRule = all_equal) -> Callable[..., Rollout]:
  """Samples on until no group is flat, for `rounds` rounds at most.

  The plan holds `rounds` times the prompts of a batch. Each round samples the
  next N of them. A flat group would teach nothing; by default it is one of
  which fewer than two rows were scored or all scored rows earned the same.
  Rounds end when N groups that are not flat are found; after the last round
  the places that are left go to the first flat groups, which do no harm.
  Prompts that do not make it into the batch have a count of 0 in `feedback`.

  Equals `sample_groups` with rounds = 1.

  Args:
    rounds: the most rounds a step may take, at least 1.
    flat: (total reward f32[N, G], rows that were scored bool[N, G]) ->
      bool[N], the groups that are flat; `all_equal` or `all_at(reward)`.

  Returns:
    (generate, env, plan, key) -> Rollout of N*G rows with groups in the order
    of the plan; see `sample_groups`. Consumes the key: round r uses
    fold_in(key, r).

  Raises:
    ValueError: `rounds` is less than 1.

  Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", Yu
  et al., 2025, arXiv 2503.14476, dynamic sampling. There the rounds go on
  without a limit, and a batch that does not fill up is an error.
  """
  if rounds < 1:
    raise ValueError(f'rounds is {rounds}; it must be 1 or more')

  def scheme(generate: Generate, env: Environment, plan: Plan,
             key: Array) -> Rollout:
    if traced.is_traced(plan):
      return _traced(generate, env, plan, key, rounds, flat)
    plan = jax.tree.map(np.asarray, plan)
    _check_plan(plan, rounds, generate.samples)
    count = len(plan.prompt) // rounds
    best = None
    for index in range(rounds):
      entries = np.arange(index * count, (index + 1) * count)
      new = _sample_round(generate, env, plan, entries,
                          jax.random.fold_in(key, index), flat)
      best = new if best is None else _merge(best, new, generate.samples)
      if not best.flat.any():
        break
    return _with_rounds(best.rollout, index + 1)

  return scheme


def _traced(generate, env, plan, key, rounds, flat) -> Rollout:
  """The same inside a program, where only shapes can be checked."""
  count = len(plan.prompt) // rounds

  def sample(index):
    return traced.sample_groups(
        generate, env, plan, index * count + jnp.arange(count),
        jax.random.fold_in(key, index), flat=flat, to_rollout=rows.to_rollout,
        most=MAX_SAMPLES)

  best, taken = traced.refill(sample, generate.samples, rounds)
  return _with_rounds(best.rollout, taken)


def _with_rounds(rollout: Rollout, taken) -> Rollout:
  used = jnp.full(rollout.group.shape, taken, jnp.int32)
  return rollout._replace(extras={**rollout.extras, 'rounds': used})


def feedback(rollout: Rollout, advantages: Array, plan: Plan) -> Feedback:
  """What a planner learns from a batch: means over the rows of each prompt.

  Args:
    rollout: from a scheme of this module; rows with group -1 are left out.
    advantages: f32[B, T].
    plan: that the rollout came from, N prompts.

  Returns:
    Feedback of N prompts; all numbers are 0 for a prompt without rows.
  """
  size = plan.prompt.shape[0]
  counted = rollout.group >= 0
  # Rows that are left out belong to no segment.
  ids = jnp.where(counted, rollout.extras['plan_index'], -1)
  mask = rollout.mask.astype(advantages.dtype)

  def total(x):
    return segments.segment_sum(x, ids, size)

  count = total(counted.astype(advantages.dtype))
  tokens = total(mask.sum(axis=1))
  reward = total_reward(rollout).sum(axis=1)
  rows = jnp.maximum(count, 1)
  return Feedback(
      prompt=plan.prompt, success=total(reward) / rows,
      abs_advantage=total((jnp.abs(advantages) * mask).sum(axis=1))
      / jnp.maximum(tokens, 1),
      length=tokens / rows, count=count)


def check_chunks(chunks: int, prompts: int, samples: int,
                 shards: int = 1) -> None:
  """Raises ValueError when a round cannot be drawn in so many chunks.

  Args:
    chunks: of `Generate`.
    prompts: N of a round.
    samples: G, rows per prompt.
    shards: of the rows on the sampler's mesh.
  """
  total = prompts * samples
  if chunks < 1 or prompts % chunks or total % (chunks * shards):
    raise ValueError(
        f'rollout.chunks is {chunks}; it must be at least 1 and divide prompts '
        f'= {prompts}, and each chunk of the {total} rows must be a multiple '
        f"of the {shards} shards of the sampler's mesh ('data' x 'fsdp')")


def _check_plan(plan: Plan, rounds: int, samples: int) -> None:
  if not 1 <= samples <= MAX_SAMPLES:
    raise ValueError(
        f'samples per prompt is {samples}; it must be in [1, {MAX_SAMPLES}]')
  if not len(plan.prompt) or len(plan.prompt) % rounds:
    raise ValueError(
        f'plan.prompt has {len(plan.prompt)} entries; {rounds} rounds need a '
        f'positive multiple of {rounds} (see planning.oversample)')
  for name, bad, wanted in (
      ('samples', (plan.samples != 0) & (plan.samples != samples),
       f'0 or {samples}, which is what the sampler draws'),
      ('hint', plan.hint != 0, '0, because this scheme reveals no hints'),
      ('max_tokens', plan.max_tokens < 0, '0 (no limit) or more')):
    if bad.any():
      entry = int(np.argmax(bad))
      value = getattr(plan, name)[entry]
      raise ValueError(f'plan.{name}[{entry}] is {value}; it must be {wanted}')


def _sample_round(generate, env, plan, entries, key, flat) -> _Round:
  """Samples and scores the given entries of the plan.

  The devices have the next chunk to draw while the host judges one. Chunks
  change nothing but what the sampler rounds otherwise in fewer rows.
  """
  parts, waiting = [], None
  for chunk in (*np.split(np.arange(len(entries)), generate.chunks), None):
    drawn = None
    if chunk is not None:
      drawn = chunk, *_draw(generate, env, plan, entries[chunk], key)
    if waiting is not None:
      parts.append(_judged(generate, env, entries, flat, *waiting))
    waiting = drawn
  if len(parts) == 1:
    return parts[0]
  return _Round(rows.join([part.rollout for part in parts]), entries,
                np.concatenate([part.flat for part in parts]))


def _draw(generate, env, plan, entries, key):
  """(problem of each row, length of its prompt, Samples); waits for nothing."""
  samples = generate.samples
  prompts = judging.read_prompts(env, plan.prompt[entries])
  plan_index = np.repeat(entries, samples).astype(np.int32)
  member = np.tile(np.arange(samples, dtype=np.int32), len(entries))
  problem = plan.prompt[plan_index].astype(np.int32)
  drawn = generate.apply(
      prompts, plan_index * MAX_SAMPLES + member, key,
      plan.max_tokens[plan_index].astype(np.int32),
      **traced.partner(env, problem))
  return problem, np.repeat(prompts.length, samples), drawn


def _judged(generate, env, entries, flat, chunk, problem, start, drawn):
  """_Round of some places of `entries`."""
  samples = generate.samples
  judged = judging.judge(env, problem, drawn, start)
  group = np.repeat(chunk, samples).astype(np.int32)
  extras = dict(
      prompt=problem, verdict=judged.verdict,
      plan_index=np.repeat(entries[chunk], samples).astype(np.int32))
  if judged.answer is not None:
    extras['answer_id'] = judged.answer
  rollout = rows.to_rollout(
      drawn, start, judged.rewards, np.where(judged.verdict == 0, group, -1),
      extras)
  total, scored = (x.reshape(-1, samples) for x in (
      sum(judged.rewards.values()), judged.verdict == 0))
  return _Round(rollout, entries[chunk], flat(total, scored))


def _merge(old: _Round, new: _Round, samples: int) -> _Round:
  """The best N of 2N groups: those that are not flat, then plan order."""
  plan_index = np.concatenate([old.plan_index, new.plan_index])
  flat = np.concatenate([old.flat, new.flat])
  best = np.sort(np.lexsort((plan_index, flat))[:len(old.flat)])
  places = (best[:, None] * samples + np.arange(samples)[None, :]).reshape(-1)
  group = np.repeat(np.arange(len(best), dtype=np.int32), samples)
  rollout = rows.take(old.rollout, new.rollout, places)
  rollout = rollout._replace(group=jnp.where(rollout.group >= 0, group, -1))
  return _Round(rollout, plan_index[best], flat[best])
