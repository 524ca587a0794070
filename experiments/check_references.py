"""Does every reference answer of the data sets judge itself correct?

  python experiments/check_references.py --data=DIR [--sets=gsm8k,math500]

DIR holds a folder per data set: gsm8k, math500, aime24, amc23, minerva_math,
with their JSON-lines files. Each reference is judged by the verifier that
training uses, in the same pool of processes, three times: written as a final
answer; as the worked solution of the data set; and in such a way that equal
texts do not count: a number with another spelling, LaTeX by the expression
that math-verify makes of it. What passes the first but not the last is text.

Prints a table and then every exception with its reason. The status is 1 when
a reference does not judge itself correct as a final answer.
"""

from collections.abc import Iterator
import os
import sys
from typing import NamedTuple

from absl import app, flags

from policyopt.data import JsonLines, Problems
from policyopt.envs import judges, verifiers
from policyopt.envs.math import PLACES, SCORER, SETS
from policyopt.training import errors

_DATA = flags.DEFINE_string('data', None, 'Folder with a folder per data set.')
_SETS = flags.DEFINE_list('sets', None, 'Some of them; by default all there.')
_WORKERS = flags.DEFINE_integer('workers', 2, 'Verifier processes.')

KINDS = ('final answer', 'worked solution', 'not by text')


class Exceptional(NamedTuple):
  """A response that should have been judged correct and was not."""
  kind: str
  where: str
  reference: str
  reason: str


def respelled(number: str) -> str:
  """A whole number with a currency sign, commas and cents.

  Example:
    >>> respelled('1250'), respelled('0.5')
    ('$1,250.00', '0.5')
  """
  return number if '.' in number else f'${int(number):,}.00'


def responses(name: str, problem) -> Iterator[tuple[str, str, str]]:
  """(kind, response, reference) of one problem of a data set."""
  known = SETS[name]
  verifier = judges.verifier(known.verifier)
  found = PLACES[known.answer_in](problem.answer)
  reference = found and verifier.reference(found)
  if not reference:
    yield KINDS[0], '', problem.answer[-40:]
    return
  write = lambda answer: verifier.final.replace('{answer}', answer)
  yield KINDS[0], f'So the answer is\n{write(reference)}', reference
  if problem.solution is not None:
    yield KINDS[1], problem.solution, reference
  other = respelled(reference) if known.verifier == 'gsm8k' else reference
  yield KINDS[2], write(other), reference


def check(name: str, folder: str, workers: int = 2):
  """Judges all references of a data set.

  Args:
    name: a key of `SETS`.
    folder: holds its files, NAME.jsonl.
    workers: verifier processes.

  Returns:
    (kind -> [right, judged], list of Exceptional).
  """
  rows = []
  for file in sorted(os.listdir(folder)):
    if file.endswith('.jsonl'):
      problems = Problems(
          JsonLines(os.path.join(folder, file)), SETS[name].fields)
      rows += [(problem.where, *row) for problem in problems
               for row in responses(name, problem)]
      problems.close()
  verifier = SETS[name].verifier
  without_text = dict(text=False) if verifier == 'math' else {}
  counts = {kind: [0, 0] for kind in KINDS}
  exceptions = []
  for kinds, kwargs in ((KINDS[:2], {}), (KINDS[2:], without_text)):
    chosen = [row for row in rows if row[1] in kinds]
    with verifiers.VerifierPool(
        SCORER, dict(name=verifier, kwargs=kwargs), workers=workers) as pool:
      outcomes = zip(*pool.map([row[2:] for row in chosen]))
    for (where, kind, response, reference), (verdict, value) in zip(
        chosen, outcomes):
      right = verdict == 0 and value[0] >= 1.
      counts[kind][0] += right
      counts[kind][1] += 1
      if not right:
        exceptions.append(Exceptional(
            kind, where, reference, _reason(response, verdict, value)))
  return counts, exceptions


def _reason(response, verdict, value):
  if verdict:
    return ('', 'timed out', 'crashed')[verdict]
  if not value[2]:
    return f'no answer found in {response[-40:]!r}'
  return f'the answer was read as {value[2]!r}'


def main(argv):
  with errors.in_one_line():
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags begin with --')
    names = _SETS.value or [
        name for name in SETS
        if os.path.isdir(os.path.join(_DATA.value, name))]
    if not names:
      raise ValueError(
          f'data is {_DATA.value!r}, which holds none of {", ".join(SETS)}')
    wrong, lines = 0, []
    print('| data set | ' + ' | '.join(KINDS) + ' |')
    print('| --- ' * (len(KINDS) + 1) + '|')
    for name in names:
      counts, exceptions = check(
          name, os.path.join(_DATA.value, name), _WORKERS.value)
      print(f'| {name} | ' + ' | '.join(
          f'{counts[kind][0]} of {counts[kind][1]}' for kind in KINDS) + ' |',
            flush=True)
      lines += [f'{x.where}: {x.kind}, reference {x.reference!r}: {x.reason}'
                for x in exceptions]
      wrong += sum(x.kind == KINDS[0] for x in exceptions)
  print('\n'.join(['', f'{len(lines)} exceptions', *lines]))
  return int(wrong > 0)


if __name__ == '__main__':
  flags.mark_flag_as_required('data')
  with errors.in_one_line():
    sys.exit(app.run(main, flags_parser=errors.parse_flags))
