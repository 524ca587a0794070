"""Compares, times and fits the two sides of a case."""

from __future__ import annotations

import functools
import gc
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.cases import Case, wants
from experiments.bench.inputs import Inputs

TOLERANCE = 1e-4
STEEP = 1.15
# Places out of a million that may differ by any amount: at the edge of a clip
# rounding decides which side a token is on, and so whether it has a gradient.
EDGES = 2
SIZES = (256, 512, 1024, 2048, 4096)
# The other side of the array while one grows: so small that all of it stays in
# the cache. Beyond, fresh pages make even an addition grow faster than n.
FIXED = 128
# Seconds after which a row is not repeated for a fourth time.
PATIENCE = 20.
PASSES = ('forward', 'backward')


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
  """‖ours − theirs‖ / ‖theirs‖, the largest over the peer's outputs.

  Args:
    ours: name -> array, at least those of theirs.
    theirs: name -> tensor, array or number.
    inside: bool[B, T], where arrays of that shape are compared, or None.

  Returns:
    The distance, without the few places that `EDGES` allows; infinite where
    one of them is not finite.

  Raises:
    ValueError: the shapes differ.
  """
  worst = 0.
  for name, other in theirs.items():
    if hasattr(other, 'detach'):
      other = other.detach().numpy()
    a, b = np.asarray(ours[name]), np.asarray(other)
    if a.shape != b.shape:
      raise ValueError(f'{name}: ours has shape {a.shape}, theirs {b.shape}')
    if inside is not None and b.shape == inside.shape:
      a, b = a[inside], b[inside]
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    apart, edges = np.abs(a - b), EDGES * len(b) // 10**6
    if edges:
      apart = np.partition(apart, -edges)[:-edges]
    apart, size = np.linalg.norm(apart), np.linalg.norm(b)
    found = apart / size if size else apart
    worst = max(worst, found if np.isfinite(found) else np.inf)
  return float(worst)


def timed(*sides, repeats: int, patience: float = np.inf) -> list[list[float]]:
  """Milliseconds of every call of each of the functions, called in turns.

  Args:
    *sides: functions of nothing.
    repeats: of each.
    patience: seconds after which there are only three.

  Returns:
    One list per function.
  """
  times = [[] for _ in sides]
  gc.collect()
  began = time.perf_counter()
  for done in range(repeats):
    if done >= 3 and time.perf_counter() - began > patience:
      break
    for side, taken in zip(sides, times):
      start = time.perf_counter()
      jax.block_until_ready(side())
      taken.append(1e3 * (time.perf_counter() - start))
  return times


def compare(case: Case, direction: str, inputs: Inputs, peers=None,
            repeats: int = 7, options: dict | None = None) -> dict:
  """One row of the table.

  Args:
    case: what is timed.
    direction: 'forward', or 'backward' for forward and backward.
    inputs: of the size to be timed.
    peers: see `torch_kernels.load`; None times ours alone.
    repeats: of each side.
    options: of XLA.

  Returns:
    The row: medians in ms, the time to compile in s, and the check.
  """
  arrays = own_arrays(case, inputs)
  start = time.perf_counter()
  compiled = jax.jit(own_pass(case, direction)).lower(arrays).compile(
      compiler_options=options)
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
  times = timed(*sides, repeats=repeats, patience=PATIENCE)
  row['repeats'] = len(times[0])
  row['ours_ms'], *rest = map(statistics.median, times)
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
  """How our side grows with B and with T: least times in ms and exponents.

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
    arrays = [
        own_arrays(case, small_inputs(
            *((size, fixed) if axis == 'B' else (fixed, size))))
        for size in sizes]
    if axis == 'T' and not any(
        x.shape[1:] == sizes[-1:] for x in arrays[-1].values()):
      break
    sides = [functools.partial(function, x) for x in arrays]
    for side in sides:
      jax.block_until_ready(side())
    # What else the machine does can only add to them.
    times = [min(taken) for taken in timed(*sides, repeats=repeats)]
    slope = exponent(sizes, times)
    grown[axis] = dict(sizes=list(sizes), ms=times, exponent=slope,
                       steep=slope > STEEP, direction=direction)
  return grown
