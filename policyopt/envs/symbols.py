"""Tasks over an alphabet, judged in pure JAX.

A task speaks of symbols, numbers 0 … K − 1 that stand for the characters of
its alphabet; which token a symbol has is the tokenizer's business. Problems
are made, and responses are judged, by functions of ONE problem that JAX maps
over a batch, so sampling, scoring and learning can be one program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import types
from policyopt.envs import turns
from policyopt.names import check_name

Array = jax.Array

SPLITS = ('train', 'test')
_HELD_OUT_PARTS = 8
# Draws per problem; the chance that none is in the split is about 1e-15.
_DRAWS = {'train': 16, 'test': 256}


class Text(NamedTuple):
  """Symbols from the left: symbols i32[W], length i32[]."""
  symbols: Array
  length: Array


class World(NamedTuple):
  """How a task over an alphabet answers back; functions of ONE problem.

  Attributes:
    limit: most turns of a conversation.
    action: most symbols of an action, the stop token included.
    reply: most symbols of a reply, at least 1.
    begin: problem -> state, any tree of arrays.
    step: (problem, state, action Text without its stop token) -> (state,
      {channel: f32[]}, whether the conversation is over).
    observe: (problem, state) -> (Text of the reply, number of the state
      i32[] >= 0).
  """
  limit: int
  action: int
  reply: int
  begin: Callable[[Any], Any]
  step: Callable[[Any, Any, Text], tuple[Any, dict[str, Array], Array]]
  observe: Callable[[Any, Any], tuple[Text, Array]]


class Task(NamedTuple):
  """A task over an alphabet of K characters.

  Attributes:
    name: as in configs and messages.
    alphabet: K characters; symbol k stands for alphabet[k].
    prompt_width: symbols of the longest prompt.
    draw: key -> problem, any tree of arrays; consumes the key.
    prompt: problem -> Text of at most `prompt_width` symbols; two problems
      with the same prompt must be the same problem.
    answer: problem -> Text of a right answer, without a stop symbol; with a
      world, of the actions one after the other, each of `world.action` symbols.
    judge: (problem, Text) -> {channel: f32[]}. Of the response everything up
      to its stop token counts; a token that is no symbol is K. None: 1 in
      channel 'accuracy' for exactly `answer`.
    finished: whether `judge` asks that the response ended with a stop token;
      without one it then earns nothing.
    world: what answers back; it judges in the place of `judge`. None: the
      policy speaks once.
  """
  name: str
  alphabet: str
  prompt_width: int
  draw: Callable[[Array], Any]
  prompt: Callable[[Any], Text]
  answer: Callable[[Any], Text]
  judge: Callable[[Any, Text], dict[str, Array]] | None = None
  finished: bool = True
  world: World | None = None


def environment(
    task: Task, tokenizer, split: str = 'train', *, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The environment of a task.

  Problem i is drawn from `fold_in(key(seed), i)`. One prompt in eight is held
  out, chosen by its hash: training and held-out problems share no prompt.

  Args:
    task: what is asked and how it is judged.
    tokenizer: a `models.tokenizer.Tokenizer` with one token per character of
      the alphabet.
    split: 'train' or 'test'.
    seed: chooses the stream of problems.
    size: number of problems; None for an endless stream.

  Returns:
    A `types.Environment` of JAX functions that may be traced.

  Raises:
    ValueError: for an unknown split, a size below 1, or a tokenizer without
      such tokens.
  """
  check_name('split', split, SPLITS)
  if size is not None and size < 1:
    raise ValueError(f'size is {size}; it must be at least 1, or None')
  table = _tokens(task, tokenizer)
  symbol_of = np.full(tokenizer.vocab_size, len(task.alphabet), np.int32)
  symbol_of[table] = np.arange(len(table))

  def problem(index):
    # Made here: to make an environment compiles nothing.
    key = jax.random.fold_in(jax.random.key(seed), index)
    return _in_split(task, key, split)

  def read(tokens, length):
    stop = jnp.argmax(tokens == tokenizer.eos_id)
    ended = (tokens == tokenizer.eos_id).any() & (stop < length)
    symbols = jnp.asarray(symbol_of)[tokens]
    return Text(symbols, jnp.where(ended, stop, length)), ended

  def judge(index, tokens, length):
    response, ended = read(tokens, length)
    asked = problem(index)
    if task.judge is None:
      earned = {'accuracy': _equal(task.answer(asked), response)}
    else:
      earned = task.judge(asked, response)
    if task.finished:
      earned = {name: jnp.where(ended, x, 0) for name, x in earned.items()}
    earned = {name: jnp.asarray(x, jnp.float32) for name, x in earned.items()}
    return earned, _hash(response)

  def write(text, width, ending=()):
    """Tokens of one text, with the stop token after it if asked for."""
    symbols = jnp.zeros(width, jnp.int32).at[:text.symbols.shape[0]].set(
        text.symbols.astype(jnp.int32))
    place = jnp.arange(width)
    tokens = jnp.where(
        place < text.length, jnp.asarray(table)[symbols], tokenizer.pad_id)
    for offset, token in enumerate(ending):
      tokens = jnp.where(place == text.length + offset, token, tokens)
    length = text.length + len(ending)
    return tokens.astype(jnp.int32), jnp.asarray(length, jnp.int32)

  def reset(ids):
    ids = jnp.asarray(ids, jnp.int32)
    return types.Prompts(*jax.vmap(
        lambda i: write(task.prompt(problem(i)), task.prompt_width))(ids))

  def answer(ids):
    def one(i):
      text = task.answer(problem(i))
      return write(text, text.symbols.shape[0] + 1, (tokenizer.eos_id,))
    return types.Prompts(*jax.vmap(one)(jnp.asarray(ids, jnp.int32)))

  def score(ids, responses):
    earned, ids_ = jax.vmap(judge)(
        jnp.asarray(ids, jnp.int32), jnp.asarray(responses.tokens),
        jnp.asarray(responses.length))
    return types.Scores(earned, jnp.zeros(ids_.shape, jnp.int32), ids_)

  env = types.Environment(
      name=task.name, size=size, max_prompt=task.prompt_width,
      reset=jax.jit(reset), score=jax.jit(score), answer=jax.jit(answer),
      answer_ids=True, pure=True)
  if task.world is None:
    return env
  return _with_turns(env, task, problem, read, write, tokenizer.stop_tokens)


