"""How time and memory of our rollout and update grow with the tokens.

  python experiments/bench/growth.py [--only=rows] [--steps=3] \
      [--out=growth.json] [--page=README.md]

First the rows of a batch grow 16-fold, each as long as before and as many to a
microbatch; then, for 64 rows, their length. Every size is a process of its own,
one after another; see peers.py. t ~ nᵏ is fitted to the least times: k is 1
where time is proportional to the tokens. Longer rows cost more than that in the
end, because each token attends to all before it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  # As `experiments.bench.X`, and not by their names in this folder.
  sys.path[0] = str(ROOT)

from experiments.bench import peer_tables, peers, report  # noqa: E402
from experiments.bench.peer_cases import Case  # noqa: E402

MEASURES = {'generate_ms': 'generate', 'update_ms': 'update',
            'peak_mb': 'peak memory'}


def cases(axis: str, model: str = 'small', dtype: str = 'float32',
          steps: int = 3) -> tuple[Case, ...]:
  """The sizes of an axis: five, each twice the tokens of the one before.

  Args:
    axis: 'rows' or 'length'.
    model: of `peer_cases.MODELS`.
    dtype: of the computation.
    steps: that a process times.

  Returns:
    Cases, the smallest first.
  """
  sizes = [2**i for i in range(5)]
  if axis == 'rows':
    return tuple(Case(
        f'rows/{16 * n}', model, dtype, prompts=2 * n, microbatches=n,
        sides=('ours',), steps=steps, calls=steps) for n in sizes)
  return tuple(Case(
      f'length/{48 * n}', model, dtype, prompt=16 * n, response=32 * n,
      sides=('ours',), steps=steps, calls=steps) for n in sizes)


def tokens(case: Case) -> int:
  """Of all rows, prompts included."""
  return case.prompts * case.samples * (case.prompt + case.response)


def exponent(sizes, values) -> float:
  """k of v ~ nᵏ, by least squares on the logarithms.

  Args:
    sizes: n, positive.
    values: v, positive.

  Returns:
    k.

  Example:
    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
  """
  return statistics.linear_regression(
      [math.log(n) for n in sizes], [math.log(v) for v in values]).slope


def run(chosen, limit: float, show=print) -> list[dict]:
  """One process for each case.

  Args:
    chosen: cases.
    limit: seconds of a process.
    show: what is called with a line for each.

  Returns:
    Rows of the table.

  Raises:
    RuntimeError: a process has failed.
  """
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for case in chosen:
      found = peers.run_side(
          sys.executable, case, 'ours', pathlib.Path(folder) / case.name, limit)
      show(peers.line(0, case, 'ours', found))
      if 'error' in found:
        raise RuntimeError(f'{case.name}: {found["error"]}')
      rows.append(dict(
          case=case.name, axis=case.name.partition('/')[0], model=case.model,
          dtype=case.dtype, rows=case.prompts * case.samples,
          length=case.prompt + case.response, tokens=tokens(case),
          load=found['load'],
          **{name: peer_tables.least(found, name) for name in MEASURES}))
  return rows


def fits(rows: list[dict]) -> dict:
  """axis -> measure -> exponent."""
  out = {}
  for axis in dict.fromkeys(row['axis'] for row in rows):
    own = [row for row in rows if row['axis'] == axis]
    if len(own) > 1:
      out[axis] = {name: exponent([row['tokens'] for row in own],
                                  [row[name] for row in own])
                   for name in MEASURES}
  return out


def markdown(result: dict) -> str:
  """The page's table."""
  facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
  lines = [
      f'{result["model"]}, {result["dtype"]}; {facts}.', '',
      '| grows | rows | tokens of a row | tokens | generate, ms | update, ms '
      '| peak memory, MB | load |',
      '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |']
  for row in result['rows']:
    lines.append('| ' + ' | '.join([
        row['axis'], str(row['rows']), str(row['length']), str(row['tokens']),
        *(peer_tables.number(row[name]) for name in MEASURES),
        '-'.join(f'{x:.1f}' for x in row['load'])]) + ' |')
  for axis, fit in result['exponents'].items():
    lines.append(f'| {axis}: k | | | | ' + ' | '.join(
        f'**{fit[name]:.2f}**' for name in MEASURES) + ' | |')
  return '\n'.join(lines)


def main(argv=None) -> int:
  """Parses the command line, measures, writes."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add('--only', default='rows,length', help='what grows')
  add('--model', default='small', help='of peer_cases.MODELS')
  add('--dtype', default='float32', help='of the computation')
  add('--steps', type=int, default=3, help='that each process times')
  add('--limit', type=float, default=1800., help='seconds of a process')
  add('--out', help='JSON file for the results')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  if os.getloadavg()[0] > 1:
    print('This machine has other work: times will say little.')
  chosen = [case for axis in args.only.split(',')
            for case in cases(axis, args.model, args.dtype, args.steps)]
  rows = run(chosen, args.limit, functools.partial(print, flush=True))
  result = dict(machine=peers.machine(), model=args.model, dtype=args.dtype,
                rows=rows, exponents=fits(rows))
  table = markdown(result)
  print('\n' + table)
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(result, indent=1), 'utf-8')
  if args.page:
    report.put(args.page, 'growth', table)
  return 0


if __name__ == '__main__':
  sys.exit(main())
