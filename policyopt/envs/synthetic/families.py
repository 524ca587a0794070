"""A mixture of prompt families with success rates spread over (0, 1).

What it isolates: what a method does with groups of every difficulty at once.
Every family asks the same, copying digits, but the reference answers of
family f are right with probability p(f) only, and otherwise drawn at random
from `wrong` fixed mistakes. After a warm start the policy's success rate in
family f is near p(f), and stays apart from the others' because the family is
written in the prompt. Difficulty: the rates.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789abcdefgh='
_MOST = 8


def task(*, rates: Sequence[float] = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98),
         digits: int = 4, wrong: int = 3) -> Task:
  """The task: the family's letter, digits, '='.

  Args:
    rates: p(f), each in [0, 1]; 1 to 8 families.
    digits: to be copied, 1 to 16.
    wrong: kinds of mistakes, 1 to 9: each digit plus 1, 2, ... modulo ten.

  Returns:
    A Task whose reference answers are wrong as often as the rates say.

  Raises:
    ValueError: for a number that is out of range.
  """
  rates = tuple(float(rate) for rate in rates)
  if not 1 <= len(rates) <= _MOST or not all(0 <= r <= 1 for r in rates):
    raise ValueError(
        f'rates is {rates}; it must hold 1 to {_MOST} numbers in [0, 1]')
  symbols.check_range('digits', digits, 1, 16)
  symbols.check_range('wrong', wrong, 1, 9)

  def draw(key):
    family, shown, luck, mistake = jax.random.split(key, 4)
    family = jax.random.randint(family, (), 0, len(rates))
    right = jax.random.uniform(luck) < jnp.asarray(np.array(rates))[family]
    return dict(
        family=family,
        digits=jax.random.randint(shown, (digits,), 0, 10),
        shift=jnp.where(
            right, 0, jax.random.randint(mistake, (), 1, wrong + 1)))

  def prompt(problem):
    text = jnp.concatenate([
        10 + problem['family'][None], problem['digits'],
        jnp.array([len(ALPHABET) - 1])])
    return Text(text, jnp.int32(digits + 2))

  def answer(problem):
    return Text(
        (problem['digits'] + problem['shift']) % 10, jnp.int32(digits))

  def judge(problem, response):
    right = Text(problem['digits'], jnp.int32(digits))
    return {'accuracy': symbols.exactly(right, response)}

  return Task(
      'families', ALPHABET, digits + 2, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *,
    rates: Sequence[float] = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98),
    digits: int = 4, wrong: int = 3, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(rates=rates, digits=digits, wrong=wrong), tokenizer, split,
      seed=seed, size=size)
