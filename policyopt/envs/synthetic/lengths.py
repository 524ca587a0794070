"""Right answers come short and long.

What it isolates: length that does not pay. The digits are copied, and after
them any number of dots may follow; they change nothing. Reference answers have
`dots` of them with probability `long`, and the channel 'brevity' rewards
leaving them out, so accuracy and length can be traded against each other in
any proportion. Difficulty: digits, wrong.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789=.'
_EQUALS, _DOT = 10, 11


def task(*, digits: int = 4, dots: int = 6, long: float = 0.5,
         wrong: float = 0.4, careless: float = 0.0) -> Task:
  """The task: digits and '='; they are to be copied.

  Args:
    digits: to be copied, 1 to 16.
    dots: after a long reference answer, 1 to 32.
    long: fraction of reference answers that are long.
    wrong: fraction of reference answers whose digits are one too high.
    careless: how much more often short reference answers are wrong, so that
      accuracy and brevity conflict.

  Returns:
    A Task with the channels 'accuracy' and 'brevity', 1 − dots written / dots,
    at least 0, and 0 where the digits are wrong.

  Raises:
    ValueError: for a number that is out of range.
  """
  for name, value, low, high in (
      ('digits', digits, 1, 16), ('dots', dots, 1, 32), ('long', long, 0, 1),
      ('wrong', wrong, 0, 1), ('careless', careless, 0, 1 - wrong)):
    symbols.check_range(name, value, low, high)

  def draw(key):
    shown, length, luck = jax.random.split(key, 3)
    is_long = jax.random.uniform(length) < long
    rate = wrong + jnp.where(is_long, 0., careless)
    return dict(
        digits=jax.random.randint(shown, (digits,), 0, 10), long=is_long,
        wrong=jax.random.uniform(luck) < rate)

  def prompt(problem):
    return Text(jnp.append(problem['digits'], _EQUALS), jnp.int32(digits + 1))

  def answer(problem):
    shown = (problem['digits'] + problem['wrong']) % 10
    text = jnp.concatenate([shown, jnp.full(dots, _DOT)])
    return Text(text, digits + jnp.where(problem['long'], dots, 0))

  def judge(problem, response):
    width = response.symbols.shape[0]
    place = jnp.arange(width)
    wanted = jnp.where(
        place < digits, jnp.resize(problem['digits'], width), _DOT)
    same = (response.symbols == wanted) | (place >= response.length)
    right = same.all() & (response.length >= digits)
    written = jnp.maximum(response.length - digits, 0)
    brevity = jnp.maximum(1 - written / dots, 0)
    return {'accuracy': right, 'brevity': jnp.where(right, brevity, 0)}

  return Task('lengths', ALPHABET, digits + 1, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *, digits: int = 4, dots: int = 6,
    long: float = 0.5, wrong: float = 0.4, careless: float = 0.0,
    seed: int = 0, size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(digits=digits, dots=dots, long=long, wrong=wrong,
           careless=careless), tokenizer, split, seed=seed, size=size)
