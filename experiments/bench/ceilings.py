"""Measures what a device can do: products, and copies of memory.

  python experiments/bench/ceilings.py [--repeats=20] \
      [--out=experiments/results/ceilings.json] \
      [--page=experiments/bench/README.md]

A run with `--config.profile=START,STOP` reads the file and says what part of
these its phases reach.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time

import jax
from jax import lax
import jax.numpy as jnp

ROOT = pathlib.Path(__file__).resolve().parents[2]
if __name__ == '__main__':
  # As `experiments.bench.X`, and not by their names in this folder.
  sys.path[0] = str(ROOT)

from experiments.bench import report  # noqa: E402
from experiments.bench.kernels import machine  # noqa: E402
from policyopt.training import profile_table  # noqa: E402

# Rows, inner and outer width: square; a projection over a microbatch; the same
# over the rows of a decode step.
SHAPES = {'cpu': ((2048, 2048, 2048), (4096, 256, 704), (1088, 384, 1024),
                  (64, 256, 704)),
          'accelerator': ((8192, 8192, 8192), (16384, 2048, 6144),
                          (16384, 6144, 2048), (256, 2048, 6144))}
BYTES = {'cpu': 2**29, 'accelerator': 2**32}
DTYPES = ('float32', 'bfloat16')


def times(run, repeats: int, *, inner: int = 1) -> list[float]:
  """Seconds of a call, of each of so many repeats of `inner` calls.

  Args:
    run: dispatches one call and returns its arrays.
    repeats: after one that is not timed.
    inner: calls in a row, so that what is timed is not the dispatch.

  Returns:
    One number for each repeat.
  """
  jax.block_until_ready(run())
  found = []
  for _ in range(repeats):
    start = time.perf_counter()
    for _ in range(inner):
      out = run()
    jax.block_until_ready(out)
    found.append((time.perf_counter() - start) / inner)
  return found


def gemm(dtype: str, wide: bool, shape, repeats: int) -> dict:
  """One product x · w, as the model's own (see `models.matmul`).

  Args:
    dtype: of x and w.
    wide: whether the result is float32.
    shape: rows, inner and outer width.
    repeats: how often it is timed.

  Returns:
    A row of the table; 'gflops' is of the fastest repeat.
  """
  rows, inner, outer = shape
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (rows, inner), dtype)
  w = jax.random.normal(keys[1], (inner, outer), dtype)
  result = jnp.float32 if wide else None
  product = jax.jit(lambda x, w: lax.dot_general(
      x, w, (((1,), (0,)), ((), ())), preferred_element_type=result))
  operations = 2 * rows * inner * outer
  found = times(lambda: product(x, w), repeats,
                inner=min(100, 1 + 2 * 10**9 // operations))
  return dict(
      dtype=dtype, result='float32' if wide else dtype, shape=list(shape),
      gflops=operations / min(found) / 1e9,
      median_gflops=operations / statistics.median(found) / 1e9)


def copy(donated: bool, size: int, repeats: int) -> dict:
  """x + 1 over an array: one read and one write of each byte.

  Args:
    donated: whether the result takes the argument's memory, or fresh memory.
    size: bytes of the array.
    repeats: how often it is timed.

  Returns:
    A row of the table; 'gbps' is of the fastest repeat.
  """
  add = jax.jit(lambda x: x + 1, donate_argnums=0 if donated else ())
  x = jax.block_until_ready(jnp.zeros(size // 4, jnp.float32))
  held = [x]

  def run():
    out = add(held[0])
    if donated:
      held[0] = out
    return out

  found = times(run, repeats)
  return dict(donated=donated, bytes=size, gbps=2 * size / min(found) / 1e9,
              median_gbps=2 * size / statistics.median(found) / 1e9)


def measure(shapes, size: int, repeats: int) -> dict:
  """What ceilings.json holds.

  Args:
    shapes: of the products.
    size: bytes of the array that is copied.
    repeats: of everything.
  """
  gemms = [gemm(dtype, wide, shape, repeats)
           for shape in shapes for dtype, wide in (
               ('float32', False), ('bfloat16', False), ('bfloat16', True))]
  copies = [copy(donated, size, repeats) for donated in (True, False)]
  return dict(profile_table.device(), machine=machine(None), repeats=repeats,
              load=os.getloadavg()[0], gemm=gemms, copy=copies)


def markdown(result: dict) -> str:
  """The page's table."""
  facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
  lines = [
      f'{facts}; load {result["load"]:.1f}; the fastest of '
      f'{result["repeats"]} (median).', '',
      '| what | shape | rate |', '| --- | --- | ---: |']
  for row in result['gemm']:
    lines.append('| ' + ' | '.join([
        f'{row["dtype"]} to {row["result"]}',
        ' x '.join(map(str, row['shape'])),
        f'{row["gflops"]:,.0f} ({row["median_gflops"]:,.0f}) GFLOP/s']) + ' |')
  for row in result['copy']:
    lines.append('| ' + ' | '.join([
        f'copy, {"donated" if row["donated"] else "to fresh memory"}',
        f'{row["bytes"] / 1e6:,.0f} MB',
        f'{row["gbps"]:,.1f} ({row["median_gbps"]:,.1f}) GB/s']) + ' |')
  return '\n'.join(lines)


def main(argv=None) -> int:
  """Measures, prints and writes."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  kind = 'cpu' if jax.default_backend() == 'cpu' else 'accelerator'
  add = parser.add_argument
  add('--repeats', type=int, default=20)
  add('--out', default=str(ROOT / profile_table.CEILINGS),
      help='JSON file for the results')
  add('--page', help='page whose table between markers is replaced')
  args = parser.parse_args(argv)
  result = measure(SHAPES[kind], BYTES[kind], args.repeats)
  print(markdown(result))
  pathlib.Path(args.out).write_text(
      json.dumps(result, indent=1) + '\n', 'utf-8')
  if args.page:
    report.put(args.page, 'ceilings', markdown(result))
  return 0


if __name__ == '__main__':
  sys.exit(main())
