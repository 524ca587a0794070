"""Prompts from an environment and its verdicts on responses, checked.

With several processes each reads its share of the prompts and judges its own
rows; what they found out is gathered, a few numbers per row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from policyopt.rollouts import hosts
from policyopt.rollouts.sampler import Samples
from policyopt.types import Environment, Prompts, Scores


class Judged(NamedTuple):
  """What an environment made of all rows of a batch; alike in all processes.

  Attributes:
    rewards: channel name -> f32[B]; 0 where the verdict is not 0.
    verdict: i32[B].
    answer: i32[B], -1 where the verdict is not 0; None when the task extracts
      no answers.
  """
  rewards: dict[str, np.ndarray]
  verdict: np.ndarray
  answer: np.ndarray | None


def read_prompts(env: Environment, problem: np.ndarray) -> Prompts:
  """The prompts at the environment's full width, so that shapes never change.

  Args:
    env: that the problems belong to.
    problem: i32[N].

  Returns:
    Prompts of numpy arrays, tokens i32[N, max_prompt].

  Raises:
    ValueError: a prompt is empty or too long.
  """
  mine = hosts.share(len(problem))
  if len(mine):
    prompts = _padded_prompts(env, problem[mine])
  else:
    prompts = Prompts(np.empty((0, env.max_prompt), np.int32),
                      np.empty(0, np.int32))
  return Prompts(**hosts.gather_shares(prompts._asdict(), len(problem)))


def judge(env: Environment, problem: np.ndarray, drawn: Samples,
          start: np.ndarray) -> Judged:
  """Scores every response once, where it lies.

  Args:
    env: that judges.
    problem: i32[B] of each row.
    drawn: B rows.
    start: i32[B], length of each row's prompt.

  Returns:
    Judged.

  Raises:
    ValueError: the environment returned another shape than asked for, no
      channel, or a reward that is not finite.
  """
  owner = hosts.owners(drawn.tokens)
  mine = np.flatnonzero(owner == hosts.process())
  # Without a row of its own a process would not know the channels.
  rows = mine if len(mine) else hosts.some_row(drawn.tokens)
  tokens, length = (
      hosts.local_rows(x, rows) for x in (drawn.tokens, drawn.length))
  responses = _responses(tokens, length, start[rows], env.max_prompt)
  with hosts.own_device():
    if drawn.spoken is None:
      scores = env.score(problem[rows], responses)
    else:
      scores = _heard(drawn, rows)
    rewards, verdict = _checked_scores(env, scores, problem[rows])
    answer = _answers(env, scores, verdict)
  found = {f'reward {name}': value for name, value in rewards.items()}
  found['verdict'] = verdict
  if answer is not None:
    found['answer'] = answer
  found = hosts.gather_rows(
      {name: value[:len(mine)] for name, value in found.items()}, owner)
  return Judged({name: found[f'reward {name}'] for name in rewards},
                found['verdict'], found.get('answer'))


def _padded_prompts(env: Environment, problem: np.ndarray) -> Prompts:
  with hosts.own_device():
    tokens, length = (np.asarray(x, np.int32) for x in env.reset(problem))
  bad = (length < 1) | (length > min(env.max_prompt, tokens.shape[1]))
  if bad.any():
    index = int(np.argmax(bad))
    raise ValueError(
        f'{env.name}: the prompt of problem {problem[index]} has '
        f'{length[index]} tokens; it must have 1 to {env.max_prompt} '
        '(max_prompt)')
  tokens = tokens[:, :env.max_prompt]
  spare = env.max_prompt - tokens.shape[1]
  return Prompts(np.pad(tokens, ((0, 0), (0, spare))), length)


def _responses(tokens: np.ndarray, length: np.ndarray, start: np.ndarray,
               width: int) -> Prompts:
  """The chosen tokens alone, as the environment reads them."""
  place = np.arange(tokens.shape[1] - width)[None, :]
  tokens = np.take_along_axis(tokens, start[:, None] + place, axis=1)
  return Prompts(np.where(place < length[:, None], tokens, 0), length)


def _heard(drawn: Samples, rows: np.ndarray) -> Scores:
  """What the task has said already, while it was talked to."""
  return Scores(
      {name: hosts.local_rows(x, rows).sum(axis=1)
       for name, x in drawn.spoken.rewards.items()},
      np.zeros(len(rows), np.int32))


def _checked_scores(env: Environment, scores: Scores, problem: np.ndarray):
  """Rewards with zeros for rows that were not scored, and the verdict."""
  verdict = np.asarray(scores.verdict, np.int32)
  rewards = {name: np.asarray(value, np.float32)
             for name, value in scores.rewards.items()}
  if not rewards:
    raise ValueError(f'{env.name}: score() returned no reward channel')
  for name, value in (('verdict', verdict), *rewards.items()):
    if value.shape != problem.shape:
      raise ValueError(
          f'{env.name}: score() returned {name} of the shape {value.shape}; '
          f'{len(problem)} rows need {problem.shape}')
  for name, value in rewards.items():
    bad = (verdict == 0) & ~np.isfinite(value)
    if bad.any():
      row = int(np.argmax(bad))
      raise ValueError(
          f'{env.name}: the reward in channel {name!r} is {value[row]} in row '
          f'{row}, problem {problem[row]}; a row that was scored (verdict 0) '
          'needs a finite reward')
    rewards[name] = np.where(verdict == 0, value, np.float32(0))
  return rewards, verdict


def _answers(env: Environment, scores: Scores,
             verdict: np.ndarray) -> np.ndarray | None:
  if scores.answer is None:
    return None
  answer = np.asarray(scores.answer, np.int32)
  if answer.shape != verdict.shape:
    raise ValueError(
        f'{env.name}: score() returned answer of the shape {answer.shape}; '
        f'{len(verdict)} rows need {verdict.shape}')
  return np.where(verdict == 0, answer, -1).astype(np.int32)
