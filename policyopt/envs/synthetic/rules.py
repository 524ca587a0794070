"""Which rule to apply is said by a flag in front of the digits.

What it isolates: CHOOSING between skills that the policy has. The reference
answers of its warm start apply a random rule whatever the flag says, so the
policy can do every rule and picks one blindly: about 1/R is right, every
answer is short, and all that reinforcement learning has to find is what the
flag means. Difficulty: digits, rules.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

RULES = ('reverse', 'copy', 'sort', 'next')
ALPHABET = '0123456789abcd='


def task(*, digits: int = 6, rules: int = 2) -> Task:
  """The task: a flag, digits, and '='.

  Args:
    digits: in a prompt, 1 to 16.
    rules: the first so many of reverse, copy, sort and next (each digit plus
      one, 9 becoming 0), flagged by 'a' to 'd'; 2 to 4.

  Returns:
    A Task with answers by a random rule.

  Raises:
    ValueError: for a number that is out of range.
  """
  symbols.check_range('digits', digits, 1, 16)
  symbols.check_range('rules', rules, 2, len(RULES))

  def draw(key):
    flag, shown, other = jax.random.split(key, 3)
    return dict(
        rule=jax.random.randint(flag, (), 0, rules),
        digits=jax.random.randint(shown, (digits,), 0, 10),
        shown=jax.random.randint(other, (), 0, rules))

  def prompt(problem):
    text = jnp.concatenate([
        10 + problem['rule'][None], problem['digits'],
        jnp.array([len(ALPHABET) - 1])])
    return Text(text, jnp.int32(digits + 2))

  def apply(rule, x):
    return jnp.stack([x[::-1], x, jnp.sort(x), (x + 1) % 10])[rule]

  def judge(problem, response):
    right = Text(apply(problem['rule'], problem['digits']), jnp.int32(digits))
    return {'accuracy': symbols.exactly(right, response)}

  def answer(problem):
    return Text(apply(problem['shown'], problem['digits']), jnp.int32(digits))

  return Task(
      'rules', ALPHABET, digits + 2, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *, digits: int = 6, rules: int = 2,
    seed: int = 0, size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(digits=digits, rules=rules), tokenizer, split, seed=seed, size=size)
