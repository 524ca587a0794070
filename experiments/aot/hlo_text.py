"""The lines of a compiled program's text, taken apart."""

from __future__ import annotations

import dataclasses
import math
import re

_BITS = {'pred': 8, 'token': 0, 's4': 4, 'u4': 4, 's2': 2, 'u2': 2,
         'f8e4m3fn': 8, 'f8e5m2': 8, 'bf16': 16, 'opaque': 0}
_ARRAY = re.compile(r'(\w+)\[([\d,<=]*)\](\{[^}]*\})?')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_LINE = re.compile(r'^\s*(ROOT )?%?([\w.\-]+) = ')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of a computation.

  Attributes:
    name: without the leading '%'.
    shape: of the result, as it is printed.
    opcode: such as 'fusion'.
    operands: names; the number of a parameter, the value of a constant.
    attributes: the rest of the line.
    root: whether it is the computation's result.
  """
  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  root: bool


def parse(text: str) -> tuple[dict[str, tuple[Instruction, ...]], str]:
  """{computation: instructions} and the entry's name."""
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    head = _HEAD.match(line) if line[:1] not in (' ', '}') else None
    if head:
      current = computations[head[2]] = []
      entry = head[2] if head[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None:
      instruction = _instruction(line)
      if instruction is not None:
        current.append(instruction)
  return {name: tuple(c) for name, c in computations.items()}, entry


def _instruction(line) -> Instruction | None:
  match = _LINE.match(line)
  if not match:
    return None
  rest = line[match.end():]
  if rest.startswith('('):
    end = _closing(rest, 0) + 1
  else:
    end = rest.find(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, paren, _ = rest.partition('(')
  if not paren:
    return None
  end = _closing(rest, len(opcode))
  inside, attributes = rest[len(opcode) + 1:end], rest[end + 1:]
  if opcode == 'parameter':
    operands = (inside,)
  elif opcode == 'constant':
    operands = (inside,)
  else:
    operands = tuple(re.findall(r'%([\w.\-]+)', inside)) or tuple(
        word.split()[-1] for word in inside.split(', ') if word.strip())
  return Instruction(match[2], shape, opcode, operands, attributes,
                     bool(match[1]))


def _closing(text, start) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for index in range(start, len(text)):
    depth += (text[index] == '(') - (text[index] == ')')
    if depth == 0:
      return index
  return len(text) - 1


def arrays(shape: str) -> list[str]:
  """The array types in a type, which may be a tuple."""
  return [match[0] for match in _ARRAY.finditer(shape)]


def size(array: str) -> int:
  """Bytes of one array type, such as 'bf16[8,128]{1,0}'."""
  match = _ARRAY.match(array)
  if not match:
    return 0
  kind = match[1]
  bits = _BITS.get(kind)
  if bits is None:
    digits = re.search(r'\d+', kind)
    bits = int(digits[0]) if digits else 0
  dims = [int(x.lstrip('<=')) for x in match[2].split(',') if x]
  return math.prod(dims) * bits // 8


def size_of(shape: str) -> int:
  """Bytes of all arrays in a type."""
  return sum(size(array) for array in arrays(shape))


def in_hbm(shape: str) -> float:
  """Bytes of the arrays that lie in the main memory, space 0."""
  return float(sum(
      size(array) for array in arrays(shape)
      if not re.search(r'S\([1-9]\d*\)', array)))


def named(attributes: str, key: str) -> str:
  """The computation that an attribute names, or ''."""
  match = re.search(rf'\b{key}=%?([\w.\-]+)', attributes)
  return match[1] if match else ''


def trip_count(attributes: str) -> int | None:
  """What the compiler says of a loop, when it says so."""
  match = re.search(r'known_trip_count[^0-9]*(\d+)', attributes)
  return int(match[1]) if match else None


def kernel_bytes(attributes: str) -> float | None:
  """What a kernel says that it reads and writes, when it says so."""
  match = re.search(
      r'"cost_estimate":\{[^}]*"bytes_accessed":"(\d+)"', attributes)
  return float(match[1]) if match else None


def source(attributes: str) -> str:
  """Where in the traced program an instruction comes from."""
  match = re.search(r'op_name="([^"]*)"', attributes)
  return match[1] if match else ''


def group(attributes: str) -> tuple[int, tuple[int, ...]]:
  """Size of the groups, and the devices of the first."""
  match = re.search(
      r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?',
      attributes)
  if match:
    count, size = int(match[1]), int(match[2])
    dims = [int(x) for x in match[3].split(',')]
    order = ([int(x) for x in match[4].split(',')] if match[4]
             else list(range(len(dims))))
    return size, _iota(count * size, dims, order)[:size]
  match = re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', attributes)
  if match:
    return _mesh_group(match[1], match[2])
  match = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
  if match:
    members = tuple(int(x) for x in match[1].split(','))
    return len(members), members
  match = re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', attributes)
  if match:
    return 2, (int(match[1]), int(match[2]))
  return 0, ()


def _mesh_group(mesh, used) -> tuple[int, tuple[int, ...]]:
  """Of groups told by the axes of a mesh, whole ones or parts of them."""
  dims = [(name, int(size)) for name, size in re.findall(
      r"'(\w+)'=(\d+)", mesh)]
  names = [name for name, _ in dims]
  strides = [math.prod(size for _, size in dims[index + 1:])
             for index in range(len(dims))]
  members = (0,)
  for name, before, part in re.findall(
      r"'(\w+)'(?::\((\d+)\)(\d+))?", used):
    size, stride = dims[names.index(name)][1], strides[names.index(name)]
    if part:  # `part` of the axis, after `before` of it have been split off
      stride *= size // (int(before) * int(part))
      size = int(part)
    members = tuple(member + place * stride for member in members
                    for place in range(size))
  return len(members), members


def _iota(total, dims, order) -> tuple[int, ...]:
  """0, 1, … reshaped to `dims`, transposed by `order`, and made flat."""
  strides = [math.prod(dims[axis + 1:]) for axis in range(len(dims))]
  sizes = [dims[axis] for axis in order]
  steps = [strides[axis] for axis in order]
  flat = []
  for index in range(total):
    value = 0
    for size, step in zip(reversed(sizes), reversed(steps)):
      index, place = divmod(index, size)
      value += place * step
    flat.append(value)
  return tuple(flat)
