"""What a compiled program takes of a device's memory, and what did not fit."""

from __future__ import annotations

import dataclasses
import re

from experiments.aot.chips import GIB

# What the compiler says, in its two ways.
_FORMS = (
    r'Used ([\d.]+)([KMGT]?)B? of ([\d.]+)([KMGT]?)B? hbm',
    r'total memory required for [\w ]*\(([\d.]+)([KMGT]?)\) exceeds available '
    r'HBM \(([\d.]+)([KMGT]?)\)')
_UNITS = {'': 1, 'B': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes on one device.

  Attributes:
    arguments: given to the program.
    outputs: made by it.
    aliased: outputs that take the place of donated arguments.
    temporaries: in use between.
    code: the program itself.
    held: what else of the run lies there meanwhile.
    host: in the host's memory (offloaded).
  """
  arguments: int = 0
  outputs: int = 0
  aliased: int = 0
  temporaries: int = 0
  code: int = 0
  held: int = 0
  host: int = 0

  @property
  def live(self) -> int:
    """Of the program alone."""
    return (self.arguments + self.outputs - self.aliased + self.temporaries
            + self.code)

  @property
  def total(self) -> int:
    """With what else lies there."""
    return self.live + self.held


def of(compiled, held: int = 0) -> Memory:
  """The memory of a compiled program.

  Args:
    compiled: from `lowered.compile()`.
    held: bytes of the run that the program does not see.

  Returns:
    Memory.
  """
  stats = compiled.memory_analysis()
  return Memory(
      arguments=stats.argument_size_in_bytes,
      outputs=stats.output_size_in_bytes,
      aliased=stats.alias_size_in_bytes,
      temporaries=stats.temp_size_in_bytes,
      code=stats.generated_code_size_in_bytes, held=held,
      host=(stats.host_argument_size_in_bytes
            + stats.host_output_size_in_bytes
            - stats.host_alias_size_in_bytes
            + stats.host_temp_size_in_bytes))


@dataclasses.dataclass(frozen=True)
class Refusal:
  """What the compiler said of a program that does not fit.

  Attributes:
    used: bytes that it needs.
    limit: bytes that there are.
    largest: (bytes, shape, source), the largest allocations.
    text: the part of the message that says so.
  """
  used: float
  limit: float
  largest: list[tuple[float, str, str]]
  text: str


def refusal(error: Exception) -> Refusal | None:
  """Reads an error of the compiler; None when it is of another kind.

  Example:
    >>> found = refusal(RuntimeError(
    ...     'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used '
    ...     '34.40G of 31.24G hbm. Exceeded hbm capacity by 3.16G.'))
    >>> found.used / 2**30, found.limit / 2**30
    (34.4, 31.24)
  """
  text = str(error)
  used = next(filter(None, (re.search(form, text) for form in _FORMS)), None)
  if not used:
    return None
  largest = []
  for block in re.split(r'\n\s*\d+\. (?=Size: )', text)[1:]:
    size = re.match(r'Size: ([\d.]+)([KMGT]?)', block)
    shape = re.search(r'Shape: (\S+)', block)
    source = re.search(r'op_name="([^"]*)"', block)
    label = re.search(r'XLA label: (\S+)', block)
    largest.append((
        _bytes(*size.groups()), shape[1].split('{')[0] if shape else '',
        source[1] if source else label[1] if label else ''))
  return Refusal(_bytes(used[1], used[2]), _bytes(used[3], used[4]), largest,
                 used[0])


def gib(size: float) -> str:
  """Bytes as GiB with two digits.

  Example:
    >>> gib(3 * 2**29)
    '1.50'
  """
  return f'{size / GIB:.2f}'


def _bytes(number: str, unit: str) -> float:
  return float(number) * _UNITS[unit]
