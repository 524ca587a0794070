"""Judges of mathematical answers, for verifier processes; no JAX here.

A judge is a function (response, reference) -> (score, answer): the score in
[0, 1], and a text that is the same for responses with the same final answer,
'' for none. `make_scorer` adds a reward for the form of a response. Other
people's judges are named 'module:function'; they may return the score alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import importlib
import logging
import re
from typing import Any, NamedTuple

from policyopt.envs import answers, forms
from policyopt.names import check_name

Judge = Callable[[str, str], tuple[float, str]]

# Parsers of LaTeX take long over long texts; answers are short.
_LONGEST = 400
_TAIL = 1500


class Verifier(NamedTuple):
  """How answers of a kind are asked for, found and judged.

  Attributes:
    make: keyword arguments -> Judge, called in the verifier process.
    reference: a reference answer -> its usual form, or None if no response
      could ever be judged by it.
    find: response -> the text of its final answer, or None; None itself when
      the response must be the answer and nothing else.
    final: how an answer is written; '{answer}' stands for it.
    ask: how a prompt asks for it; '{question}' stands for the question.
  """
  make: Callable[..., Judge]
  reference: Callable[[str], str | None]
  find: Callable[[str], str | None] | None
  final: str
  ask: str


def _judge_numbers(find: Callable[[str], str | None]) -> Judge:
  def judge(response, reference):
    found = find(response)
    wanted = answers.number(reference)
    return float(found is not None and found == wanted), found or ''
  return judge


def judge_exact(response: str, reference: str) -> tuple[float, str]:
  r"""The whole response is the reference, but for spaces, fonts and capitals.

  Example:
    >>> judge_exact(' Paris.', 'paris')
    (1.0, 'paris')
  """
  found = answers.plain(response).casefold()
  return float(found == answers.plain(reference).casefold()), found


def judge_math(
    *, find: str = 'boxed', strict: bool = False, text: bool = True,
    rel_tol: float = 0.) -> Judge:
  r"""A judge of LaTeX by `math-verify`.

  Its time limits are off, because they use signals and cannot stop C code: the
  pool that runs the judge ends it instead.

  Args:
    find: where the answer stands: in the last \boxed{} ('boxed'), or between
      the last <answer> and </answer> ('tags').
    strict: a response without that has no answer; otherwise the package looks
      for one in its last 1,500 characters.
    text: equal texts are equal answers too; False leaves only what the
      package can read as mathematics.
    rel_tol: numbers that differ by no more than this share are equal.

  Returns:
    A Judge.

  Source: math-verify, Hugging Face, 2025.

  Example:
    >>> judge = judge_math()
    >>> judge(r'Half: \boxed{0.5}', r'\frac{1}{2}')[0]
    1.0
    >>> judge(r'It is \boxed{\frac13}', r'\frac{1}{2}')[0]
    0.0
  """
  check_name('place of the answer', find, _PLACES)
  place = _PLACES[find]
  parse, verify = _math_verify(text)
  gold = functools.lru_cache(4096)(lambda answer: parse(_latex(answer)))
  # What is built on first use shall not count as a row's time.
  verify(gold(r'\frac{1}{2}'), parse('0.5'))

  def judge(response, reference):
    answer = place(response)
    if answer is None and strict:
      return 0., ''
    if answer is None:
      found = parse(response[-_TAIL:])
    elif text and answers.plain(answer) == answers.plain(reference):
      # Also what the package cannot read.
      return 1., _same(reference)
    else:
      found = parse(_latex(answer)) if len(answer) <= _LONGEST else []
    wanted = gold(reference)
    if found and (verify(wanted, found) or _close(wanted, found, rel_tol)):
      return 1., _same(reference)
    return 0., _normal(found, answer)

  return judge


def _in_tags(response: str) -> str | None:
  answer = answers.tagged(response)
  return answer and (answers.boxed(answer) or answer)


_PLACES = {'boxed': answers.boxed, 'tags': _in_tags}


def _math_verify(text: bool):
  """`parse` and `verify` without time limits of their own."""
  import math_verify
  logging.getLogger('math_verify').setLevel(logging.ERROR)
  # The text that was read follows the expression, or stands alone.
  fallback = 'first_match' if text else 'no_fallback'
  return (
      functools.partial(math_verify.parse, parsing_timeout=None,
                        fallback_mode=fallback),
      functools.partial(math_verify.verify, timeout_seconds=None))


# Spellings of programs that data sets hold: 4.5e33, 3./2, np.arcsin.
_PROGRAMS = (
    (re.compile(r'(?<![A-Za-z\\])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?![\d.])'),
     r'\1 \\times 10^{\2}'),
    (re.compile(r'(\d)\.(?=\s*[-+*/)])'), r'\1'),
    (re.compile(r'\bnp\.(?=[a-z])'), r'\\'),
)


def _latex(answer: str) -> str:
  """An answer as the package surely finds and reads it."""
  for pattern, replacement in _PROGRAMS:
    answer = pattern.sub(replacement, answer)
  return f'\\boxed{{{answer}}}'


def _same(reference: str) -> str:
  return f'= {answers.plain(reference)}'


def _close(gold, found, rel_tol: float) -> bool:
  """Whether both are numbers that differ by a share of `rel_tol` at most."""
  if not rel_tol:
    return False
  try:
    a, b = (complex(next(iter(x)).evalf()) for x in (gold, found))
  except Exception:  # Not numbers, in whatever way.
    return False
  return abs(a - b) <= rel_tol * abs(a)


def _normal(found, text: str | None) -> str:
  """A wrong answer's normal form: its expression, or its text."""
  if found and not isinstance(found[0], str):
    return str(found[0])
  if text is not None:
    return answers.plain(text)
  return str(found[0]) if found else ''


