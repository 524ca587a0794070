"""One program on one mesh: compiled, weighed and timed on paper."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from typing import Any

from experiments.aot import analytic, flops, hlo, memory, roofline
from experiments.aot.chips import Chip
from experiments.aot.programs import Program
from experiments.aot.shapes import Run, bytes_per_device, parts_of

TEXT = "the compiled program's text"
LARGEST = 8


@dataclasses.dataclass(frozen=True)
class Result:
  """What is known of a program; bytes and FLOPs are those of one device.

  Attributes:
    name: of the program.
    fits: whether it fits beside what else lies in memory.
    limit: bytes of memory that there are.
    memory: by kind; None when the compiler refused the program.
    needed: bytes of a refused program, and 0 otherwise.
    largest: (bytes, shape, source), the largest arrays.
    flops: of matrix products, loops included.
    kernel_flops: those among them inside of Pallas kernels.
    traffic: bytes of HBM read and written.
    collectives: by kind and size.
    source: where traffic and collectives come from.
    estimate: seconds of a call.
    tokens: of a call, on all devices.
    rate: which tokens these are.
    compile_seconds: on this machine.
    given: (bytes, name), the largest parts of the arguments.
    cache: bytes of the decode loop's cache, and 0 otherwise.
  """
  name: str
  fits: bool
  limit: float
  memory: memory.Memory | None
  needed: float
  largest: list[tuple[float, str, str]]
  flops: float
  kernel_flops: float
  traffic: float
  collectives: list[hlo.Collective]
  source: str
  estimate: roofline.Estimate
  tokens: int
  rate: str
  compile_seconds: float
  given: list[tuple[int, str]]
  cache: int = 0

  def json(self) -> dict[str, Any]:
    """The same as plain numbers."""
    found = dataclasses.asdict(self)
    found['estimate'].update(
        bound=self.estimate.bound, apart=self.estimate.apart,
        limit=self.estimate.limit)
    found['collectives'] = [
        dict(kind=c.kind, bytes=c.bytes, group=c.group, times=c.times,
             moved=c.moved * c.times, source=c.source)
        for c in self.collectives]
    if self.memory is not None:
      found['memory'].update(live=self.memory.live, total=self.memory.total)
    return found


def analyse(run: Run, program: Program, chip: Chip, sizes,
            folder: str | None = None) -> Result:
  """Compiles a program and measures what can be measured.

  Args:
    run: that the program is of.
    program: from `programs.programs`.
    chip: of the slice.
    sizes: chips along each axis of the slice.
    folder: keeps the program's text there; None for nowhere.

  Returns:
    Result.

  Raises:
    Exception: whatever the compiler raises, but for a lack of memory, which
      is a result.
  """
  share, mesh = chip.per_device(), program.mesh
  traced = program.trace()
  counts = flops.count(traced.jaxpr, program.trips)
  begin = time.monotonic()
  held = bytes_per_device(program.held)
  compiled, refusal = _compile(program, traced)
  seconds = time.monotonic() - begin
  collectives, traffic, largest, source = _costs(
      run, program, counts, compiled, folder)
  found = None if compiled is None else memory.of(compiled, held)
  if refusal is not None:
    largest = refusal.largest or largest
  if not largest:
    largest = flops.largest(traced.jaxpr, LARGEST, mesh.size)
  coords = [tuple(device.coords) for device in mesh.devices.flat]
  limit = share.hbm
  return Result(
      program.name, found is not None and found.total <= limit, limit, found,
      0 if refusal is None else refusal.used, largest,
      counts.flops / mesh.size, counts.kernel_flops / mesh.size, traffic,
      collectives, source, roofline.estimate(
          share, counts.flops / mesh.size, traffic, collectives, coords,
          (*sizes, 1, 1)[:len(coords[0])]),
      program.tokens, program.rate, seconds,
      parts_of((program.args, program.kwargs), 5),
      bytes_per_device(program.args[4]) if program.name == 'decode' else 0)


def _costs(run, program, counts, compiled, folder):
  """(collectives, traffic, largest arrays, where these come from)."""
  text = None if compiled is None else _text(compiled)
  if text is None:
    return (analytic.collectives(run, program),
            analytic.traffic(run, program, counts.bytes), [], analytic.SOURCE)
  if folder:
    path = pathlib.Path(folder) / f'{program.name}.hlo'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  module = hlo.Module(text, program.trips)
  return module.collectives(), module.bytes(), module.largest(LARGEST), TEXT


def _compile(program, traced):
  """(compiled, None), or (None, why it does not fit)."""
  lowered = program.lower(traced)
  try:
    return lowered.compile(), None
  except Exception as error:
    refusal = memory.refusal(error)
    if refusal is None:
      raise
    return None, refusal


def _text(compiled) -> str | None:
  """The optimized text; XLA cannot print some programs."""
  try:
    with _quiet():
      return compiled.as_text()
  except Exception as error:
    if 'RET_CHECK' in str(error) or 'INTERNAL' in str(error):
      return None
    raise


@contextlib.contextmanager
def _quiet():
  """Native code writes its stack to the terminal before Python hears of it."""
  sys.stderr.flush()
  kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(nowhere)
