"""Prints results for a person, and as JSON for a program."""

from __future__ import annotations

import json
from typing import Any

from experiments.aot import roofline
from experiments.aot.analysis import Result
from experiments.aot.chips import Chip
from experiments.aot.memory import gib
from experiments.aot.shapes import Run

_KINDS = ('arguments', 'outputs', 'aliased', 'temporaries', 'code')
_SHOWN = 8


def head(topology: str, chip: Chip, run: Run) -> str:
  """What is compiled, and for what."""
  parts, mesh = run.parts, run.parts.mesh
  model, batching = parts.model, parts.batching
  chips = mesh.size // chip.devices
  pieces = batching.minibatches * batching.microbatches
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  return '\n'.join([
      f'{topology}: {chips} chips of {gib(chip.hbm)} GiB, '
      f'{chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:.0f} GB/s, '
      f'{2 * chip.axes} links of {chip.link / 1e9:.0f} GB/s'
      + (f'; {chip.devices} devices a chip' if chip.devices > 1 else ''),
      f'mesh: {_shape(mesh)}' + (
          f'; the sampler draws on {_shape(parts.serving.mesh)} with weights '
          f'in {_weights(parts)}' if parts.serving.copied else '') + (
          f'; keys and values in {parts.serving.cache}'
          if parts.serving.cache else ''),
      f'model: {parameters(run) / 1e9:.2f}e9 parameters in '
      f'{model.param_dtype}, computing in {model.dtype}, remat '
      f'{model.remat}, attention {model.attention}',
      f'step: {run.rows} rows of {run.length} tokens ({run.prompt_length} of '
      f'them prompt) in {pieces} pieces of {run.rows // pieces} rows, '
      f'{run.rows / pieces / shards:g} on each shard of rows'])


def _shape(mesh) -> str:
  return ' x '.join(f'{name} {size}' for name, size in mesh.shape.items()
                    if size > 1) or 'one device'


def parameters(run: Run) -> int:
  """Numbers in the model."""
  import jax

  from policyopt.models import transformer
  return sum(leaf.size for leaf in jax.tree.leaves(
      transformer.abstract_params(run.parts.model)))


def program(result: Result, devices: int, per_chip: int) -> str:
  """The lines of one program."""
  title = f'{result.name} (compiled in {result.compile_seconds:.0f} s)'
  lines = ['', title, *_memory(result)]
  if result.flops:
    lines.append(
        f'  FLOPs       {result.flops:.3g} of matrix products a device'
        + (f', {result.kernel_flops / result.flops:.0%} of them in kernels'
           if result.kernel_flops else ''))
  lines.append(f'  HBM traffic {gib(result.traffic)} GiB a device')
  lines += _collectives(result)
  lines.append(f'  (traffic and collectives: {result.source})')
  lines.append('  largest arrays, GiB')
  lines += [f'    {gib(size):>8}  {shape}  {source[-70:]}'
            for size, shape, source in result.largest[:_SHOWN]]
  lines += _speed(result, devices, per_chip)
  return '\n'.join(lines)


def _memory(result) -> list[str]:
  if result.memory is None:
    return [f'  DOES NOT FIT: needs {gib(result.needed)} of '
            f'{gib(result.limit)} GiB a device']
  found = result.memory
  kinds = ', '.join(f'{kind} {gib(getattr(found, kind))}' for kind in _KINDS)
  lines = [
      f'  memory      {gib(found.live)} GiB a device + {gib(found.held)} of '
      f'the run beside it = {gib(found.total)} of {gib(result.limit)} '
      + ('GiB: fits' if result.fits else 'GiB: DOES NOT FIT'),
      f'              {kinds}']
  if found.host:
    lines.append(f'              in host memory {gib(found.host)}')
  if result.cache:
    lines.append(
        f'              cache {gib(result.cache)}; temporaries are '
        f'{found.temporaries / result.cache:.1%} of it')
  return lines


def _collectives(result) -> list[str]:
  kinds: dict[str, float] = {}
  for c in result.collectives:
    kinds[c.kind] = kinds.get(c.kind, 0) + c.moved * c.times
  if not kinds:
    return ['  collectives none']
  total = ', '.join(
      f'{kind} {gib(size)}' for kind, size in sorted(
          kinds.items(), key=lambda item: -item[1]))
  lines = [f'  collectives GiB sent by a device: {total}',
           f'{"kind":>18}{"MiB":>22}{"group":>7}{"times":>10}{"GiB sent":>10}']
  for c in result.collectives[:_SHOWN]:
    lines.append(
        f'              {c.kind:18}{c.bytes / 2**20:>8.1f}{c.group:>7}'
        f'{c.times:>10}{gib(c.moved * c.times):>10}  {c.source[-40:]}')
  if len(result.collectives) > _SHOWN:
    lines.append(f'              and {len(result.collectives) - _SHOWN} more')
  return lines


