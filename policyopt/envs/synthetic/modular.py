"""Chains of sums and products, modulo ten.

What it isolates: credit for an outcome that several hidden steps lead to; the
longer the chain, the rarer a right answer. Difficulty: terms, products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789+*='
_TIMES, _EQUALS = 11, 12


def task(*, terms: int = 3, products: bool = False) -> Task:
  """The task: 'd+d*d=' read from left to right; the last digit is asked.

  Args:
    terms: digits in a prompt, 2 to 16.
    products: whether there are products besides sums.

  Returns:
    A Task.

  Raises:
    ValueError: `terms` is out of range.
  """
  symbols.check_range('terms', terms, 2, 16)

  def draw(key):
    digits, signs = jax.random.split(key)
    return dict(
        digits=jax.random.randint(digits, (terms,), 0, 10),
        signs=jax.random.randint(signs, (terms - 1,), 10, 11 + products))

  def prompt(problem):
    pairs = jnp.stack([
        problem['digits'],
        jnp.append(problem['signs'], _EQUALS)], axis=1)
    return Text(pairs.reshape(-1), jnp.int32(2 * terms))

  def answer(problem):
    def apply(total, item):
      digit, sign = item
      both = jnp.where(sign == _TIMES, total * digit, total + digit)
      return both % 10, None
    last, _ = jax.lax.scan(
        apply, problem['digits'][0],
        (problem['digits'][1:], problem['signs']))
    return Text(last[None], jnp.int32(1))

  return Task('modular', ALPHABET, 2 * terms, draw, prompt, answer)


def environment(
    tokenizer, split: str = 'train', *, terms: int = 3,
    products: bool = False, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(terms=terms, products=products), tokenizer, split, seed=seed,
      size=size)
