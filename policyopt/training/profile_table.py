"""The table of a profile: means over the profiled steps, and their ceilings."""

from __future__ import annotations

import json
import os
from typing import Any

import jax

from policyopt.training.work import Work

PHASES = ('plan', 'prefill', 'decode', 'verify', 'score', 'credit', 'update',
          'checkpoint', 'other')
# What measures a device's ceilings, and where it puts them.
HOW = 'python experiments/bench/ceilings.py'
CEILINGS = os.path.join('experiments', 'results', 'ceilings.json')


def cores() -> int:
  """Of this machine, as far as this process may use them."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def device() -> dict[str, Any]:
  """What ceilings depend on: the kind of device, and of a CPU its cores."""
  kind = jax.devices()[0].device_kind
  return {'device': kind} | ({'cores': cores()} if kind == 'cpu' else {})


def read_ceilings(path: str, dtype: str) -> tuple[dict | None, str]:
  """Operations and bytes per second of a device.

  Args:
    path: of what `experiments/bench/ceilings.py` has written.
    dtype: of the products.

  Returns:
    ({'flops', 'bytes'}, ''), or (None, why not and what to do).
  """
  if not os.path.isfile(path):
    return None, f'{path} does not exist; it is written by: {HOW}'
  with open(path) as file:
    found = json.load(file)
  here = device()
  there = {name: found.get(name) for name in here}
  if here != there:
    return None, (f'{path} is of {_words(there)}, this is {_words(here)}; '
                  f'measure here: {HOW}')
  rates = [row['gflops'] for row in found['gemm'] if row['dtype'] == dtype]
  if not rates:
    return None, f'{path} has no products in {dtype}; measure: {HOW}'
  return {'flops': 1e9 * max(rates), 'bytes': 1e9 * max(
      row['gbps'] for row in found['copy'])}, ''


def summary(setup, steps: list[tuple[int, dict[str, tuple[float, Work]]]]
            ) -> dict[str, Any]:
  """What table.json holds.

  Args:
    setup: of the run.
    steps: of each profiled step, its number, and phase -> seconds and work.

  Returns:
    Numbers are means over the steps.
  """
  ceilings, why = read_ceilings(
      setup.config.get('ceilings') or CEILINGS, setup.model.dtype)
  rows, count = [], len(steps)
  for name in PHASES:
    seconds = sum(phases[name][0] for _, phases in steps) / count
    amount = sum((phases[name][1] for _, phases in steps), Work())
    row = dict(phase=name, seconds=seconds, tokens=amount.tokens / count,
               flops=amount.flops / count, bytes=amount.bytes / count)
    row['least_seconds'], row['bound'] = _least(row, ceilings, setup.mesh.size)
    rows.append(row)
  return dict(
      device(), devices=setup.mesh.size, dtype=setup.model.dtype,
      method=setup.config.method, steps=[step for step, _ in steps],
      rows_of_a_step=setup.config.prompts * setup.config.samples,
      seconds=sum(row['seconds'] for row in rows), ceilings=ceilings,
      without_ceilings=why, phases=rows)


def table(result: dict[str, Any]) -> str:
  """A summary as Markdown.

  Args:
    result: from `summary`.

  Returns:
    A line of what was profiled and a table of the phases that took time.
  """
  steps = result['steps']
  many = f'steps {steps[0]}-{steps[-1]}' if len(steps) > 1 else (
      f'step {steps[0]}')
  rows = [row for row in result['phases'] if row['seconds'] > 0]
  lines = [
      f'Profile of {many}: {result["method"]}, '
      f'{result["rows_of_a_step"]} rows, {result["seconds"]:.3f} s a step, '
      f'{_words(result)}, {result["dtype"]}.', '',
      '| phase | seconds | share | tokens/s | GFLOP | GB | of the ceiling |',
      '| --- | ---: | ---: | ---: | ---: | ---: | ---: |']
  for row in rows:
    share = row['seconds'] / result['seconds'] if result['seconds'] else 0.
    lines.append('| ' + ' | '.join([
        row['phase'], f'{row["seconds"]:.4f}', f'{share:.1%}',
        f'{row["tokens"] / row["seconds"]:,.0f}' if row['tokens'] else '',
        f'{row["flops"] / 1e9:.3g}' if row['flops'] else '',
        f'{row["bytes"] / 1e9:.3g}' if row['bytes'] else '',
        _fraction(row, result)]) + ' |')
  if result['ceilings'] is None:
    lines += ['', f'Ceilings: {result["without_ceilings"]}.']
  return '\n'.join(lines)


def _least(row, ceilings, devices):
  """The seconds that the ceilings allow, and which one it is."""
  if ceilings is None or not row['flops'] + row['bytes']:
    return None, None
  products = row['flops'] / (devices * ceilings['flops'])
  memory = row['bytes'] / (devices * ceilings['bytes'])
  return max(products, memory), 'products' if products > memory else 'memory'


def _fraction(row, result):
  if row['least_seconds'] is not None and row['seconds']:
    return f'{row["least_seconds"] / row["seconds"]:.0%} ({row["bound"]})'
  if row['flops'] and result['ceilings'] is None:
    return 'see below'
  return ''


def _words(place):
  """A device in words."""
  count = place.get('devices') or 1
  text = f'{count} x {place["device"]}' if count > 1 else str(place['device'])
  if place.get('cores'):
    text += f' with {place["cores"]} cores'
  return text
