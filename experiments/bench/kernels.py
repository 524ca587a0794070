"""Times every advantage and loss kernel against the same function elsewhere.

  python experiments/bench/kernels.py [--only=grpo,gae] [--out=kernels.json] \
      [--batch=4096] [--length=4096] [--ours-only] [--no-scaling]

Both sides get the same arrays, in float32 and on all cores; ours are compiled,
theirs run as their library runs them. Each pair is compared first, then timed
in turns, ours, theirs, ours, theirs, and the medians are divided. A second
part times ours at several sizes and fits t ~ nᵏ: k is near 1 for what grows
linearly, and flagged above 1.15.

The peers are torch, verl and TRL, which nothing else of this project needs:

  pip install torch trl omegaconf ray codetiming \
      'tensordict>=0.8,<=0.10,!=0.9.0' && pip install --no-deps verl
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import gc
import json
import os
import pathlib
import platform
import statistics
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As `experiments.bench.X`, and not by the names that they have in this folder.
sys.path[:1] = [str(ROOT)] if __name__ == '__main__' else sys.path[:1]

from experiments.bench import (  # noqa: E402
    advantages,
    corrections,
    losses,
    peers as peers_lib,
    recipes,
    report,
)
from experiments.bench.cases import Case, public, reached, wants  # noqa: E402
from experiments.bench.inputs import Inputs  # noqa: E402

TOLERANCE = 1e-4
STEEP = 1.15
SIZES = (256, 512, 1024, 2048, 4096)
# The other side of the array while one grows.
FIXED = 1024
PASSES = ('forward', 'backward')


def all_cases() -> tuple[Case, ...]:
  """Every case, in the order of the table."""
  return (*advantages.CASES, *losses.CASES, *corrections.CASES,
          *recipes.cases())


def own_arrays(case: Case, inputs: Inputs) -> dict[str, jax.Array]:
  """What our side of a case asks for."""
  return {name: jnp.asarray(inputs[name]) for name in wants(case.ours)}


def own_pass(case: Case, direction: str):
  """Our side as a function of its arrays; 'backward' adds the gradient."""
  if direction == 'forward':
    return lambda x: case.ours(**x)

  def run(x):
    def total(leaf):
      out = dict(case.ours(**{**x, case.by: leaf}))
      return jnp.sum(out.pop('loss')), out

    (loss, rest), gradient = jax.value_and_grad(
        total, has_aux=True)(x[case.by])
    return {'loss': loss, 'gradient': gradient, 'rest': rest}

  return run


def peer_pass(case: Case, direction: str, peers, inputs: Inputs):
  """The peer's side as a function of nothing."""
  torch = peers.torch
  args = {}
  for name in wants(case.peer):
    if name == 'index':
      args[name] = inputs['ids'].astype(np.int64)
    elif hasattr(peers, name):
      args[name] = getattr(peers, name)
    else:
      args[name] = peers.tensor(inputs[name])
  if direction == 'forward':
    def run():
      with torch.no_grad():
        return case.peer(**args)
    return run

  def run_both():
    leaf = args[case.by].detach().requires_grad_()
    loss = case.peer(**{**args, case.by: leaf})['loss'].sum()
    gradient, = torch.autograd.grad(loss, leaf)
    return {'loss': loss, 'gradient': gradient}

  return run_both


def difference(ours: dict, theirs: dict, inside: np.ndarray | None) -> float:
  """‖ours − theirs‖ / ‖theirs‖, the largest over the peer's outputs."""
  worst = 0.
  for name, other in theirs.items():
    if hasattr(other, 'detach'):
      other = other.detach().numpy()
    a, b = np.asarray(ours[name]), np.asarray(other)
    if a.shape != b.shape:
      raise ValueError(f'{name}: ours has shape {a.shape}, theirs {b.shape}')
    if inside is not None and b.shape == inside.shape:
      a, b = a[inside], b[inside]
    apart = np.linalg.norm((a - b.astype(np.float64)).ravel())
    size = np.linalg.norm(b.astype(np.float64).ravel())
    # Written so that NaN is what comes out of NaN.
    worst = max(worst, apart / size if size else apart, key=_nan_first)
  return float(worst)


def _nan_first(x: float) -> float:
  return np.inf if np.isnan(x) else x


def timed(*sides, repeats: int) -> list[float]:
  """Median milliseconds of each of the functions, called in turns."""
  times = [[] for _ in sides]
  gc.collect()
  for _ in range(repeats):
    for side, taken in zip(sides, times):
      start = time.perf_counter()
      jax.block_until_ready(side())
      taken.append(1e3 * (time.perf_counter() - start))
  return [statistics.median(taken) for taken in times]


