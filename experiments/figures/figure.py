"""Runs, stores and shows a figure: what all files of figures have in common.

A figure is a module with

  CLAIMS: tuple of `verdict.Claim`.
  METHODS: names of the recipes that it is about.
  run(fast) -> records, a tree of dicts whose leaves are numpy arrays with the
    seeds on axis 0 (what all seeds share has none); fast: fewer seeds and
    steps, to see that all works.
  plot(records) -> matplotlib Figure.
  table(records) -> text, printed by `main`; optional.
  cost(records) -> seconds that it took, where a run goes on from what was
    measured before; optional.

and ends with `figure.main(__name__)` under `if __name__ == '__main__'`.
"""

from __future__ import annotations

import argparse
from importlib import metadata
import json
import os
import pathlib
import sys
import time
from types import ModuleType

import jax
import numpy as np

from experiments.figures import verdict

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORE = ROOT / 'experiments' / 'results' / 'figures'
# Set (to anything) where notebooks shall run their figure in fast mode.
FAST = 'POLICYOPT_FAST'
_BETWEEN = '::'
_PACKAGES = ('jax', 'jaxlib', 'numpy', 'optax', 'flax')


def name_of(module: ModuleType) -> str:
  """'bnpo' of experiments/figures/bnpo.py."""
  return pathlib.Path(module.__file__).stem


def records_of(module: ModuleType) -> dict:
  """The stored records, or with POLICYOPT_FAST set those of a fast run."""
  if os.environ.get(FAST):
    hurry()
    return module.run(fast=True)
  return load(name_of(module))


def verdicts(module: ModuleType, records: dict) -> list[str]:
  """A line for each claim: what it says, and what the records say of it."""
  return [f'{claim.says}\n  {verdict.sentence(claim, found)}'
          for claim, found in judged(module, records)]


def judged(module: ModuleType, records: dict):
  """[(Claim, Verdict)] of a figure."""
  return [(claim, verdict.judge(claim, records)) for claim in module.CLAIMS]


def hurry() -> None:
  """Compiles in haste: a fast run spends most of its time compiling."""
  jax.config.update('jax_disable_most_optimizations', True)


def save(module: ModuleType, records: dict, seconds: float, folder,
         fast: bool = False) -> None:
  """Writes NAME.json, NAME.npz and NAME.png.

  Args:
    module: the figure.
    records: what its run measured.
    seconds: that the run took.
    folder: to write into.
    fast: whether it was a fast run.
  """
  folder, name = pathlib.Path(folder), name_of(module)
  folder.mkdir(parents=True, exist_ok=True)
  flat = _flatten(records)
  with open(folder / f'{name}.npz', 'wb') as file:
    np.savez_compressed(file, **flat)
  claims = [dict(says=claim.says, measured=claim.measured, unit=claim.unit,
                 at_least=claim.at_least, **found._asdict())
            for claim, found in judged(module, records)]
  summary = dict(
      figure=name, methods=list(module.METHODS), claims=claims,
      command=f'python experiments/figures/{name}.py' + ' --fast' * fast,
      seconds=round(seconds, 1), cores=os.cpu_count(),
      backend=jax.default_backend(), date=time.strftime('%Y-%m-%d'),
      versions={package: metadata.version(package) for package in _PACKAGES})
  (folder / f'{name}.json').write_text(json.dumps(summary, indent=1) + '\n')
  module.plot(records).savefig(folder / f'{name}.png', dpi=110)


def load(name: str, folder=None) -> dict:
  """The records that `save` has written; folder: None for STORE.

  Raises:
    FileNotFoundError: none are stored.
  """
  with np.load(pathlib.Path(folder or STORE) / f'{name}.npz') as file:
    return _unflatten({key: file[key] for key in file.files})


def summary(name: str, folder=None) -> dict:
  """What NAME.json says.

  Raises:
    FileNotFoundError: it is not there.
  """
  return json.loads((
      pathlib.Path(folder or STORE) / f'{name}.json').read_text())


def main(name: str, argv=None) -> None:
  """Measures, prints the verdicts, and writes what was measured.

  Without --fast the effects are compared with the stored ones: exit status 1
  when one lies outside its stored interval.

  Args:
    name: the module's `__name__`.
    argv: of the command line.
  """
  module = sys.modules[name]
  parser = argparse.ArgumentParser(
      description=module.__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--fast', action='store_true',
                      help='few seeds and steps, to see that it works')
  parser.add_argument('--out', default='runs/figures', help='folder to write')
  parser.add_argument('--store', action='store_true',
                      help='write into experiments/results/figures instead')
  options = parser.parse_args(argv)
  if options.fast and options.store:
    parser.error('--store is for whole runs, without --fast')
  if options.fast:
    hurry()
  start = time.monotonic()
  records = module.run(fast=options.fast)
  seconds = time.monotonic() - start
  if hasattr(module, 'cost') and not options.fast:
    seconds = module.cost(records)
  if hasattr(module, 'table'):
    print(module.table(records))
  print('\n'.join(verdicts(module, records)))
  print(f'{seconds:.0f} s')
  here = STORE if options.store else pathlib.Path(options.out)
  save(module, records, seconds, here, options.fast)
  print(here / f'{name_of(module)}.png')
  if not options.fast and not options.store:
    sys.exit(compare(module, records))


def compare(module: ModuleType, records: dict) -> int:
  """0 if every effect lies in its stored interval; says so, or which not."""
  try:
    stored = summary(name_of(module))['claims']
  except FileNotFoundError:
    print('nothing is stored to compare with')
    return 0
  outside = [
      f'{claim.says}: effect {found.effect:.4g}, stored '
      f'[{old["low"]:.4g}, {old["high"]:.4g}]'
      for (claim, found), old in zip(judged(module, records), stored)
      if not old['low'] <= found.effect <= old['high']]
  print('\n'.join(outside) or 'the stored results are reproduced')
  return int(bool(outside))


def _flatten(tree, prefix=''):
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= _flatten(value, f'{prefix}{key}{_BETWEEN}')
    else:
      flat[prefix + key] = np.asarray(value)
  return flat


def _unflatten(flat):
  tree = {}
  for path, value in flat.items():
    *folders, name = path.split(_BETWEEN)
    here = tree
    for folder in folders:
      here = here.setdefault(folder, {})
    here[name] = value
  return tree
