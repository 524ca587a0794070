"""Sums of random numbers in pure JAX: problem and verifier run on the device.

Nothing here leaves the accelerator, so sampling, scoring and learning can be
one jitted program. The smallest task that a language model can fail.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import types
from policyopt.names import check_name

SPLITS = ('train', 'test')
OPERATORS = ('+', '-', '*')
_HELD_OUT_PARTS = 8
# Draws per problem; the chance that none is in the split is about 1e-15.
_DRAWS = {'train': 16, 'test': 256}
_MOST_DIGITS = 4


def environment(
    tokenizer, split: str = 'train', *, digits: int = 2,
    operators: tuple[str, ...] = ('+',), seed: int = 0,
    size: int | None = None) -> types.Environment:
  """Problems 'a+b=' whose answer is the number alone.

  a and b are uniform in [0, 10^digits). Problem i is drawn from
  `fold_in(key(seed), i)`. One question in eight is held out, chosen by a hash
  of (a, operator, b): training and held-out problems share no question.
  The reward channel 'accuracy' is 1 if the response up to its stop token
  equals the answer, else 0.

  Args:
    tokenizer: a `models.tokenizer.Tokenizer` with one token per character of
      '0123456789+-*='.
    split: 'train' or 'test'.
    digits: of the largest numbers, 1 to 4.
    operators: any of '+', '-', '*'.
    seed: chooses the stream of problems.
    size: number of problems; None for an endless stream.

  Returns:
    A `types.Environment` of JAX functions that `jax.jit` may trace.

  Raises:
    ValueError: for an unknown split, operator, too many digits, or a
      tokenizer without such tokens.

  Example:
    >>> from policyopt.models import tokenizer
    >>> byte = tokenizer.byte_tokenizer()
    >>> env = environment(byte, digits=1)
    >>> byte.decode(env.reset(jnp.arange(2)).tokens[0])
    '7+1='
    >>> byte.decode(env.answer(jnp.arange(2)).tokens[0])
    '8'
  """
  _check(split, digits, operators)
  token = _character_tokens(tokenizer)
  codes = np.asarray([OPERATORS.index(op) for op in operators], np.int32)
  answer_width = (2 * digits if '*' in operators else digits + 1) + 1

  def draw(problem):
    return _draw(
        jax.random.fold_in(jax.random.key(seed), problem), codes, digits,
        split)

  @jax.jit
  def reset(ids):
    a, op, b = jax.vmap(draw)(jnp.asarray(ids))
    left, left_length = _number(a, digits, token)
    right, right_length = _number(b, digits, token)
    one = jnp.ones_like(a)[:, None]
    pieces = [
        (left, left_length),
        (jnp.asarray([token[o] for o in OPERATORS])[op][:, None], one[:, 0]),
        (right, right_length),
        (token['='] * one, one[:, 0])]
    return _join(pieces, 2 * digits + 2, tokenizer.pad_id)

  @jax.jit
  def answer(ids):
    a, op, b = jax.vmap(draw)(jnp.asarray(ids))
    value = jnp.select([op == 0, op == 1], [a + b, a - b], a * b)
    number, length = _number(jnp.abs(value), answer_width - 1, token)
    one = jnp.ones_like(a)[:, None]
    pieces = [
        (token['-'] * one, (value < 0).astype(jnp.int32)),
        (number, length),
        (tokenizer.eos_id * one, one[:, 0])]
    return _join(pieces, answer_width, tokenizer.pad_id)

  @jax.jit
  def score(ids, responses):
    right = _matches(answer(ids), responses, tokenizer.eos_id)
    return types.Scores(
        {'accuracy': right.astype(jnp.float32)},
        jnp.zeros(right.shape, jnp.int32),
        _answer_ids(responses, tokenizer.eos_id))

  return types.Environment(
      name='arithmetic', size=size, max_prompt=2 * digits + 2, reset=reset,
      score=score, answer=answer, answer_ids=True, pure=True)


def _draw(key, codes, digits, split):
  """Numbers and operator of one problem, i32[] each; consumes the key."""
  bits = jax.random.bits(key, (3, _DRAWS[split]), jnp.uint32)
  a, b = (bits[:2] % jnp.uint32(10 ** digits)).astype(jnp.int32)
  op = jnp.asarray(codes)[bits[2] % jnp.uint32(len(codes))]
  held_out = _mix(a, op, b) % _HELD_OUT_PARTS == 0
  first = jnp.argmax(held_out == (split == 'test'))
  return a[first], op[first], b[first]


def _mix(a, op, b):
  """A 32-bit hash of a question that does not depend on the settings."""
  h = (op * 10 ** (2 * _MOST_DIGITS) + a * 10 ** _MOST_DIGITS + b)
  h = h.astype(jnp.uint32)
  # The finaliser of MurmurHash3 (public domain).
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return h ^ (h >> 16)


def _number(value, width, token):
  """Decimal digits of i32[N] >= 0 from the left: tokens i32[N, W], i32[N]."""
  powers = jnp.asarray([10 ** i for i in range(width)], jnp.int32)
  # Zero has one digit.
  length = jnp.maximum((value[:, None] >= powers[None, :]).sum(1), 1)
  place = jnp.maximum(length[:, None] - 1 - jnp.arange(width)[None, :], 0)
  digit = value[:, None] // powers[place] % 10
  table = jnp.asarray([token[str(i)] for i in range(10)], jnp.int32)
  return table[digit], length


def _join(pieces, width, pad_id):
  """Pieces of different lengths, one after the other in each row."""
  rows = pieces[0][0].shape[0]
  # A spare column takes what is not part of a piece.
  out = jnp.full((rows, width + 1), pad_id, jnp.int32)
  start = jnp.zeros((rows,), jnp.int32)
  row = jnp.arange(rows)[:, None]
  for tokens, length in pieces:
    place = jnp.arange(tokens.shape[1])[None, :]
    column = jnp.where(
        place < length[:, None], start[:, None] + place, width)
    out = out.at[row, column].set(tokens)
    start = start + length
  return types.Prompts(out[:, :width], start)


def _matches(answers, responses, eos_id):
  """bool[B]: equal up to the stop token, which a cut response may lack."""
  width = max(answers.tokens.shape[1], responses.tokens.shape[1]) + 1
  answers, responses = (_clean(x, width, eos_id) for x in (answers, responses))
  return (answers == responses).all(axis=1)


def _answer_ids(responses, eos_id):
  """i32[B], a hash of the response up to its stop token; -1 if it is empty."""
  tokens = _clean(responses, responses.tokens.shape[1] + 1, eos_id)

  def mix(h, token):
    # Trailing stop tokens change nothing, whatever the width.
    mixed = (h ^ token.astype(jnp.uint32)) * jnp.uint32(0x01000193)
    return jnp.where(token == eos_id, h, mixed ^ (mixed >> 15)), None

  start = jnp.full(tokens.shape[:1], 0x811C9DC5, jnp.uint32)
  h, _ = jax.lax.scan(mix, start, tokens.T)
  number = (h & jnp.uint32(0x7FFFFFFF)).astype(jnp.int32)
  return jnp.where(tokens[:, 0] == eos_id, -1, number)


def _clean(texts, width, eos_id):
  """Tokens i32[B, width] with the stop token from the end of the text on."""
  tokens, length = texts
  place = jnp.arange(tokens.shape[1])[None, :]
  tokens = jnp.where(place < length[:, None], tokens, eos_id)
  tokens = jnp.pad(
      tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=eos_id)
  ended = jnp.cumsum(tokens == eos_id, axis=1) > 0
  return jnp.where(ended, eos_id, tokens)


def _check(split, digits, operators):
  check_name('split', split, SPLITS)
  for op in operators:
    check_name('operator', op, OPERATORS)
  if not operators or len(set(operators)) < len(operators):
    raise ValueError(f'operators is {operators!r}, but must name each once')
  if not 1 <= digits <= _MOST_DIGITS:
    raise ValueError(f'digits is {digits}, but must be 1 to {_MOST_DIGITS}')


def _character_tokens(tokenizer):
  """Character -> its only token."""
  tokens = {}
  for character in '0123456789=' + ''.join(OPERATORS):
    ids = tokenizer.encode(character)
    if len(ids) != 1:
      raise ValueError(
          f'arithmetic needs a tokenizer with one token per character, but '
          f'{tokenizer.name} encodes {character!r} as {ids}')
    tokens[character] = ids[0]
  return tokens
