"""Reach a number with given digits: search, with many right answers.

What it isolates: exploration under an outcome that is easy to check and hard
to find. The response is a chain such as '3+4*2', each of the given digits
once, read from left to right; the target was made from such a chain, so every
problem can be solved. Difficulty: numbers, products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789+-*=>'
_PLUS, _MINUS, _TIMES, _EQUALS, _ARROW = range(10, 15)
_TRIES = 32


def task(*, numbers: int = 3, products: bool = True,
         wrong: float = 0.0) -> Task:
  """The task: digits, '>', a target of two digits, '='.

  Args:
    numbers: given digits, 2 to 6.
    products: whether the chain may multiply.
    wrong: fraction of reference answers whose signs are random.

  Returns:
    A Task.

  Raises:
    ValueError: for a number that is out of range.
  """
  symbols.check_range('numbers', numbers, 2, 6)
  symbols.check_range('wrong', wrong, 0, 1)
  width = 2 * numbers - 1
  signs = 3 if products else 2

  def value(digits, ops):
    def apply(total, item):
      digit, op = item
      return jnp.stack([total + digit, total - digit, total * digit])[
          op - _PLUS], None
    return jax.lax.scan(apply, digits[0], (digits[1:], ops))[0]

  def draw(key):
    shown, chains, order, luck = jax.random.split(key, 4)
    digits = jax.random.randint(shown, (numbers,), 1, 10)
    ops = jax.random.randint(
        chains, (_TRIES, numbers - 1), _PLUS, _PLUS + signs)
    # The last of them is a sum, which is in range whatever the digits.
    ops = ops.at[-1].set(_PLUS)
    totals = jax.vmap(lambda x: value(digits, x))(ops)
    fits = (totals >= 0) & (totals < 100)
    chosen = jnp.argmax(fits)
    return dict(
        digits=digits, shown=jax.random.permutation(order, digits),
        ops=jnp.where(jax.random.uniform(luck) < wrong, ops[-2], ops[chosen]),
        target=totals[chosen])

  def prompt(problem):
    target = problem['target']
    tail = jnp.stack([
        jnp.int32(_ARROW), target // 10, target % 10, jnp.int32(_EQUALS)])
    return Text(jnp.concatenate([problem['shown'], tail]),
                jnp.int32(numbers + 4))

  def answer(problem):
    text = jnp.zeros(width, jnp.int32)
    text = text.at[0::2].set(problem['digits'])
    return Text(text.at[1::2].set(problem['ops']), jnp.int32(width))

  def judge(problem, response):
    text = jnp.resize(response.symbols, width)
    fits = response.symbols.shape[0] >= width
    digits, ops = text[0::2], text[1::2]
    used = (jnp.sort(digits) == jnp.sort(problem['shown'])).all()
    legal = ((ops >= _PLUS) & (ops < _PLUS + signs)).all()
    ops = jnp.clip(ops, _PLUS, _TIMES)
    reached = value(digits, ops) == problem['target']
    return {'accuracy': fits & (response.length == width) & used & legal
            & reached}

  return Task(
      'countdown', ALPHABET, numbers + 4, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *, numbers: int = 3,
    products: bool = True, wrong: float = 0.0, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(numbers=numbers, products=products, wrong=wrong), tokenizer, split,
      seed=seed, size=size)