def _speed(result, devices, per_chip) -> list[str]:
  found = result.estimate
  time = (
      f'  time        {found.bound:.3g} s at least, from {found.limit} '
      f'(arithmetic {found.compute:.3g}, memory {found.memory:.3g}, links '
      f'{found.network:.3g}); {found.apart:.3g} s one after the other')
  if not result.tokens:
    return [time]
  fast, slow = (result.tokens / seconds / devices * per_chip
                for seconds in (found.bound, found.apart))
  return [
      time,
      f'  speed       {slow:,.0f} to {fast:,.0f} tokens {result.rate} a '
      'second and chip']


def whole_step(results: list[Result], run: Run, chips: int) -> list[str]:
  """Seconds of a step of training: copy, sample, score, update."""
  by_name = {result.name: result for result in results}
  parts = [by_name[name] for name in ('reshard', 'sample', 'score', 'update')
           if name in by_name]
  if not {'sample', 'update'} <= by_name.keys():
    return []
  bound, apart = (sum(getattr(part.estimate, kind) for part in parts)
                  for kind in ('bound', 'apart'))
  tokens = run.rows * run.length
  return ['', f'a step of training: {bound:.3g} to {apart:.3g} s, '
          f'{tokens / apart / chips:,.0f} to {tokens / bound / chips:,.0f} '
          'tokens a second and chip (' + ', '.join(
              f'{part.name} {part.estimate.bound / bound:.0%}'
              for part in parts) + ')']


def verdict(results: list[Result]) -> list[str]:
  """Whether all of it fits; what is largest where it does not."""
  lines = ['']
  for result in results:
    if result.fits:
      continue
    needed = result.memory.total if result.memory else result.needed
    lines.append(
        f'{result.name} does not fit: {gib(needed)} of {gib(result.limit)} '
        'GiB a device. The largest parts:')
    if result.memory:
      kinds = {kind: getattr(result.memory, kind)
               for kind in ('arguments', 'temporaries', 'held', 'code')}
      lines += [f'  {gib(size):>8} GiB  {kind}' for kind, size in sorted(
          kinds.items(), key=lambda item: -item[1]) if size]
    lines += [f'  {gib(size):>8} GiB  given: {name}'
              for size, name in result.given]
    lines += [f'  {gib(size):>8} GiB  {shape}  {source[-70:]}'
              for size, shape, source in result.largest[:5]]
  if len(lines) == 1:
    tightest = max(results, key=lambda r: r.memory.total / r.limit)
    lines.append(
        f'everything fits; the most is {gib(tightest.memory.total)} of '
        f'{gib(tightest.limit)} GiB a device, while {tightest.name} runs')
  return lines


def assumptions() -> list[str]:
  """Of the times."""
  return ['', 'Times are a roofline, not a measurement. Assumed:',
          *(f'  - {line}' for line in roofline.ASSUMPTIONS)]


def as_json(topology: str, chip: Chip, run: Run,
            results: list[Result]) -> dict[str, Any]:
  """Everything that was found, as plain data."""
  mesh = run.parts.mesh
  return json.loads(json.dumps(dict(
      topology=topology, chips=mesh.size // chip.devices,
      mesh=dict(mesh.shape), rollout=_rollout(run), rows=run.rows,
      length=run.length, prompt_length=run.prompt_length,
      parameters=parameters(run),
      batching=run.parts.batching._asdict(),
      remat=run.parts.model.remat, attention=run.parts.model.attention,
      fits=all(result.fits for result in results),
      assumptions=list(roofline.ASSUMPTIONS),
      programs=[result.json() for result in results])))


def _weights(parts) -> str:
  dtype = parts.serving.dtype or parts.model.param_dtype
  narrow = parts.serving.weights
  return f'{dtype}, kernels in {narrow}' if narrow else dtype


def _rollout(run):
  """The sampler's layout, None where it is that of the update."""
  serving = run.parts.serving
  if not serving.copied and not serving.rounds:
    return None
  return dict(mesh=dict(serving.mesh.shape),
              dtype=serving.dtype or run.parts.model.param_dtype,
              **{name: value for name in ('weights', 'cache')
                 if (value := getattr(serving, name))})
