"""Digits are to be sorted.

What it isolates: a skill that is learned gradually, with partial credit to be
had: a response may be nearly right. The channel 'places' says how nearly.
Difficulty: digits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789='


def task(*, digits: int = 6, partial: bool = False) -> Task:
  """The task: digits and '='.

  Args:
    digits: in a prompt, 1 to 16.
    partial: adds the channel 'places', the fraction of right digits.

  Returns:
    A Task.

  Raises:
    ValueError: `digits` is out of range.
  """
  symbols.check_range('digits', digits, 1, 16)

  def draw(key):
    return jax.random.randint(key, (digits,), 0, 10)

  def prompt(problem):
    text = jnp.concatenate([problem, jnp.array([len(ALPHABET) - 1])])
    return Text(text, jnp.int32(digits + 1))

  def answer(problem):
    return Text(jnp.sort(problem), jnp.int32(digits))

  def judge(problem, response):
    right = answer(problem)
    channels = {'accuracy': symbols.exactly(right, response)}
    if partial:
      shown = jnp.resize(response.symbols, digits)
      place = jnp.arange(digits)
      hit = (shown == right.symbols) & (place < response.length)
      hit &= place < response.symbols.shape[0]
      channels['places'] = hit.mean()
    return channels

  return Task('sorting', ALPHABET, digits + 1, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *, digits: int = 6,
    partial: bool = False, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(digits=digits, partial=partial), tokenizer, split, seed=seed,
      size=size)