def compare(case: Case, direction: str, inputs: Inputs, peers=None,
            repeats: int = 7) -> dict:
  """One row of the table.

  Args:
    case: what is timed.
    direction: 'forward', or 'backward' for forward and backward.
    inputs: of the size to be timed.
    peers: see `peers.load`; None times ours alone.
    repeats: of each side.

  Returns:
    The row: medians in ms, the time to compile in s, and the check.
  """
  arrays = own_arrays(case, inputs)
  start = time.perf_counter()
  compiled = jax.jit(own_pass(case, direction)).lower(arrays).compile()
  compile_s = time.perf_counter() - start
  row = dict(name=case.name, direction=direction, peer=case.theirs,
             compile_s=compile_s, peer_ms=None, ratio=None, difference=None,
             check='no peer' if case.peer is None else 'not compared')
  result = jax.block_until_ready(compiled(arrays))
  sides = [lambda: compiled(arrays)]
  if case.peer is not None and peers is not None:
    absent = [name for name in wants(case.peer) if name in peers.missing]
    try:
      if absent:
        raise ImportError(peers.missing[absent[0]])
      theirs = peer_pass(case, direction, peers, inputs)
      row['difference'] = difference(
          result, theirs(), inputs[case.inside] if case.inside else None)
      row['check'] = (
          'agrees' if row['difference'] <= TOLERANCE else 'DIFFERS')
      sides.append(theirs)
    except Exception as error:  # Another version: the others still count.
      row['check'] = f'FAILED: {type(error).__name__}: {error}'
  del result
  row['ours_ms'], *rest = timed(*sides, repeats=repeats)
  if rest:
    row['peer_ms'] = rest[0]
    row['ratio'] = row['ours_ms'] / rest[0]
  return row


# Those of one size serve all cases.
small_inputs = functools.cache(Inputs)


def exponent(sizes, times) -> float:
  """Slope of the straight line through (log size, log time)."""
  return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def growth(case: Case, sizes=SIZES, fixed: int = FIXED,
           repeats: int = 7) -> dict:
  """How our side grows with B and with T: times in ms and exponents.

  Args:
    case: what is timed, forward and backward where it has a gradient.
    sizes: of the side that grows.
    fixed: of the other one.
    repeats: of each size.

  Returns:
    {'B': {...}, 'T': {...}}, without 'T' when nothing is [B, T].
  """
  direction = PASSES[bool(case.by)]
  function, grown = jax.jit(own_pass(case, direction)), {}
  for axis in ('B', 'T'):
    times = []
    for size in sizes:
      inputs = small_inputs(
          *((size, fixed) if axis == 'B' else (fixed, size)))
      arrays = own_arrays(case, inputs)
      if axis == 'T' and all(x.shape[1:] != (size,) for x in arrays.values()):
        break
      jax.block_until_ready(function(arrays))
      times += timed(lambda x=arrays: function(x), repeats=repeats)
    if times:
      slope = exponent(sizes, times)
      grown[axis] = dict(sizes=list(sizes), ms=times, exponent=slope,
                         steep=slope > STEEP)
  return grown


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
        sizes=SIZES, fixed: int = FIXED, show=print) -> dict:
  """The whole benchmark.

  Args:
    cases: what is timed.
    size: (B, T) of the comparison.
    peers: see `peers.load`; None times ours alone.
    repeats: of every side.
    sizes: of the side that grows; empty for no second part.
    fixed: of the other one.
    show: what is called with each line.

  Returns:
    What kernels.json holds.
  """
  start, inputs, rows, grown = time.perf_counter(), Inputs(*size), [], {}
  show(report.head())
  for case in cases:
    for direction in PASSES[not case.forward:1 + bool(case.by)]:
      rows.append(compare(case, direction, inputs, peers, repeats))
      show(report.line(rows[-1]))
  inputs = None
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
  add('--ours-only', action='store_true', help='needs no peers')
  add('--out', help='JSON file for the results')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  # Reading a program from the disk is not compiling it.
  jax.config.update('jax_enable_compilation_cache', False)
  peers = None
  if not args.ours_only:
    peers = peers_lib.load()
    for reason in peers.missing.values():
      print(f'Missing: {reason}')
    if peers.missing:
      print(f'Install what is missing by\n  {peers_lib.INSTALL}\n'
            'or leave the peers out by --ours-only.\n')
    if 'torch' in peers.missing:
      return 2
  cases = select(all_cases(), args.only)
  sizes = () if args.no_scaling else tuple(map(int, args.sizes.split(',')))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    result = run(cases, (args.batch, args.length), peers, args.repeats, sizes,
                 args.fixed)
  if not args.only:
    result['untimed'] = untimed(cases)
    result['too_large'] = recipes.too_large()
    print('No case runs through:', ', '.join(result['untimed']))
    print('Recipes that need larger arrays:', result['too_large'])
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
