"""Writes ATLAS.md: every claim that a figure judges, and what came out.

Everything comes from experiments/results/figures, which the figures write.

  python experiments/atlas.py [--check]
"""

from __future__ import annotations

import collections
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.figures import figure  # noqa: E402

HEAD = """# Atlas

What papers claim, tried on common ground. Made by `python experiments/atlas.py`
from the results that the figures store; nothing here is written by hand.

An effect is positive when the claim is right, and measured once a seed. A claim
is *reproduced* when the 95% interval of the mean (Student, over seeds) lies
above the smallest effect that counts (0 unless said), *contradicted* when it
lies below minus that, and otherwise *undecided* at this scale. The policies are
tables or small transformers: a verdict speaks of the mechanism, not of the
paper's benchmarks. *Cost* is that of measuring all claims of a figure.
"""


def main() -> None:
  """Writes the page, or with --check says whether it is up to date."""
  path, text = ROOT / 'ATLAS.md', page()
  if '--check' in sys.argv[1:]:
    old = path.read_text('utf-8') if path.exists() else ''
    sys.exit(None if old == text else f'{path.name} is out of date: run '
             'python experiments/atlas.py')
  path.write_text(text, 'utf-8')


def names() -> list[str]:
  """The figures that have stored results, in the order of the alphabet."""
  return sorted(path.stem for path in figure.STORE.glob('*.json'))


def page() -> str:
  """The whole page.

  Returns:
    Markdown.
  """
  found = [figure.summary(name) for name in names()]
  count = collections.Counter(
      claim['word'] for each in found for claim in each['claims'])
  counted = ', '.join(f'{count[word]} {word}' for word in (
      'reproduced', 'contradicted', 'undecided'))
  rows = '\n'.join(row for each in found for row in _rows(each))
  versions = sorted({', '.join(f'{k} {v}' for k, v in each['versions'].items())
                     for each in found})
  return (
      f'{HEAD}\n{sum(count.values())} claims: {counted}.\n\n'
      '| figure | methods | claim | measured | verdict | effect [95%] | seeds '
      '| cost | notebook |\n'
      f'|{" --- |" * 9}\n{rows}\n\n'
      f'Measured with {"; ".join(versions)}; every row again with '
      '`python experiments/figures/NAME.py`.\n')


def _rows(summary: dict) -> list[str]:
  name = summary['figure']
  lines = []
  for number, claim in enumerate(summary['claims']):
    unit = f' {claim["unit"]}' if claim['unit'] else ''
    least = f' (counts from {claim["at_least"]:g})' if claim['at_least'] else ''
    cells = [
        f'[{name}](experiments/results/figures/{name}.png)',
        ', '.join(f'`{method}`' for method in summary['methods']),
        claim['says'], claim['measured'] + least, f'**{claim["word"]}**',
        f'{claim["effect"]:+.3g}{unit} [{claim["low"]:+.3g}, '
        f'{claim["high"]:+.3g}]', str(claim['seeds']),
        f'{summary["seconds"]:.0f} s', f'[open](notebooks/{name}.ipynb)']
    if number:
      for same in 0, 1, -2, -1:
        cells[same] = ''
    lines.append('| ' + ' | '.join(
        cell.replace('|', r'\|') for cell in cells) + ' |')
  return lines


if __name__ == '__main__':
  main()
