"""Reads a compiled program's text: what moves, between chips and in memory.

The text is that of one device after partitioning. A loop counts as often as
it runs (`known_trip_count`), which XLA's cost analysis does not do.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import re

from experiments.aot import hlo_text
from experiments.aot.hlo_text import Instruction

COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
               'ragged-all-to-all', 'collective-permute',
               'collective-broadcast')
# Neither read nor write: names for what is there already.
_FREE = frozenset((
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'conditional', 'call', 'after-all', 'partition-id', 'replica-id', 'iota',
    'opt-barrier', 'optimization-barrier', 'add-dependency', 'domain'))

@dataclasses.dataclass(frozen=True)
class Collective:
  """Collectives of one kind and size.

  Attributes:
    kind: one of `COLLECTIVES`.
    bytes: of the whole array: what an all-gather gives, what an all-reduce or
      reduce-scatter is given.
    group: devices that take part in each.
    times: that it runs.
    members: device indices of one group, when the text tells.
    source: of the first of them, as XLA names it.
  """
  kind: str
  bytes: int
  group: int
  times: int
  members: tuple[int, ...] = ()
  source: str = ''

  @property
  def moved(self) -> float:
    """Bytes that one device sends each time, in a ring."""
    if self.group <= 1:
      return 0.
    if self.kind in ('collective-permute', 'collective-broadcast'):
      return float(self.bytes)
    share = self.bytes * (self.group - 1) / self.group
    return 2 * share if self.kind == 'all-reduce' else share


class Module:
  """A parsed module.

  Args:
    text: as `compiled.as_text()` returns it.
    trips: of loops whose count is not known.
  """

  def __init__(self, text: str, trips: int | None = None):
    self.trips = trips
    self.computations, self.entry = hlo_text.parse(text)
    self.shapes = {name: {item.name: item.shape for item in body}
                   for name, body in self.computations.items()}
    self._bytes = functools.cache(self._count_bytes)

  def collectives(self) -> list[Collective]:
    """Every kind and size, the largest traffic first."""
    found = {}
    for instruction, shapes, times in self._walk(self.entry, 1):
      kind = instruction.opcode.removesuffix('-start')
      if kind not in COLLECTIVES:
        continue
      size = _full(instruction, shapes)
      group, members = hlo_text.group(instruction.attributes)
      key = (kind, size, group, members)
      before = found.get(key)
      source = (before.source if before
                else hlo_text.source(instruction.attributes))
      found[key] = Collective(
          kind, size, group, times + (before.times if before else 0), members,
          source)
    return sorted(found.values(), key=lambda c: -c.moved * c.times)

  def bytes(self) -> float:
    """HBM traffic of one device: what instructions read and write."""
    return self._bytes(self.entry)

  def largest(self, count: int = 10) -> list[tuple[int, str, str]]:
    """(bytes, shape, source) of the largest results in memory."""
    found = {}
    for instruction, _, _ in self._walk(self.entry, 1, fusions=False):
      if instruction.opcode in _FREE or instruction.opcode.endswith('-done'):
        continue
      for shape in hlo_text.arrays(instruction.shape):
        key = (shape.split('{')[0], hlo_text.source(instruction.attributes))
        found[key] = max(found.get(key, 0), hlo_text.size(shape))
    ranked = sorted(((size, *key) for key, size in found.items()),
                    reverse=True)
    return ranked[:count]

  def _walk(self, name, times, fusions=True
            ) -> Iterator[tuple[Instruction, dict[str, str], int]]:
    """Every instruction below a computation, the shapes around it, and how
    often it runs."""
    for instruction in self.computations.get(name, ()):
      yield instruction, self.shapes[name], times
      for inner, count in self._called(instruction, fusions):
        yield from self._walk(inner, times * count, fusions)

  def _called(self, instruction, fusions=True):
    """(computation, times) that an instruction runs."""
    opcode, attributes = instruction.opcode, instruction.attributes
    if opcode == 'while':
      condition = hlo_text.named(attributes, 'condition')
      trips = (hlo_text.trip_count(attributes) or self._bound(condition)
               or self.trips or 1)
      return [(hlo_text.named(attributes, 'body'), trips), (condition, trips)]
    if opcode == 'conditional':
      branches = re.search(r'branch_computations=\{([^}]*)\}', attributes)
      names = [x.strip().lstrip('%') for x in branches[1].split(',')
               ] if branches else [
                   hlo_text.named(attributes, 'true_computation'),
                   hlo_text.named(attributes, 'false_computation')]
      # One branch runs: the one that does the most.
      return [(max(names, key=self._bytes), 1)]
    if opcode in ('call', 'async-start') or (fusions and opcode == 'fusion'):
      called = (hlo_text.named(attributes, 'calls')
                or hlo_text.named(attributes, 'to_apply'))
      return [(called, 1)] if called else []
    return []

  def _bound(self, name) -> int | None:
    """N of a loop that goes on while its counter, from 0, is below N."""
    inside = {item.name: item for item in self.computations.get(name, ())}
    last = next((item for item in inside.values() if item.root), None)
    while last is not None and last.opcode in ('bitcast', 'copy'):
      last = inside.get(last.operands[0])
    if last is None or last.opcode != 'compare' or (
        'direction=LT' not in last.attributes):
      return None
    for operand in last.operands:
      item = inside.get(operand)
      if item is not None and item.opcode == 'constant':
        return int(item.operands[0]) if item.operands[0].isdigit() else None
    return None

  def _count_bytes(self, name) -> float:
    computation = self.computations.get(name, ())
    shapes = self.shapes.get(name, {})
    total = 0.
    for instruction in computation:
      inner = self._called(instruction, fusions=False)
      if inner and instruction.opcode != 'async-start':
        total += sum(times * self._bytes(body) for body, times in inner)
      elif (instruction.opcode not in _FREE
            and not instruction.opcode.endswith('-done')):
        total += self._touched(instruction, shapes)
    return total

  def _touched(self, instruction, shapes) -> float:
    """Bytes that one instruction reads and writes in HBM."""
    if instruction.opcode == 'fusion':
      return self._fusion_touched(instruction, shapes)
    given = [hlo_text.in_hbm(shapes.get(name, ''))
             for name in instruction.operands]
    made = hlo_text.in_hbm(instruction.shape)
    if instruction.opcode in ('dynamic-slice', 'slice', 'gather'):
      return 2 * made
    if instruction.opcode == 'dynamic-update-slice':
      return 2 * (given[1] if len(given) > 1 else 0)
    if instruction.opcode == 'custom-call':
      # A kernel may be given all layers and read one, or read one many times.
      told = hlo_text.kernel_bytes(instruction.attributes)
      return sum(given) + made if told is None else told
    return sum(given) + made

  def _fusion_touched(self, instruction, shapes) -> float:
    """As above; of an operand that is only sliced, the slice is read."""
    name = hlo_text.named(instruction.attributes, 'calls')
    total = 0.
    for index, operand in enumerate(instruction.operands):
      whole = hlo_text.in_hbm(shapes.get(operand, ''))
      part = self._read(name, index)
      total += whole if part is None else min(whole, part)
    return total + max(
        0., hlo_text.in_hbm(instruction.shape) - self._untouched(name))

  def _untouched(self, name) -> float:
    """Bytes that a fusion's result shares with what it updates in place."""
    shapes = self.shapes.get(name, {})
    return float(sum(
        hlo_text.size_of(item.shape)
        - hlo_text.size_of(shapes.get(item.operands[1], item.shape))
        for item in self.computations.get(name, ())
        if item.opcode == 'dynamic-update-slice'))

  def _read(self, name, index) -> float | None:
    """Bytes that a fused computation reads of a parameter; None for all."""
    body = self.computations.get(name, ())
    parameter = next((item.name for item in body if item.opcode == 'parameter'
                      and item.operands[0] == str(index)), None)
    return self._read_of(name, parameter) if parameter else None

  def _read_of(self, name, value) -> float | None:
    """Bytes that a fused computation reads of one of its values."""
    total = 0.
    for item in self.computations[name]:
      if value not in item.operands or item.opcode == 'parameter':
        continue
      part = self._read_by(name, item, value)
      if part is None:
        return None
      total += part
    return total

  def _read_by(self, name, item, value) -> float | None:
    """Bytes of a value that one instruction reads; None for all."""
    place = item.operands.index(value)
    if item.opcode in ('dynamic-slice', 'slice', 'gather'):
      return hlo_text.size_of(item.shape) if place == 0 else None
    if item.opcode == 'dynamic-update-slice' and place == 0:
      return hlo_text.size_of(self.shapes[name].get(item.operands[1], ''))
    if item.opcode == 'bitcast' or self._relabels(item):
      return self._read_of(name, item.name)
    if item.opcode == 'fusion':
      return self._read(hlo_text.named(item.attributes, 'calls'), place)
    return None

  def _relabels(self, item) -> bool:
    """Whether a fusion in a fusion only says in which tiles to read."""
    if item.opcode != 'fusion':
      return False
    inside = self.computations[hlo_text.named(item.attributes, 'calls')]
    return all(x.opcode in ('parameter', 'copy', 'bitcast')
               or self._relabels(x) for x in inside)


def _full(instruction, shapes) -> int:
  """Bytes of the whole array that a collective is about."""
  given = [hlo_text.size(array) for name in instruction.operands
           for array in hlo_text.arrays(shapes.get(name, ''))]
  if instruction.opcode.startswith(('all-reduce', 'all-to-all')) and given:
    return sum(given)  # Several arrays may go together.
  made = [hlo_text.size(array) for array in hlo_text.arrays(instruction.shape)]
  return max(given + made, default=0)
