"""Times every advantage and loss kernel against the same function elsewhere.

  python experiments/bench/kernels.py [--only=grpo,gae] [--out=kernels.json] \
      [--batch=4096] [--length=4096] [--ours-only] [--no-scaling] [--step]

Both sides get the same arrays, in float32 and on all cores; ours are compiled,
theirs run as their library runs them. Each pair is compared first, then timed
in turns, ours, theirs, ours, theirs, and the medians are divided. A second
part times ours at several sizes and fits t ~ nᵏ: k is near 1 for what grows
linearly, and flagged above 1.15. With --step a few are timed as large as the
step of a small model has them, where what a call itself costs shows.

The peers are torch, verl and TRL, which nothing else of this project needs.
Best in an environment of their own, either line installs them; the second takes
only what verl imports here:

  pip install -e '.[bench]'
  pip install -e . torch trl omegaconf ray codetiming \
      'tensordict>=0.8,<=0.10,!=0.9.0' && pip install --no-deps verl
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import os
import pathlib
import platform
import sys
import time
import warnings

import jax

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  # As `experiments.bench.X`, and not by their names in this folder.
  sys.path[0] = str(ROOT)

from experiments.bench import (  # noqa: E402
    advantages,
    corrections,
    losses,
    recipes,
    report,
)
from experiments.bench.cases import Case, public, reached  # noqa: E402
from experiments.bench.inputs import Inputs  # noqa: E402
from experiments.bench.timing import (  # noqa: E402
    FIXED,
    PASSES,
    SIZES,
    compare,
    growth,
    own_arrays,
)
from experiments.bench.torch_kernels import INSTALL, load  # noqa: E402

# Cases and (B, T): rows and tokens, or tokens and vocabulary.
STEP = (('gae', (256, 1024)), ('grpo', (4096, 1)), ('log-probs*', (2048, 8192)))


def all_cases() -> tuple[Case, ...]:
  """Every case, in the order of the table."""
  return (*advantages.CASES, *losses.CASES, *corrections.CASES,
          *recipes.cases())


def machine(peers) -> dict:
  """What the numbers depend on."""
  model = platform.processor()
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    names = [line.partition(':')[2].strip() for line in
             cpuinfo.read_text().splitlines() if 'model name' in line]
    model = names[0] if names else model
  return {
      'cores': os.cpu_count(), 'processor': model,
      'python': platform.python_version(), 'jax': jax.__version__,
      'device': jax.devices()[0].device_kind,
      **(peers.versions() if peers else {})}


def untimed(cases, length: int = 8) -> list[str]:
  """Public kernels that none of the cases runs through."""
  inputs = Inputs(16, length)
  seen = set().union(*(
      reached(case, own_arrays(case, inputs)) for case in cases))
  return sorted(set(public().values()) - seen)


def select(cases, patterns: str):
  """The cases whose name matches one of the patterns, separated by commas."""
  wanted = patterns.split(',') if patterns else ['*']
  chosen = [case for case in cases if any(
      fnmatch.fnmatch(case.name, pattern) for pattern in wanted)]
  if not chosen:
    raise ValueError(f'--only={patterns} matches none of the cases')
  return chosen


def run(cases, size=(4096, 4096), peers=None, repeats: int = 7,
        sizes=SIZES, fixed: int = FIXED, options: dict | None = None,
        show=print) -> dict:
  """The whole benchmark.

  Args:
    cases: what is timed.
    size: (B, T) of the comparison.
    peers: see `torch_kernels.load`; None times ours alone.
    repeats: of every side.
    sizes: of the side that grows; empty for no second part.
    fixed: of the other one.
    options: of XLA, for the comparison.
    show: what is called with each line.

  Returns:
    What kernels.json holds.
  """
  start, inputs, rows, grown = time.perf_counter(), Inputs(*size), [], {}
  show(report.head())
  for case in cases:
    for direction in PASSES[not case.forward:1 + bool(case.by)]:
      rows.append(compare(
          case, direction, inputs, peers, repeats, options))
      show(report.line(rows[-1]))
  # The large arrays make room for the small ones.
  del inputs
  if sizes:
    show(f'\nt ~ n^k for n in {list(sizes)}, the other side {fixed}')
  for case in cases if sizes else ():
    if case.scaled:
      grown[case.name] = growth(case, sizes, fixed, repeats)
      show(report.growth_line(case.name, grown[case.name]))
  seconds = time.perf_counter() - start
  show(f'\n{seconds:.0f} s in all')
  return dict(machine=machine(peers), size=dict(batch=size[0], length=size[1]),
              repeats=repeats, seconds=seconds, rows=rows, growth=grown)


def run_step(step, peers=None, repeats: int = 7, show=print) -> dict:
  """The cases of a step, each as large as it is there.

  Args:
    step: pairs of a pattern of names and a size, as `STEP`.
    peers: as in `run`, as are all that follow.
    repeats: of every side.
    show: what is called with each line.

  Returns:
    As `run`, with a size in every row.
  """
  rows = []
  for pattern, size in step:
    part = run(select(all_cases(), pattern), size, peers, repeats, sizes=(),
               show=show)
    rows += [row | part['size'] for row in part['rows']]
  return dict(machine=machine(peers), repeats=repeats, rows=rows)


def main(argv=None) -> int:
  """Parses the command line; 1 when a pair differs or a peer fails."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add('--batch', type=int, default=4096, help='B of the comparison')
  add('--length', type=int, default=4096, help='T of the comparison')
  add('--repeats', type=int, default=7, help='calls of each side')
  add('--only', default='', help='names, with * and ?, separated by commas')
  add('--sizes', default=','.join(map(str, SIZES)), help='of the growing side')
  add('--fixed', type=int, default=FIXED, help='of the side that does not')
  add('--no-scaling', action='store_true', help='leaves out the second part')
  add('--step', action='store_true', help='a few cases, as large as in a step')
  add('--ours-only', action='store_true', help='needs no peers')
  add('--out', help='JSON file for the results')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  # Where theirs run too.
  jax.config.update('jax_platforms', 'cpu')
  # Reading a program from the disk is not compiling it.
  jax.config.update('jax_enable_compilation_cache', False)
  peers = None
  if not args.ours_only:
    peers = load()
    for reason in peers.missing.values():
      print(f'Missing: {reason}')
    if peers.missing:
      print(f'Install what is missing by\n  {INSTALL}\n'
            'or leave the peers out by --ours-only.\n')
    if 'torch' in peers.missing:
      return 2
  show = functools.partial(print, flush=True)
  cases = select(all_cases(), args.only)
  sizes = () if args.no_scaling else tuple(map(int, args.sizes.split(',')))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    if args.step:
      return _write(args, run_step(STEP, peers, args.repeats, show))
    result = run(cases, (args.batch, args.length), peers, args.repeats, sizes,
                 args.fixed, show=show)
  if not args.only:
    result['untimed'] = untimed(cases)
    result['too_large'] = recipes.too_large()
    print('No case runs through:', ', '.join(result['untimed']))
    print('Recipes that need larger arrays:', result['too_large'])
  return _write(args, result)


def _write(args, result) -> int:
  """Writes what was asked for; 1 when a pair differs or a peer fails."""
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(result, indent=1), 'utf-8')
  if args.page:
    report.write_page(args.page, result)
  bad = [row['name'] for row in result['rows']
         if row['check'].startswith(('DIFFERS', 'FAILED'))]
  if bad:
    print('Not the same, or not run:', ', '.join(bad))
  return int(bool(bad))


if __name__ == '__main__':
  sys.exit(main())
