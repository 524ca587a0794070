"""Is the number of ones odd? Longer scratch work helps.

What it isolates: response length that pays. A response is any scratch work,
then ':' and the answer, one digit. The running count modulo the base, written
as scratch, makes every step easy; the direct answer needs all bits at once.
Reference answers show both ways, the long one with probability `scratch`. The
channel 'brevity' is there for methods of several rewards.
Difficulty: bits, base.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text

ALPHABET = '0123456789=:'
_EQUALS, _COLON = 10, 11


def task(*, bits: int = 8, base: int = 2, shortest: int | None = None,
         scratch: float = 0.5, brevity: bool = False) -> Task:
  """The task: bits and '='; how many ones there are, modulo the base.

  Args:
    bits: in the longest prompt, 1 to 32.
    base: 2 to 10; with 2 the answer is the parity.
    shortest: bits in the shortest prompt; None: all have `bits`.
    scratch: fraction of reference answers with running counts.
    brevity: adds the channel 'brevity', 1 − length / (bits + 2), at least 0.

  Returns:
    A Task.

  Raises:
    ValueError: for a number that is out of range.
  """
  shortest = bits if shortest is None else shortest
  for name, value, low, high in (
      ('bits', bits, 1, 32), ('base', base, 2, 10),
      ('shortest', shortest, 1, bits), ('scratch', scratch, 0, 1)):
    symbols.check_range(name, value, low, high)
  place = jnp.arange(bits)

  def draw(key):
    shown, length, long = jax.random.split(key, 3)
    length = jax.random.randint(length, (), shortest, bits + 1)
    ones = jax.random.randint(shown, (bits,), 0, 2)
    return dict(
        length=length, bits=jnp.where(place < length, ones, 0),
        long=jax.random.uniform(long) < scratch)

  def prompt(problem):
    text = jnp.where(place < problem['length'], problem['bits'], _EQUALS)
    return Text(jnp.append(text, _EQUALS), problem['length'] + 1)

  def right(problem):
    return problem['bits'].sum() % base

  def answer(problem):
    counts = jnp.cumsum(problem['bits']) % base
    written = jnp.where(problem['long'], problem['length'], 0)
    spots = jnp.arange(bits + 2)
    text = jnp.where(spots < written, jnp.resize(counts, bits + 2), _COLON)
    text = jnp.where(spots == written + 1, right(problem), text)
    return Text(text, written + 2)

  def judge(problem, response):
    width = response.symbols.shape[0]
    spots = jnp.arange(width)
    inside = spots < response.length
    is_colon = (response.symbols == _COLON) & inside
    first = jnp.argmax(is_colon)
    # One digit after the only colon, and nothing else.
    well = (is_colon.sum() == 1) & (first == response.length - 2)
    given = response.symbols[jnp.minimum(first + 1, width - 1)]
    channels = {'accuracy': well & (given == right(problem))}
    if brevity:
      channels['brevity'] = jnp.maximum(1 - response.length / (bits + 2), 0)
    return channels

  return Task('parity', ALPHABET, bits + 1, draw, prompt, answer, judge)


def environment(
    tokenizer, split: str = 'train', *, bits: int = 8, base: int = 2,
    shortest: int | None = None, scratch: float = 0.5,
    brevity: bool = False, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`."""
  return symbols.environment(
      task(bits=bits, base=base, shortest=shortest, scratch=scratch,
           brevity=brevity), tokenizer, split, seed=seed, size=size)