_STEPS = "Let's think step by step and output the final answer "

_HASHES = '{question}\n' + _STEPS + 'after "####".'
_BOXED = '{question}\n' + _STEPS + 'within \\boxed{}.'
_TAGS = '{question}\n' + _STEPS + 'within <answer> </answer> tags.'

VERIFIERS: Mapping[str, Verifier] = {
    'gsm8k': Verifier(
        lambda: _judge_numbers(answers.hashes_number), answers.number,
        answers.hashes_number, '#### {answer}', _HASHES),
    'gsm8k_flexible': Verifier(
        lambda: _judge_numbers(answers.last_number), answers.number,
        answers.hashes_number, '#### {answer}', _HASHES),
    'math': Verifier(
        judge_math, str.strip, answers.boxed, '\\boxed{{answer}}', _BOXED),
    'math_strict': Verifier(
        functools.partial(judge_math, strict=True), str.strip, answers.boxed,
        '\\boxed{{answer}}', _BOXED),
    'math_tags': Verifier(
        functools.partial(judge_math, find='tags', strict=True), str.strip,
        answers.tagged, '<answer>{answer}</answer>', _TAGS),
    'exact': Verifier(
        lambda: judge_exact, str.strip, None, '{answer}', '{question}'),
}


def verifier(name: str) -> Verifier:
  """A verifier by name.

  Args:
    name: a key of `VERIFIERS`, or 'module:function' for any function of
      (response, reference) that returns a score in [0, 1], or (score,
      answer); with keyword arguments it is called once with those and returns
      the function.

  Returns:
    A Verifier.

  Raises:
    ValueError: for a name that is unknown.

  Example:
    >>> verifier('gsm8k').reference('$1,200')
    '1200'
    >>> verifier('operator:eq').make()('a', 'a')
    (1.0, '')
  """
  if ':' not in name:
    check_name('verifier', name, VERIFIERS)
    return VERIFIERS[name]
  module, _, function = name.partition(':')
  if not module or not function:
    raise ValueError(
        f"verifier is {name!r}, but must be 'module:function' or one of "
        f'{", ".join(sorted(VERIFIERS))}')

  def make(**kwargs):
    judge = getattr(importlib.import_module(module), function)
    judge = judge(**kwargs) if kwargs else judge

    def with_answer(response, reference):
      value = judge(response, reference)
      score, answer = value if isinstance(value, tuple) else (value, '')
      return float(score), str(answer)
    return with_answer

  return Verifier(make, str.strip, None, '{answer}', '{question}')


def make_scorer(
    name: str, kwargs: Mapping[str, Any] | None = None,
    form: str | None = None) -> Callable[[str, str], tuple[float, float, str]]:
  """What a verifier process runs.

  Args:
    name: of the verifier.
    kwargs: of the verifier.
    form: of the response, see `forms.pattern`; None: any.

  Returns:
    (response, reference) -> (score, 1.0 if the form is right, answer).

  Example:
    >>> make_scorer('gsm8k', form='hashes')('6*7\\n#### 42', '42')
    (1.0, 1.0, '42')
  """
  judge = verifier(name).make(**(kwargs or {}))
  pattern = None if form is None else forms.pattern(form)

  def score(response, reference):
    right, answer = judge(response, reference)
    formed = pattern is None or pattern.fullmatch(response.strip())
    return right, float(bool(formed)), answer

  return score
