"""Problems from files, with answers that are numbers, LaTeX or text.

GSM8K, MATH-500, AIME, AMC, Minerva by name; any JSON-lines file or tfds data
set by the names of two fields and of a verifier.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any, NamedTuple

import numpy as np

from policyopt import types
from policyopt.data.datasets import tfds_source, tfds_splits
from policyopt.data.problems import SPLITS, Fields, Problems
from policyopt.data.sources import JsonLines
from policyopt.envs import (
    answers,
    forms,
    judges,
    prompting,
    text,
    verifiers,
)
from policyopt.names import check_name

SCORER = 'policyopt.envs.judges:make_scorer'

# Mathematics on a model's text: 10^(10^10) alone would take as much.
_MEMORY_GB = 4.

# Where the reference answer stands in its field.
PLACES = {'field': str, 'hashes': answers.after_hashes, 'boxed': answers.boxed}


class DataSet(NamedTuple):
  """What is known of a published data set: its fields and its verifier."""
  fields: Fields
  verifier: str
  answer_in: str = 'field'


SETS: Mapping[str, DataSet] = {
    'gsm8k': DataSet(
        Fields('question', 'answer', 'answer'), 'gsm8k', 'hashes'),
    'math500': DataSet(
        Fields('problem', 'answer', 'solution', 'unique_id'), 'math'),
    'aime24': DataSet(Fields('problem', 'answer', 'solution', 'id'), 'math'),
    'amc23': DataSet(Fields('problem', 'answer', None, 'id'), 'math'),
    'minerva_math': DataSet(
        Fields('problem', 'solution', 'solution', 'idx'), 'math', 'boxed'),
    'jsonl': DataSet(Fields(), 'math'),
    'tfds': DataSet(Fields(), 'math'),
}


def environment(
    name: str, tokenizer, split: str = 'train', *, path: str | None = None,
    test_path: str | None = None, held_out: float | None = None,
    question: str | None = None, answer: str | None = None,
    solution: str | None = None, id: str | None = None,
    answer_in: str | None = None, where: Mapping[str, Any] | None = None,
    size: int | None = None, verifier: str | None = None,
    verifier_kw: Mapping[str, Any] | None = None, format: str | None = None,
    format_weight: float = 0.1, template: str | None = None,
    system: str | None = None, chat: bool | None = None,
    chat_kw: Mapping[str, Any] | None = None, max_prompt: int | None = None,
    too_long: str = 'refuse', worked: bool = True, annotations: bool = False,
    pool: verifiers.VerifierPool | None = None, workers: int = 2,
    timeout_s: float = 10.0) -> types.Environment:
  """Problems of a data set, judged by a verifier in processes of its own.

  All records are checked and all prompts made at once; the texts are read
  again when they are needed. The reward channels are 'accuracy' and, if a form
  is asked for, 'format'. Responses with the same final answer share an answer
  id: all right ones, and wrong ones whose expressions are written alike.

  Args:
    name: a key of `SETS`; 'tfds:NAME' for a data set of tfds.
    tokenizer: a `models.tokenizer.Tokenizer`.
    split: 'train' or 'test'.
    path: a JSON-lines file, or a folder with train.jsonl and test.jsonl; for
      tfds the data_dir or the folder of the prepared version.
    test_path: file of the 'test' split, when it is not beside the other.
    held_out: share of the questions that are 'test', by a hash of the text,
      when all problems are in one file or one split of tfds.
    question: field of the question; like the next three, by default as the
      data set has it.
    answer: field of the reference answer.
    solution: field of the worked solution.
    id: field that numbers the records; two with the same are an error.
    answer_in: where the answer stands in its field: 'field', it is the whole;
      'hashes', after `####`; 'boxed', in the last box.
    where: field -> value or values that a record must have to be used.
    size: the first so many problems only; None for all.
    verifier: a key of `judges.VERIFIERS`, or 'module:function'.
    verifier_kw: its keyword arguments, e.g. `rel_tol=1e-3` for 'math'.
    format: form that earns a reward of its own: a key of `forms.FORMATS` or
      a regular expression for the whole response; None: none.
    format_weight: reward for the form, in [0, 1).
    template: what the user says; '{question}' stands for the question. By
      default it asks for the form that the verifier reads.
    system: what the system says, or None.
    chat: whether to use the tokenizer's chat template; None: if it has one.
    chat_kw: further variables of the chat template.
    max_prompt: longest prompt in tokens; by default as long as needed.
    too_long: 'refuse' or 'drop' longer prompts.
    worked: reference responses are worked solutions where there are any.
    annotations: keep GSM8K's <<48/2=24>> in them.
    pool: a VerifierPool(SCORER, ...) to share, which stays open.
    workers: processes of its own pool; 0 judges in the calling process,
      without a time limit.
    timeout_s: seconds that its own pool allows for a row.

  Returns:
    A `types.Environment` on host memory (numpy), with reference answers.

  Raises:
    ValueError: in one line, for data, fields or arguments that are not right.
  """
  known = SETS[name.split(':')[0]]
  check_name('split', split, SPLITS)
  if not 0 <= format_weight < 1:
    raise ValueError(
        f'format_weight is {format_weight}; it must be in [0, 1), so that no '
        'form is worth an answer')
  chosen = {key: value for key, value in dict(
      question=question, answer=answer, solution=solution, id=id).items()
            if value is not None}
  source, part = _source(name, split, path, test_path, held_out)
  problems = Problems(
      source, known.fields._replace(**chosen), split=part, where=where,
      held_out=held_out or 0.)
  verifier = verifier or known.verifier
  task = _Task(
      name, problems, judges.verifier(verifier),
      _place(answer_in or known.answer_in), worked, annotations)
  make_prompt = prompting.prompter(
      tokenizer, template or task.verifier.ask, system=system, chat=chat,
      chat_kw=chat_kw)
  table = _table(task, make_prompt, size, max_prompt, too_long)
  if format is not None:
    forms.pattern(format)
  own = pool is None
  if own:
    pool = verifiers.VerifierPool(SCORER, dict(
        name=verifier, kwargs=dict(verifier_kw or {}), form=format),
        workers=workers, timeout_s=timeout_s, memory_gb=_MEMORY_GB)

  def reset(ids):
    return table(_checked(name, ids, len(table)), tokenizer.pad_id)

  def references(ids):
    rows = [tokenizer.encode(task.response(i)) + [tokenizer.eos_id]
            for i in table.kept[_checked(name, ids, len(table))]]
    return text.pad(rows, None, tokenizer.pad_id)

  def score(ids, responses):
    texts = text.decode(tokenizer, responses)
    verdict, values = pool.map([
        (response, task.references[i]) for i, response in zip(
            table.kept[_checked(name, ids, len(table))], texts, strict=True)])
    right, formed, found = zip(*(x or (0., 0., '') for x in values))
    rewards = {'accuracy': np.asarray(right, np.float32)}
    if format is not None:
      rewards['format'] = np.asarray(formed, np.float32) * format_weight
    return types.Scores(
        rewards, np.asarray(verdict, np.int32), text.answer_ids(found))

  def close():
    problems.close()
    if own:
      pool.close()

  return types.Environment(
      name=name, size=len(table), max_prompt=table.max_prompt, reset=reset,
      score=score, answer=references, answer_ids=True, close=close)


class _Task:
  """Problems with their references, checked for the verifier."""

  def __init__(self, name, problems, verifier, place, worked, annotations):
    self.name, self.problems, self.verifier = name, problems, verifier
    self._worked, self._annotations = worked, annotations
    self.references = []
    for problem in problems:
      found = place(problem.answer)
      reference = found and verifier.reference(found)
      if not reference:
        raise ValueError(
            f'{problem.where}: no reference answer for the verifier in '
            f'{problem.answer[-60:]!r}')
      self.references.append(reference)

  def response(self, index):
    """A response that earns the whole reward."""
    reference, find = self.references[index], self.verifier.find
    final = self.verifier.final.replace('{answer}', reference)
    solution = self.problems[index].solution
    if not self._worked or solution is None or find is None:
      return final
    if not self._annotations:
      solution = answers.without_annotations(solution)
    found = find(solution)
    if found is not None and answers.plain(found) == answers.plain(reference):
      return solution
    return f'{solution}\n{final}'


def _table(task, make_prompt, size, max_prompt, too_long):
  problems = task.problems
  count = len(problems) if size is None else size
  if not 1 <= count <= len(problems):
    raise ValueError(
        f'{task.name}: size is {size}; there are {len(problems)} problems')
  rows = []
  for i in range(count):
    rows.append(make_prompt(problems[i].question))
  return prompting.PromptTable(
      task.name, rows, max_prompt, too_long, lambda i: problems[i].where)


def _checked(name: str, ids, size: int) -> np.ndarray:
  ids = np.asarray(ids, np.int64)
  bad = (ids < 0) | (ids >= size)
  if bad.any():
    raise ValueError(
        f'{name}: problem {ids[np.argmax(bad)]} is not in [0, {size})')
  return ids


def _place(answer_in: str):
  check_name('answer_in', answer_in, PLACES)
  return PLACES[answer_in]


def _source(name, split, path, test_path, held_out):
  """The source of a split, and which part of it to take (None: all)."""
  if name.startswith('tfds:'):
    dataset = name.removeprefix('tfds:')
    there = tfds_splits(dataset, path)
    file, part = _choose(name, split, held_out, there, f'tfds:{dataset}')
    return tfds_source(dataset, file, path), part
  if not path:
    raise ValueError(
        f'path of task {name!r} is not set: give a folder with train.jsonl '
        'and test.jsonl, or a file (in a config, task_kw.path)')
  path = os.path.abspath(os.path.expanduser(path))
  if test_path and split == 'test':
    return JsonLines(test_path), None
  if not os.path.isdir(path):
    if held_out is None and not test_path:
      raise ValueError(
          f'path {path} of task {name!r} is one file for both splits: give '
          'held_out, the share of its questions that are for testing, or '
          'test_path')
    return JsonLines(path), None if held_out is None else split
  there = sorted(file.removesuffix('.jsonl') for file in os.listdir(path)
                 if file.endswith('.jsonl'))
  file, part = _choose(name, split, held_out, there, path)
  return JsonLines(os.path.join(path, f'{file}.jsonl')), part


def _choose(name, split, held_out, there, place):
  """Which of the files or splits, and which part of it (None: all)."""
  if held_out is None and split in there:
    return split, None
  if held_out is not None and (len(there) == 1 or 'train' in there):
    return there[0] if len(there) == 1 else 'train', split
  raise ValueError(
      f'task {name!r} has no {split!r} split in {place}, which has '
      f'{", ".join(there) or "none"}: give held_out to split one by question')
