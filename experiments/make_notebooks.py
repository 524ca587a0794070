"""Makes the notebooks from their py:percent sources, and runs them.

  python experiments/make_notebooks.py [bnpo grpo ...] [--check]

Each notebooks/NAME.py becomes notebooks/NAME.ipynb with the stored results in
its figures. --check only compares the sources with the notebooks' cells.
"""

from __future__ import annotations

import pathlib
import sys

import jupytext
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'notebooks'


def main(argv=None) -> None:
  """Writes or checks the notebooks that are named, or all of them."""
  argv = sys.argv[1:] if argv is None else argv
  wanted = [word for word in argv if not word.startswith('--')]
  sources = [FOLDER / f'{name}.py' for name in wanted] or all_sources()
  if '--check' in argv:
    stale = [source.stem for source in sources if not up_to_date(source)]
    sys.exit(f'out of date: run python experiments/make_notebooks.py '
             f'{" ".join(stale)}' if stale else None)
  for source in sources:
    print(source.stem, flush=True)
    make(source)


def all_sources() -> list[pathlib.Path]:
  """The py:percent files, in the order of the alphabet."""
  return sorted(path for path in FOLDER.glob('*.py')
                if path.name != 'conftest.py')


def make(source: pathlib.Path) -> None:
  """Runs a notebook in its folder and writes it with what it shows."""
  notebook = _read(source)
  NotebookClient(notebook, kernel_name='python3', timeout=600,
                 resources={'metadata': {'path': str(FOLDER)}}).execute()
  for cell in notebook.cells:
    # The times of a run are no part of its result.
    cell.metadata.pop('execution', None)
  jupytext.write(notebook, source.with_suffix('.ipynb'))


def up_to_date(source: pathlib.Path) -> bool:
  """Whether the notebook has the cells of its source."""
  made = source.with_suffix('.ipynb')
  return made.exists() and _cells(_read(source)) == _cells(jupytext.read(made))


def _read(source):
  notebook = jupytext.read(source, fmt='py:percent')
  notebook.metadata = {
      'kernelspec': {'display_name': 'Python 3', 'language': 'python',
                     'name': 'python3'},
      'language_info': {'name': 'python'}}
  for number, cell in enumerate(notebook.cells):
    # Else they are random.
    cell.id = f'cell-{number}'
  return notebook


def _cells(notebook):
  return [(cell.cell_type, cell.source) for cell in notebook.cells]


if __name__ == '__main__':
  main()
