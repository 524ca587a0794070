"""Times a whole GRPO step against TRL and Tunix.

  python experiments/bench/peers.py --env=FOLDER [--quick] [--rounds=3] \
      [--only='step/*'] [--out=peers.json] [--page=README.md]

The same decoder with random weights, the same prompts and the same reward in
Python are built in this library, in TRL's GRPOTrainer (transformers on torch)
and in Tunix's GRPO learner with its sampler. Each side of each case is a
process of its own; a round runs them in turns: TRL, ours, Tunix for every
case. Every process adds its numbers to --out at once, so what was interrupted
goes on where it was when the same command is given again; --fresh begins anew.

The peers live in environments of their own, FOLDER/trl and FOLDER/tunix. What
is there is taken as it is; what is not is made by venv and pip, with the
versions that the numbers here were measured with.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  # As `experiments.bench.X`, and not by their names in this folder.
  sys.path[0] = str(ROOT)

from experiments.bench import peer_cases, peer_tables, report  # noqa: E402
from experiments.bench.sides import common  # noqa: E402

# This program stays small: a process counts the memory of who started it.
PACKAGES = {
    'trl': ('trl==1.16.0', 'transformers==5.10.4', 'torch==2.15.0',
            'accelerate==1.15.0', 'datasets==5.2.0'),
    'tunix': ('google-tunix==0.1.7', 'jax==0.10.2', 'flax==0.12.8')}
OUT = ROOT / 'experiments' / 'results' / 'peers.json'


def python_of(env: pathlib.Path, peer: str) -> pathlib.Path:
  """The interpreter of a peer's environment, which is made if it is missing.

  Args:
    env: folder of all environments.
    peer: of `PACKAGES`.

  Returns:
    Path.

  Raises:
    subprocess.CalledProcessError: it could not be made.
  """
  python = env / peer / 'bin' / 'python'
  if not python.exists():
    print(f'Installing {", ".join(PACKAGES[peer])} in {env / peer}', flush=True)
    subprocess.run([sys.executable, '-m', 'venv', env / peer], check=True)
    try:
      subprocess.run([python, '-m', 'pip', 'install', '-q', *PACKAGES[peer]],
                     check=True)
    except subprocess.CalledProcessError:
      # Else it would be taken as it is the next time.
      shutil.rmtree(env / peer)
      raise
  return python


class Results:
  """What was measured so far, on disk after each process."""

  def __init__(self, path, machine: dict, fresh: bool = False):
    self.path = pathlib.Path(path)
    self.data = dict(machine=machine, cases=[], runs=[], failed={})
    if self.path.exists() and not fresh:
      self.data |= json.loads(self.path.read_text('utf-8'))

  def plan(self, cases) -> None:
    """Takes the cases in; forgets what was measured of other settings."""
    known = {case['name']: case for case in self.data['cases']}
    for case in cases:
      # As JSON gives it back.
      spec = json.loads(json.dumps(case.spec()))
      spec['tokens'] = sum(common.lengths(spec))
      if known.get(case.name) != spec:
        self.data['runs'] = [
            run for run in self.data['runs'] if run['case'] != case.name]
      known[case.name] = spec
    order = [case.name for case in peer_cases.CASES]
    self.data['cases'] = sorted(
        known.values(), key=lambda spec: order.index(spec['name'])
        if spec['name'] in order else len(order))

  def has(self, case: str, side: str, number: int) -> bool:
    """Whether this process has run."""
    return any((run['case'], run['side'], run['round']) == (case, side, number)
               for run in self.data['runs'])

  def add(self, case: str, side: str, number: int, found: dict) -> None:
    """Notes and writes what a process measured, or why it did not."""
    where = f'{case}, {peer_tables.NAMES[side]}'
    if 'error' in found:
      self.data['failed'][where] = found['error']
    else:
      self.data['failed'].pop(where, None)
      self.data['machine'] |= found.pop('versions', {})
      self.data['runs'].append(
          dict(case=case, side=side, round=number) | found)
    partial = self.path.with_suffix('.partial')
    partial.write_text(json.dumps(self.data, indent=1), 'utf-8')
    os.replace(partial, self.path)


def machine() -> dict:
  """What the numbers depend on."""
  return dict(cores=os.cpu_count(), processor=_processor(),
              python=platform.python_version())


def _processor():
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text('utf-8')
  except OSError:
    return platform.processor()
  return next((line.partition(':')[2].strip() for line in text.splitlines()
               if 'model name' in line), platform.processor())


def run_side(python, case: peer_cases.Case, side: str, cache: pathlib.Path,
             limit: float) -> dict:
  """One process: its JSON line, or {'error': why there is none}."""
  spec = case.spec() | peer_cases.CHANGES.get(side, {})
  program = ROOT / 'experiments' / 'bench' / 'sides' / (
      peer_cases.PROGRAMS[side] + '.py')
  env = {name: value for name, value in os.environ.items()
         if not name.startswith(('JAX_', 'XLA_', 'PYTHON', 'VIRTUAL_ENV'))}
  env |= dict(JAX_PLATFORMS='cpu')
  if side.startswith('ours'):
    env |= dict(JAX_COMPILATION_CACHE_DIR=str(cache),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0')
  before = os.getloadavg()[0]
  try:
    done = subprocess.run(
        [python, program, json.dumps(spec)], env=env, capture_output=True,
        text=True, timeout=limit, check=False)
  except (OSError, subprocess.TimeoutExpired) as error:
    return dict(error=str(error)[-300:])
  lines = [x for x in done.stdout.splitlines() if x.startswith('{"')]
  if done.returncode or not lines:
    said = (done.stderr or done.stdout).strip().splitlines() or ['nothing said']
    return dict(error=f'exit code {done.returncode}: {said[-1][:300]}')
  return json.loads(lines[-1]) | dict(
      load=[before, os.getloadavg()[0]],
      at=datetime.datetime.now().isoformat(timespec='seconds'))


class Caches:
  """Folders of compiled programs: an empty one for each cold start."""

  def __init__(self, folder):
    self._folder, self._of, self._count = pathlib.Path(folder), {}, 0

  def cold(self, case: str) -> pathlib.Path:
    """An empty folder, which is that of the case from now on."""
    self._count += 1
    if case in self._of:
      shutil.rmtree(self._of[case], ignore_errors=True)
    self._of[case] = self._folder / str(self._count)
    return self._of[case]

  def warm(self, case: str) -> pathlib.Path | None:
    """The folder that a process of the case has filled, None without one."""
    return self._of.get(case)


def one(pythons, case, side, caches: Caches, limit: float) -> dict:
  """One process, and before it what it needs."""
  if side not in pythons:
    return dict(error='its environment could not be made')
  call = lambda cache: run_side(pythons[side], case, side, cache, limit)
  kind = f'{case.name}, {peer_cases.WARM.get(side, side)}'
  if side not in peer_cases.WARM:
    return call(caches.cold(kind))
  cache = caches.warm(kind)
  if cache is None:  # Nothing in this start of the script has filled it.
    cache = caches.cold(kind)
    call(cache)
  return call(cache)


def run(cases, pythons, results: Results, rounds: int, limit: float = 1800.,
        show=print) -> None:
  """All processes that have not run yet, in turns.

  Args:
    cases: of `peer_cases`.
    pythons: side -> interpreter; a side without one cannot run.
    results: takes the numbers.
    rounds: of all cases.
    limit: seconds of a process.
    show: what is called with a line for each process.
  """
  results.plan(cases)
  with tempfile.TemporaryDirectory() as folder:
    caches = Caches(folder)
    for number in range(rounds):
      for case in cases:
        for side in case.sides:
          if results.has(case.name, side, number):
            continue
          found = one(pythons, case, side, caches, limit)
          show(line(number, case, side, found))
          results.add(case.name, side, number, found)


def line(number: int, case, side: str, found: dict) -> str:
  """A process as a line on the terminal."""
  head = f'{number + 1} {case.name:28}{side:12}'
  if 'error' in found:
    return head + found['error']
  shown = [('step_ms', 'step'), ('generate_ms', 'generate'),
           ('update_ms', 'update'), ('start_s', 'first step s'),
           ('peak_mb', 'MB')]
  parts = [f'{name} {peer_tables.number(peer_tables.median(found, key))}'
           for key, name in shown if found.get(key) is not None]
  return head + ', '.join(parts) + f', load {found["load"][0]:.1f}'


def main(argv=None) -> int:
  """Parses the command line; 1 when a side could not run."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  add = parser.add_argument
  add('--env', required=True, help='folder of the environments of the peers')
  add('--rounds', type=int, help='of all cases (3; with --quick 1)')
  add('--quick', action='store_true', help='the small model, few steps')
  add('--only', default='', help='names, with * and ?, separated by commas')
  add('--sides', default=','.join(peer_cases.SIDES), help='that run')
  add('--limit', type=float, default=1800., help='seconds of a process')
  add('--fresh', action='store_true', help='forgets what was measured before')
  add('--out', help=f'JSON file ({OUT.relative_to(ROOT)}; with --quick one in '
      '--env,\nbecause fewer steps are another measurement)')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  wanted = args.sides.split(',')
  if not set(wanted) <= set(peer_cases.SIDES):
    parser.error(f'--sides={args.sides}; known: {", ".join(peer_cases.SIDES)}')
  cases = [dataclasses.replace(
      case, sides=tuple(x for x in case.sides if x in wanted))
           for case in peer_cases.select(args.only, args.quick)]
  env = pathlib.Path(args.env).expanduser().resolve()
  pythons = {side: sys.executable for side in peer_cases.SIDES}
  for peer in PACKAGES:
    if peer in wanted:
      try:
        pythons[peer] = python_of(env, peer)
      except (OSError, subprocess.CalledProcessError) as error:
        del pythons[peer]
        print(f'{peer} could not be installed: {error}')
  env.mkdir(parents=True, exist_ok=True)
  out = args.out or (env / 'peers_quick.json' if args.quick else OUT)
  results = Results(out, machine(), args.fresh)
  load = os.getloadavg()[0]
  if load > 1:
    print(f'The load of this machine is {load:.1f}: times will say little.')
  run(cases, pythons, results, args.rounds or (1 if args.quick else 3),
      args.limit, lambda text: print(text, flush=True))
  table = peer_tables.markdown(results.data)
  print('\n' + table)
  if args.page:
    report.put(args.page, 'peers', table)
  return int(bool(results.data['failed']))


if __name__ == '__main__':
  sys.exit(main())
