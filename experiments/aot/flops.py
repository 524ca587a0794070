"""Counts the arithmetic of a traced program, loops included.

XLA's own cost analysis counts the body of a loop once. Here a scan counts as
often as it runs, and a while loop as often as the caller says it may. Only
matrix products are counted: all else is less than a hundredth of them.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import jax
from jax.extend import core


@dataclasses.dataclass
class Counts:
  """Of the whole program, on all devices together.

  Attributes:
    flops: 2·m·n·k summed over matrix products.
    kernel_flops: those among them inside of Pallas kernels.
    bytes: operands and results of the matrix products outside of kernels, and
      of the kernels, each read or written once.
    unbounded: while loops with matrix products that were counted once because
      nothing says how often they run.
  """
  flops: float = 0.
  kernel_flops: float = 0.
  bytes: float = 0.
  unbounded: int = 0

  def add(self, other: Counts, times: float = 1) -> None:
    """Adds what another part costs, run so many times."""
    self.flops += times * other.flops
    self.kernel_flops += times * other.kernel_flops
    self.bytes += times * other.bytes
    self.unbounded += other.unbounded


def count(jaxpr, trips: int | None = None) -> Counts:
  """What a program costs.

  Args:
    jaxpr: a (closed) jaxpr.
    trips: how often a while loop with matrix products runs; None counts it
      once.

  Returns:
    Counts.

  Example:
    >>> import jax.numpy as jnp
    >>> def f(x):
    ...   return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]
    >>> count(jax.make_jaxpr(f)(jnp.ones((4, 4)))).flops  # 5 · 2 · 4³
    640.0
  """
  total = Counts()
  for eqn in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
    total.add(_equation(eqn, trips))
  return total


def _equation(eqn, trips) -> Counts:
  name, params = eqn.primitive.name, eqn.params
  rule = _RULES.get(name)
  if rule is not None:
    return rule(eqn, trips)
  total = Counts()
  for inner in _inner(params):
    total.add(count(inner, trips))
  return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The jaxprs among the parameters of a call."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
        yield item


def _size(atom) -> float:
  """Bytes of an operand or result."""
  aval = atom.aval
  try:
    width = jax.dtypes.itemsize_bits(aval.dtype) / 8
  except (AttributeError, TypeError, ValueError):
    width = getattr(aval.dtype, 'itemsize', 0)
  return float(math.prod(aval.shape)) * width


def _touched(eqn) -> float:
  return sum(_size(atom) for atom in (*eqn.invars, *eqn.outvars)
             if hasattr(atom.aval, 'dtype'))


def _dot(eqn, trips) -> Counts:
  del trips
  (contracted, _), _ = eqn.params['dimension_numbers']
  left = eqn.invars[0].aval.shape
  inner = math.prod(left[axis] for axis in contracted)
  flops = 2. * math.prod(eqn.outvars[0].aval.shape) * inner
  return Counts(flops=flops, bytes=_touched(eqn))


def _ragged_dot(eqn, trips) -> Counts:
  """Each row meets the matrix of its group only."""
  del trips
  numbers = eqn.params['ragged_dot_dimension_numbers']
  (contracted, _), _ = numbers.dot_dimension_numbers
  left = eqn.invars[0].aval.shape
  out = eqn.outvars[0].aval.shape
  flops = 2. * math.prod(out) * math.prod(left[axis] for axis in contracted)
  ragged = set(numbers.lhs_ragged_dimensions)
  if ragged & set(contracted):  # a gradient: the groups divide the rows
    flops /= eqn.invars[2].aval.shape[-1]
  return Counts(flops=flops, bytes=_touched(eqn))


def _convolution(eqn, trips) -> Counts:
  del trips
  numbers = eqn.params['dimension_numbers']
  kernel = eqn.invars[1].aval.shape
  inner = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
  flops = 2. * math.prod(eqn.outvars[0].aval.shape) * inner
  return Counts(flops=flops, bytes=_touched(eqn))


def _scan(eqn, trips) -> Counts:
  total = Counts()
  total.add(count(eqn.params['jaxpr'], trips), eqn.params['length'])
  return total


def _while(eqn, trips) -> Counts:
  body = count(eqn.params['body_jaxpr'], trips)
  body.add(count(eqn.params['cond_jaxpr'], trips))
  if trips is None and body.flops:
    body.unbounded += 1
  total = Counts()
  total.add(body, 1 if trips is None else trips)
  return total


def _cond(eqn, trips) -> Counts:
  """The most expensive branch."""
  branches = [count(branch, trips) for branch in eqn.params['branches']]
  return max(branches, key=lambda counts: counts.flops)


def _shard_map(eqn, trips) -> Counts:
  """The body is what one shard does."""
  mesh = eqn.params['mesh']
  manual = eqn.params.get('manual_axes') or mesh.axis_names
  total = Counts()
  total.add(count(eqn.params['jaxpr'], trips),
            math.prod(mesh.shape[axis] for axis in manual))
  return total


def _pallas(eqn, trips) -> Counts:
  """The kernel's own estimate, or its body at every step of its grid."""
  estimate = eqn.params.get('cost_estimate')
  if estimate is not None:
    flops = float(estimate.flops)
  else:
    grid = eqn.params['grid_mapping'].grid
    steps = math.prod(size for size in grid if isinstance(size, int))
    flops = steps * count(eqn.params['jaxpr'], trips).flops
    flops *= _causal_share(eqn, grid)
  # A kernel may be given all layers and read one, or read one many times.
  touched = (_touched(eqn) if estimate is None
             else float(estimate.bytes_accessed))
  return Counts(flops=flops, kernel_flops=flops, bytes=touched)


def _causal_share(eqn, grid) -> float:
  """Splash attention skips the blocks that causality rules out."""
  name = str(eqn.params.get('name_and_src_info', eqn.params.get('name', '')))
  blocks = grid[-1] if grid and isinstance(grid[-1], int) else 1
  return (blocks + 1) / (2 * blocks) if 'splash' in name else 1.


_RULES = {
    'dot_general': _dot,
    'ragged_dot_general': _ragged_dot,
    'ragged_dot': _ragged_dot,
    'conv_general_dilated': _convolution,
    'scan': _scan,
    'while': _while,
    'cond': _cond,
    'shard_map': _shard_map,
    'pallas_call': _pallas,
}


def largest(jaxpr, count: int, devices: int) -> list[tuple[float, str, str]]:
  """(bytes of one of `devices` equal shares, shape, primitive), the largest
  results of a program: a stand-in for a list of buffers."""
  found = {}

  def visit(jaxpr):
    for eqn in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
      inner = list(_inner(eqn.params))
      for item in inner:
        visit(item)
      if inner or eqn.primitive.name in ('broadcast_in_dim', 'iota'):
        continue
      for atom in eqn.outvars:
        if hasattr(atom.aval, 'dtype'):
          key = (atom.aval.str_short(), eqn.primitive.name)
          found[key] = _size(atom) / devices

  visit(jaxpr)
  ranked = sorted(((size, *key) for key, size in found.items()), reverse=True)
  return ranked[:count]
