"""Any generator of the `reasoning_gym` package, with its own verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
import random
from typing import Any, NamedTuple
import warnings
import zlib

import numpy as np
import reasoning_gym

from policyopt import types
from policyopt.envs import text, verifiers
from policyopt.names import check_name

SCORER = 'policyopt.envs.scorers:reasoning_gym_score'

# A generator seeds problem i of a dataset with `seed + i`, and some accept
# 32 bits only: the lower half of that space is for training, the upper half
# held out. Problems come in blocks of datasets that share a construction.
_HALF = 2 ** 31
_BLOCK = 1024
_STREAM = 2 ** 24
_TRIES = {'train': 16, 'test': 256}
_HELD_OUT_PARTS = 8
_MEASURED = 256

# Generators that also draw from, or reseed, the global random generators.
# Guarding the others would make a problem ten times as expensive.
_GLOBALLY_RANDOM = frozenset({
    'codeio', 'composite', 'list_functions', 'pool_matrix'})

# Generators that iterate over sets of strings (as of version 0.1.25).
_HASH_DEPENDENT = frozenset({
    'isomorphic_strings', 'knight_swap', 'polynomial_multiplication',
    'ransom_note', 'word_ladder'})


class Problem(NamedTuple):
  """A problem of a generator.

  Attributes:
    entry: the generator's own record, for its verifier.
    prompt: token ids.
    answer: token ids of the reference answer, stop token included.
  """
  entry: dict[str, Any]
  prompt: list[int]
  answer: list[int]


def environment(
    dataset: str, tokenizer, split: str = 'train', *,
    size: int | None = None, seed: int = 0, disjoint: bool = True,
    exact: bool = False, template: str = '{question}\n',
    replace: Sequence[tuple[str, str]] = (), max_prompt: int | None = None,
    pool: verifiers.VerifierPool | None = None, workers: int = 2,
    timeout_s: float = 10.0, **params) -> types.Environment:
  """Problems of a reasoning-gym generator, judged by its `score_answer`.

  Problem i is the same whenever and in whatever order it is asked for.
  Training and held-out problems never share a generator seed. With `disjoint`
  they share no question either: a question belongs to the held-out split if
  the CRC-32 of its text is a multiple of 8, and to training otherwise, and
  problem i is the first of its own seeds whose question belongs to the split.

  The reward channel is 'accuracy'. Verifiers run in processes of their own,
  killed when they hang or crash; the verdict of such a row is not 0. The whole
  response, stripped, is the answer that is compared with other rows'.

  A few generators make other problems under another PYTHONHASHSEED; the
  environment warns of it unless that variable is set.

  Args:
    dataset: registered name, e.g. 'chain_sum'.
    tokenizer: a `models.tokenizer.Tokenizer`.
    split: 'train' or 'test'.
    size: number of problems; None for an endless stream.
    seed: chooses the stream of problems.
    disjoint: whether the splits share no question text.
    exact: reward 1 for a perfect score and 0 for any other.
    template: the prompt; '{question}' stands for the question.
    replace: pairs (old, new) of text, replaced in the question one after the
      other: drops the boilerplate of a generator for small models.
    max_prompt: longest prompt in tokens; by default the longest of the first
      256 problems, rounded up to a multiple of 8.
    pool: a `VerifierPool(SCORER)` to share between environments, which stays
      open; by default the environment starts and closes its own.
    workers: processes of its own pool; 0 judges in the calling process,
      without a time limit.
    timeout_s: seconds that its own pool allows for a row.
    **params: of the generator, e.g. `max_terms=3`.

  Returns:
    A `types.Environment` on host memory (numpy), with reference answers.

  Raises:
    ValueError: for an unknown dataset, parameter or split, and from `reset`
      for a prompt longer than `max_prompt`.

  Source: "Reasoning Gym: Reasoning Environments for Reinforcement Learning
  with Verifiable Rewards", Stojanovski et al., 2025, arXiv 2505.24760.

  Example:
    >>> from policyopt.models import tokenizer
    >>> env = environment(
    ...     'chain_sum', tokenizer.byte_tokenizer(), workers=0, max_digits=1,
    ...     max_terms=2, replace=[('State the final answer to the following '
    ...                            'arithmetic problem: ', '')])
    >>> prompts = env.reset([0])
    >>> tokenizer.byte_tokenizer().decode(prompts.tokens[0])
    '0 - 4 =\\n'
    >>> env.score([0], env.answer([0])).rewards['accuracy'].tolist()
    [1.0]
  """
  name = f'reasoning_gym:{dataset}'
  check_name('split', split, _TRIES)
  if '{question}' not in template:
    raise ValueError(f"template is {template!r}, but must hold '{{question}}'")
  stream = _Stream(dataset, params, split, seed, disjoint)
  problems = _Problems(name, stream, size, tokenizer, template, replace)
  if max_prompt is None:
    measured = _MEASURED if size is None else min(size, _MEASURED)
    longest = max(len(problems(i).prompt) for i in range(measured))
    max_prompt = -(-longest // 8) * 8
  own = pool is None
  if own:
    pool = verifiers.VerifierPool(
        SCORER, workers=workers, timeout_s=timeout_s)

  def reset(ids):
    rows = [problems(i).prompt for i in np.asarray(ids).tolist()]
    for i, row in zip(np.asarray(ids).tolist(), rows):
      if len(row) > max_prompt:
        raise ValueError(
            f'{name}: the prompt of problem {i} has {len(row)} tokens, but '
            f'max_prompt is {max_prompt}')
    return text.pad(rows, max_prompt, tokenizer.pad_id)

  def answer(ids):
    rows = [problems(i).answer for i in np.asarray(ids).tolist()]
    return text.pad(rows, None, tokenizer.pad_id)

  def score(ids, responses):
    texts = text.decode(tokenizer, responses)
    verdict, value = pool.map([
        (dataset, params, response, problems(i).entry)
        for i, response in zip(np.asarray(ids).tolist(), texts, strict=True)])
    value = np.asarray([x or 0. for x in value], np.float32)
    if exact:
      value = (value >= 1.).astype(np.float32)
    return types.Scores(
        {'accuracy': value}, np.asarray(verdict, np.int32),
        text.answer_ids(texts))

  return types.Environment(
      name=name, size=size, max_prompt=max_prompt, reset=reset, score=score,
      answer=answer, answer_ids=True,
      close=pool.close if own else lambda: None)


class _Problems:
  """Problem id -> `Problem`, remembered."""

  def __init__(self, name, stream, size, tokenizer, template, replace):
    self._name = name
    self._stream = stream
    self._size = size
    self._tokenizer = tokenizer
    self._template = template
    self._replace = tuple((old, new) for old, new in replace)
    # An instance attribute, so that the memory goes with the environment.
    self._remembered = functools.lru_cache(8192)(self._make)

  def __call__(self, problem):
    if problem < 0 or (self._size is not None and problem >= self._size):
      end = 'infinity' if self._size is None else self._size
      raise ValueError(f'{self._name}: problem {problem} is not in [0, {end})')
    return self._remembered(problem)

  def _make(self, problem):
    entry = self._stream(problem)
    question = entry['question']
    for old, new in self._replace:
      question = question.replace(old, new)
    prompt = self._template.replace('{question}', question)
    answer = entry['answer']
    return Problem(
        entry, self._tokenizer.encode(prompt),
        self._tokenizer.encode('' if answer is None else str(answer))
        + [self._tokenizer.eos_id])


class _Stream:
  """Problem id -> entry of the generator; the same in any order of calls."""

  def __init__(self, dataset, params, split, seed, disjoint):
    _check_dataset(dataset, params)
    self._dataset = dataset
    self._params = params
    self._split = split
    self._disjoint = disjoint
    self._start = seed * _STREAM
    self._block = functools.lru_cache(64)(self._make_block)
    self._block(0)

  def __call__(self, problem):
    block, index = divmod(problem, _BLOCK)
    tries = _TRIES[self._split] if self._disjoint else 1
    for attempt in range(tries):
      dataset = self._block(block * _TRIES[self._split] + attempt)
      if self._dataset in _GLOBALLY_RANDOM:
        entry = _item_with_global_seed(dataset, index)
      else:
        entry = dataset[index]
      if not self._disjoint or split_of(entry['question']) == self._split:
        return entry
    raise ValueError(
        f'reasoning_gym:{self._dataset}: none of {tries} questions belongs to '
        f'the {self._split} split: choose parameters with more different '
        'questions, or disjoint=False')

  def _make_block(self, number):
    seed = (self._start + number * _BLOCK) % _HALF
    seed += _HALF if self._split == 'test' else 0
    try:
      return reasoning_gym.create_dataset(
          self._dataset, seed=seed, size=_BLOCK, **self._params)
    except (AssertionError, TypeError, ValueError) as error:
      raise ValueError(
          f'reasoning_gym:{self._dataset} refused {self._params}: '
          f'{error}') from error


def _item_with_global_seed(dataset, index):
  """An item of a generator that uses the global random generators."""
  states = random.getstate(), np.random.get_state()
  random.seed(dataset.seed + index)
  np.random.seed(dataset.seed + index)
  try:
    return dataset[index]
  finally:
    random.setstate(states[0])
    np.random.set_state(states[1])


def split_of(question: str) -> str:
  """The split that a question belongs to, by the CRC-32 of its text.

  Args:
    question: the text, as the generator made it.

  Returns:
    'test' for one question in eight, else 'train'.

  Example:
    >>> split_of('1 + 1 ='), split_of('2 + 5 =')
    ('train', 'test')
  """
  held_out = zlib.crc32(question.encode('utf-8')) % _HELD_OUT_PARTS == 0
  return 'test' if held_out else 'train'


def _check_dataset(dataset: str, params: Mapping[str, Any]):
  """Raises for a generator or a parameter that does not exist."""
  check_name(
      'reasoning_gym dataset', dataset, reasoning_gym.factory.DATASETS)
  _, config = reasoning_gym.factory.DATASETS[dataset]
  # The environment chooses seed and size itself.
  known = {f.name for f in dataclasses.fields(config)} - {'seed', 'size'}
  for param in params:
    check_name(f'parameter of reasoning_gym:{dataset}', param, known)
  if dataset in _HASH_DEPENDENT and os.environ.get(
      'PYTHONHASHSEED', 'random') == 'random':
    warnings.warn(
        f'the problems of reasoning_gym:{dataset} change from process to '
        'process: set PYTHONHASHSEED=0 to resume or repeat a run',
        stacklevel=4)