def _with_turns(env, task, problem, read, write, stop) -> types.Environment:
  """An environment that answers back."""
  world = task.world

  def begin(ids):
    def one(i):
      asked = problem(i)
      return asked, world.begin(asked)
    return jax.vmap(one)(ids)

  def step(state, actions):
    def one(state, tokens, length):
      asked, at = state
      at, earned, over = world.step(asked, at, read(tokens, length)[0])
      return (asked, at), {
          name: jnp.asarray(x, jnp.float32) for name, x in earned.items()}, over
    return jax.vmap(one)(state, *actions)

  def observe(state):
    def one(state):
      text, number = world.observe(*state)
      return types.Prompts(*write(text, world.reply)), number
    return jax.vmap(one)(state)

  spoken = types.Turns(
      world.limit, world.action, world.reply, stop, begin, step, observe)

  def answer(ids):
    ids = jnp.asarray(ids, jnp.int32)

    def one(i):
      text = task.answer(problem(i))
      return types.Prompts(*write(text, text.symbols.shape[0]))
    return turns.follow(spoken, ids, jax.vmap(one)(ids))

  def score(ids, responses):
    ids = jnp.asarray(ids, jnp.int32)
    heard = turns.replay(spoken, ids, responses)
    return types.Scores(
        {name: x.sum(axis=1) for name, x in heard.rewards.items()},
        jnp.zeros(ids.shape, jnp.int32))

  return env._replace(
      turns=spoken, answer=jax.jit(answer), score=jax.jit(score),
      answer_ids=False)


def check_range(name: str, value: float, low: float, high: float) -> None:
  """Raises ValueError for an argument of a task that is out of range.

  Example:
    >>> check_range('digits', 6, 1, 16)
  """
  if not low <= value <= high:
    raise ValueError(f'{name} is {value}; it must be {low} to {high}')


def exactly(answer: Text, response: Text) -> Array:
  """1 if two texts are the same, else 0: f32[]."""
  return _equal(answer, response).astype(jnp.float32)


def _in_split(task, key, split):
  """The first of a few problems that belongs to the split."""
  keys = jax.random.split(key, _DRAWS[split])
  problems = jax.vmap(task.draw)(keys)
  hashes = jax.vmap(
      lambda p: _hash(task.prompt(p)))(problems)
  held_out = hashes % _HELD_OUT_PARTS == 0
  first = jnp.argmax(held_out == (split == 'test'))
  return jax.tree.map(lambda x: x[first], problems)


def _hash(text):
  """i32 >= 0 of a text; -1 of an empty one."""
  place = jnp.arange(text.symbols.shape[0])

  def mix(h, item):
    symbol, place = item
    mixed = (h ^ symbol.astype(jnp.uint32)) * jnp.uint32(0x85EBCA6B)
    mixed = mixed ^ (mixed >> 15)
    return jnp.where(place < text.length, mixed, h), None

  h, _ = jax.lax.scan(mix, jnp.uint32(0x811C9DC5), (text.symbols, place))
  # The finaliser of MurmurHash3 (public domain).
  h = (h ^ (h >> 16)) * jnp.uint32(0xC2B2AE35)
  h = (h ^ (h >> 13)) & jnp.uint32(0x7FFFFFFF)
  return jnp.where(text.length > 0, h.astype(jnp.int32), -1)


def _equal(answer, response):
  width = max(answer.symbols.shape[0], response.symbols.shape[0])
  place = jnp.arange(width)
  pad = lambda x: jnp.pad(x, (0, width - x.shape[0]))
  same = pad(answer.symbols) == pad(response.symbols)
  return (answer.length == response.length) & (
      same | (place >= answer.length)).all()


def _tokens(task, tokenizer):
  """i32[K], the only token of each character of the alphabet."""
  tokens = []
  for character in task.alphabet:
    ids = tokenizer.encode(character)
    if len(ids) != 1:
      raise ValueError(
          f'{task.name} needs a tokenizer with one token per character, but '
          f'{tokenizer.name} encodes {character!r} as {ids}')
    tokens.append(ids[0])
  return np.asarray(tokens, np.int32)
