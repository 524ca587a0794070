"""What is known of each TPU generation, per chip.

Peaks, memory and links are those of the public Cloud TPU pages ("TPU v4" ...
"TPU7x"); `hbm` is what the compiler lets a program use of one device.
"""

from __future__ import annotations

import dataclasses

from policyopt.names import check_name

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One generation.

  Attributes:
    name: as in a topology, 'v5p' of 'v5p:4x4x4'.
    flops: peak of bfloat16 matrix products, FLOP/s.
    hbm: bytes of memory that programs may use.
    bandwidth: of that memory, bytes/s.
    link: bytes/s of one link to a neighbour, in one direction.
    axes: of the torus, 2 or 3.
    ring: an axis of a multiple of so many chips closes into a ring.
    devices: JAX devices per chip; each has its share of all of the above.
  """
  name: str
  flops: float
  hbm: float
  bandwidth: float
  link: float
  axes: int
  ring: int
  devices: int = 1

  def per_device(self) -> Chip:
    """The share of one JAX device."""
    share = self.devices
    return dataclasses.replace(
        self, flops=self.flops / share, hbm=self.hbm / share,
        bandwidth=self.bandwidth / share, link=self.link / share, devices=1)


CHIPS = {chip.name: chip for chip in (
    Chip('v4', 275e12, 2 * 15.25 * GIB, 1.228e12, 50e9, 3, 4, devices=2),
    Chip('v5e', 197e12, 15.75 * GIB, 0.819e12, 50e9, 2, 16),
    Chip('v5p', 459e12, 95.73 * GIB, 2.765e12, 100e9, 3, 4),
    Chip('v6e', 918e12, 31.24 * GIB, 1.638e12, 100e9, 2, 16),
    Chip('tpu7x', 2307e12, 2 * 94.74 * GIB, 7.38e12, 100e9, 3, 4, devices=2),
)}


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the chips along each axis of a topology.

  Args:
    topology: such as 'v5p:4x4x4' or 'v6e:8x8'.

  Returns:
    (Chip, sizes).

  Raises:
    ValueError: for an unknown generation, or sizes that it cannot have.

  Example:
    >>> chip, sizes = parse('v5p:4x4x4')
    >>> chip.name, sizes
    ('v5p', (4, 4, 4))
    >>> parse('v6e:4x4x4')
    Traceback (most recent call last):
    ValueError: topology 'v6e:4x4x4' has 3 axes; a v6e slice has 2, as in ...
  """
  name, _, shape = topology.partition(':')
  check_name('TPU generation', name, CHIPS)
  chip = CHIPS[name]
  words = shape.split('x')
  example = f'{name}:4x4' if chip.axes == 2 else f'{name}:4x4x4'
  if not all(word.isdigit() and int(word) for word in words):
    raise ValueError(
        f'topology {topology!r} must be GENERATION:AxB or GENERATION:AxBxC, '
        f'as in {example!r}')
  if len(words) != chip.axes:
    raise ValueError(
        f'topology {topology!r} has {len(words)} axes; a {name} slice has '
        f'{chip.axes}, as in {example!r}')
  return chip, tuple(map(int, words))
