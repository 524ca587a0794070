"""Writes METHODS.md: every method, its paper, its file, what it needs.

Everything comes from the code: the recipes, the docstrings of their files, and
the rows of tests/methods/table.py, which also says what has been proved.

  python experiments/catalogue.py [--check]
"""

from __future__ import annotations

import inspect
import pathlib
import re
import sys

import jax
from jax import tree_util

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from policyopt import methods  # noqa: E402
from policyopt.training.credit import init_credit, method_needs  # noqa: E402
from tests.methods.table import TABLE  # noqa: E402

HEAD = """# Methods

Made by `python experiments/catalogue.py` from the recipes, their docstrings and
`tests/methods/table.py`. *Needs* names what a method asks for beyond tokens,
mask, log-probabilities, groups and rewards (see `policyopt/types.py: NEEDS`);
*state* is what it carries from batch to batch, and what checkpoints hold of
it; *golden* are the vectors in `tests/golden` that prove it; *equals* are the
reductions that `tests/methods/test_every_method.py` checks.
"""
FOLDERS = {
    'base': 'Baselines',
    'surrogates': 'The loss of a token: ratio, clip, mask',
    'advantages': 'From rewards to advantages',
    'preferences': 'Which of two responses is better',
}


def main() -> None:
  """Writes the page, or with --check says whether it is up to date."""
  path, text = ROOT / 'METHODS.md', page()
  if '--check' in sys.argv[1:]:
    old = path.read_text('utf-8') if path.exists() else ''
    sys.exit(None if old == text else f'{path.name} is out of date: run '
             'python experiments/catalogue.py')
  path.write_text(text, 'utf-8')


def page() -> str:
  """The whole page.

  Returns:
    Markdown.
  """
  parts = [HEAD]
  for folder, title in FOLDERS.items():
    names = [n for n in methods.names() if methods.folder(n) == folder]
    rows = '\n'.join(_row(name) for name in names)
    parts.append(
        f'## {title}\n\n'
        '| method | what it is | paper | config | needs | state | golden | '
        f'equals |\n|{" --- |" * 8}\n{rows}\n')
  return '\n'.join(parts)


def _row(name: str) -> str:
  source = pathlib.Path(inspect.getfile(methods.recipe(name)))
  rows = [row for row in TABLE if row['name'] == name]
  method = methods.build(name, rows[0]['kw'])
  cells = [
      f'[`{name}`]({source.relative_to(ROOT)})',
      _summary(source), _paper(source), f'[config](configs/{name}.py)',
      ', '.join(f'`{need}`' for need in _needs(rows)) or 'nothing',
      _state(method), _golden(rows), _reductions(name, rows)]
  return '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |'


def _docstring(source: pathlib.Path) -> list[str]:
  """The paragraphs of the module's docstring, each in one line."""
  text = re.match(r'"""(.*?)"""', source.read_text('utf-8'), re.S)[1]
  return [' '.join(part.split()) for part in text.split('\n\n')]


def _summary(source) -> str:
  return _docstring(source)[0].rstrip('.')


def _paper(source) -> str:
  """Title, year and a link, of the first paper that is named."""
  named = ' '.join(_docstring(source)[1:3])
  title = re.search(r'"([^"]+?),?"', named)
  year = re.search(r'\b(19|20)\d\d\b', named)
  number = re.search(r'arXiv[: ](\d{4}\.\d{4,5})', named)
  text = ', '.join(m for m in (title and title[1], year and year[0]) if m)
  return f'[{text}](https://arxiv.org/abs/{number[1]})' if number else text


def _needs(rows) -> list[str]:
  """What some setting of the table needs."""
  needs = frozenset().union(*(
      method_needs(methods.build(row['name'], row['kw'])) for row in rows))
  # Credit assignment itself makes this one.
  return sorted(needs - {'token_rewards'})


def _state(method) -> str:
  """The arrays that a method keeps, as name: shape."""
  state = jax.eval_shape(lambda: init_credit(method))
  leaves = tree_util.tree_leaves_with_path(state)
  arrays = []
  for path, leaf in leaves:
    name = next((key.name for key in reversed(path)
                 if isinstance(key, tree_util.GetAttrKey)), 'value')
    arrays.append(f'`{name}`{list(leaf.shape) if leaf.shape else ""}')
  return ', '.join(dict.fromkeys(arrays)) or 'none'


def _golden(rows) -> str:
  files = sorted({name.removesuffix('.json') for row in rows
                  for name in row.get('golden', ())})
  return ', '.join(
      f'[{name}](tests/golden/{name}.json)' for name in files) or 'none'


def _reductions(name, rows) -> str:
  stated = []
  for row in rows:
    if reduction := row.get('reduces_to'):
      own = _call(name, row['kw'] | reduction['kw'])
      other = _call(reduction['to'], reduction.get('to_kw', {}))
      factor = reduction.get('scale', 1)
      scale = '' if factor == 1 else f'{factor:.4g} x '
      stated.append(f'`{own}` = `{scale}{other}`')
  return '; '.join(stated) or 'none stated'


def _call(name, kw) -> str:
  return f'{name}({", ".join(f"{k}={v!r}" for k, v in kw.items())})'


if __name__ == '__main__':
  main()
