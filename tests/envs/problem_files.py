"""Small files in the formats of published data sets, made up here."""

import json
import pathlib


def gsm8k(i):
  """A record as openai/grade-school-math has them."""
  a, b = 3 + i, 2 + i % 7
  total = f'{a * b:,}'
  return dict(
      question=f'Ada packs {a} boxes with {b} pens each. How many pens?',
      answer=f'She packs {a} * {b} = <<{a}*{b}={a * b}>>{total} pens.\n'
             f'#### {total}')


def math500(i):
  """A record as openai/prm800k has them."""
  answer = (f'\\frac{{{2 * i + 1}}}{{2}}', f'\\left( {i}, \\pi \\right)',
            f'\\text{{odd{"ly" * (i % 5)}}}', str(i))[i % 4]
  return dict(
      problem=f'Find the value of $x_{{{i}}}$.', answer=answer, level=1 + i % 5,
      solution=f'We see that $x = \\boxed{{{answer}}}$.', subject='Algebra',
      unique_id=f'test/algebra/{i}.json')


def aime24(i):
  """A record as the evaluation of Qwen2.5-Math has them."""
  return dict(id=60 + i, problem=f'Let $m = {i}$. Find $m + 1$.',
              solution=f'It is $\\framebox{{{i + 1:03d}}}$.\nSee above.',
              answer=f'{i + 1:03d}', url='https://example.org')


def own(i):
  """A record of no published data set."""
  return dict(prompt=f'Capital of country {i}?', target=f'City{i}', n=i)


def write(path, make, count, start=0):
  """Writes records start ... start + count - 1, one per line."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(''.join(
      json.dumps(make(i)) + '\n' for i in range(start, start + count)))
  return str(path)


def folder(path, make, train, test):
  """A folder with train.jsonl and test.jsonl; returns its path."""
  write(pathlib.Path(path) / 'train.jsonl', make, train)
  write(pathlib.Path(path) / 'test.jsonl', make, test, start=train)
  return str(path)
