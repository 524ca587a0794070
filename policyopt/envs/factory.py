"""Environments by name, for configs and scripts."""

from __future__ import annotations

import importlib
import inspect

from policyopt import types
from policyopt.names import check_name

# Task -> module; a task of several generators is named 'task:generator'.
TASKS = {
    'aime24': 'math', 'amc23': 'math', 'arithmetic': 'arithmetic',
    'gsm8k': 'math', 'jsonl': 'math', 'math500': 'math',
    'minerva_math': 'math', 'reasoning_gym': 'reasoning_gym', 'tfds': 'math',
    **{name: f'synthetic.{name}' for name in (
        'countdown', 'families', 'gridworld', 'lengths', 'modes', 'modular',
        'parity', 'rules', 'sorting')}}
_FAMILIES = frozenset({'reasoning_gym', 'tfds'})


def environment(
    spec: str, tokenizer, split: str = 'train', **kwargs) -> types.Environment:
  """An environment by name.

  Args:
    spec: 'arithmetic', 'reasoning_gym:NAME' for any of its generators, or
      problems from files: 'gsm8k', 'math500', 'aime24', 'amc23',
      'minerva_math', 'jsonl', 'tfds:NAME'.
    tokenizer: a `models.tokenizer.Tokenizer`.
    split: 'train' or 'test'; the two share no problem.
    **kwargs: of the task's own `environment`.

  Returns:
    A `types.Environment`.

  Raises:
    ValueError: for an unknown task or argument, with the nearest names.

  Example:
    >>> from policyopt.models import tokenizer
    >>> byte = tokenizer.byte_tokenizer()
    >>> environment('arithmetic', byte, 'test', digits=3).max_prompt
    8
    >>> environment('aritmetic', byte)
    Traceback (most recent call last):
    ValueError: unknown task 'aritmetic': did you mean 'arithmetic'? Known: ...
  """
  task, _, generator = spec.partition(':')
  check_name('task', task, TASKS)
  if bool(generator) != (task in _FAMILIES):
    right = f'{task}:NAME' if task in _FAMILIES else task
    raise ValueError(f'environment is {spec!r}, but must be {right!r}')
  try:
    module = importlib.import_module(f'policyopt.envs.{TASKS[task]}')
  except ModuleNotFoundError as error:
    raise ImportError(
        f'{spec} needs the {error.name} package: '
        "pip install 'policyopt[train]'") from error
  parameters = inspect.signature(module.environment).parameters.values()
  if not any(p.kind is p.VAR_KEYWORD for p in parameters):
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in kwargs:
      check_name(f'argument of {task}', name, known)
  # A module of several tasks is told which, a family of generators which.
  if TASKS[task] == 'math':
    args = (spec,)
  else:
    args = (generator,) if generator else ()
  return module.environment(*args, tokenizer, split, **kwargs)
