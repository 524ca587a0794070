"""How fast a program could be: arithmetic, memory and links at their peaks."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from experiments.aot.chips import Chip
from experiments.aot.hlo import Collective

ASSUMPTIONS = (
    'matrix products run at the peak of the chip, all else takes no time',
    'memory and links run at their full bandwidth; a ring of chips is used in '
    'both directions, a line of them in one',
    '"bound": arithmetic, memory and links overlap perfectly; "apart": nothing '
    'does; a real step lies between, or above when kernels are inefficient',
    'every row is as long as its shape: real rows are shorter, padding costs '
    'the same',
    'the host, the verifiers and the data cost nothing')


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds that one call takes each part of a device.

  Attributes:
    compute: of matrix products.
    memory: of reading and writing HBM.
    network: of collectives.
  """
  compute: float
  memory: float
  network: float

  @property
  def bound(self) -> float:
    """All at once."""
    return max(self.compute, self.memory, self.network)

  @property
  def apart(self) -> float:
    """One after the other."""
    return self.compute + self.memory + self.network

  @property
  def limit(self) -> str:
    """What the bound comes from."""
    parts = {'arithmetic': self.compute, 'memory': self.memory,
             'links': self.network}
    return max(parts, key=parts.get)


def estimate(chip: Chip, flops: float, traffic: float,
             collectives: Sequence[Collective],
             coords: Sequence[Sequence[int]],
             sizes: Sequence[int]) -> Estimate:
  """The roofline of one call.

  Args:
    chip: the share of one device, `Chip.per_device`.
    flops: of one device.
    traffic: bytes of HBM that one device reads and writes.
    collectives: of one device.
    coords: place of every device of the mesh in the torus.
    sizes: chips along each axis of the torus.

  Returns:
    Estimate.
  """
  network = sum(
      c.times * c.moved / rate(chip, c, coords, sizes) for c in collectives)
  return Estimate(flops / chip.flops, traffic / chip.bandwidth, network)


def rate(chip: Chip, collective: Collective, coords, sizes) -> float:
  """Bytes/s that one device can send in a collective.

  A group that extends along several axes of the torus uses the links of all.
  """
  members = [coords[index] for index in collective.members
             if index < len(coords)] or list(coords)
  if collective.kind == 'collective-permute':
    return chip.link
  total = 0.
  for axis, size in enumerate(sizes):
    extent = len({place[axis] for place in members})
    if extent > 1:
      closed = extent == size and size % chip.ring == 0
      total += chip.link * (2 if closed else 1)
  return total or 2 * chip.link
