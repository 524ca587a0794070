"""Many right answers, of which the policy knows one too well.

What it isolates: diversity. Any two digits whose sum ends in the first digit
of the prompt are right, ten answers each (the other digits of the prompt only
make prompts different). The reference answers take one of them, the mode, far
more often than the rest. A method that sharpens what it has ends with one
answer; one that keeps its entropy ends with several. Difficulty: peak, wrong.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789='
_DIGITS = 3


def task(*, peak: float = 0.8, wrong: float = 0.3) -> Task:
  """The task: 'ddd='; two digits are asked for.

  Args:
    peak: of the right reference answers, the fraction that are '0d'; the rest
      is spread evenly over the others.
    wrong: fraction of reference answers that are two random digits.

  Returns:
    A Task.

  Raises:
    ValueError: for a fraction outside [0, 1].
  """
  symbols.check_range('peak', peak, 0, 1)
  symbols.check_range('wrong', wrong, 0, 1)

  def draw(key):
    asked, first, other, peaked, luck = jax.random.split(key, 5)
    return dict(
        digits=jax.random.randint(asked, (_DIGITS,), 0, 10),
        pair=jax.random.randint(other, (2,), 0, 10),
        first=jnp.where(jax.random.uniform(peaked) < peak, 0,
                        jax.random.randint(first, (), 1, 10)),
        wrong=jax.random.uniform(luck) < wrong)

  def prompt(problem):
    text = jnp.append(problem['digits'], len(ALPHABET) - 1)
    return Text(text, jnp.int32(_DIGITS + 1))

  def answer(problem):
    first = problem['first']
    right = jnp.stack([first, (problem['digits'][0] - first) % 10])
    return Text(jnp.where(problem['wrong'], problem['pair'], right),
                jnp.int32(2))

  def judge(problem, response):
    pair = response.symbols[:2]
    right = (pair.sum() % 10 == problem['digits'][0]) & (pair < 10).all()
    return {'accuracy': right & (response.length == 2)}

  return Task(
      'modes', ALPHABET, _DIGITS + 1, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *, peak: float = 0.8,
    wrong: float = 0.3, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(peak=peak, wrong=wrong), tokenizer, split, seed=seed, size=size)
