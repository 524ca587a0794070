"""Collectives and memory traffic by hand, where a program has no text.

What the sharding rules imply: weights are gathered over 'fsdp' where they are
used, their gradients are summed and scattered, and the products that are split
over 'tensor' are summed in each layer. Smaller exchanges are left out.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from experiments.aot.hlo import Collective
from experiments.aot.programs import Program
from experiments.aot.shapes import Run, bytes_per_device
from policyopt.training.serving import abstract_copy

SOURCE = 'by hand from the sharding rules: the compiler cannot print this one'


def collectives(run: Run, program: Program
                ) -> list[Collective]:
  """The exchanges that the mesh asks for, the largest traffic first."""
  mesh, model = program.mesh, run.parts.model
  if program.name == 'reshard':
    return _copied(run, program)
  forward, backward, rows = _passes(run, program)
  width = jnp.dtype(model.dtype).itemsize
  fsdp, tensor = mesh.shape['fsdp'], mesh.shape['tensor']
  found = []
  if fsdp > 1:
    size = sum(_gathered(leaf, width) for leaf in jax.tree.leaves(
        program.params))
    members = _members(mesh, 'fsdp')
    gathers = forward + backward
    found.append(Collective('all-gather', size, fsdp, gathers, members,
                            'weights'))
    if backward:
      found.append(Collective(
          'reduce-scatter', size // width * 4, fsdp, backward, members,
          'gradients'))
  if tensor > 1:
    tokens = rows // (mesh.shape['data'] * fsdp)
    found.append(Collective(
        'all-reduce', tokens * model.width * width, tensor,
        2 * model.num_layers * (forward + 2 * backward),
        _members(mesh, 'tensor'), 'activations'))
  return sorted(found, key=lambda c: -c.moved * c.times)


def traffic(run: Run, program: Program,
            product_bytes: float) -> float:
  """Bytes of HBM: operands of the matrix products, and gathered weights.

  Args:
    run: that the program is of.
    program: any.
    product_bytes: of `flops.Counts`, on all devices together.

  Returns:
    Bytes of one device.
  """
  mesh = program.mesh
  if program.name == 'reshard':
    return bytes_per_device(program.params) + sum(
        2 * c.bytes for c in _copied(run, program))
  # A device reads all that is left of a weight beside 'tensor' and 'expert',
  # not its share of that among the devices.
  forward, backward, _ = _passes(run, program)
  width = jnp.dtype(run.parts.model.dtype).itemsize
  extra = 0.
  for leaf in jax.tree.leaves(program.params):
    share = math.prod(leaf.shape) * width
    extra += share / _others(leaf) - share / mesh.size
  return product_bytes / mesh.size + extra * (forward + 2 * backward)


def _passes(run, program) -> tuple[int, int, int]:
  """(forward passes, backward passes, rows × tokens of each)."""
  batching = run.parts.batching
  pieces = batching.minibatches * batching.microbatches
  if program.name == 'update':
    # Recomputing is a second forward pass.
    passes = batching.epochs * pieces
    again = 1 if run.parts.model.remat in ('none', 'dots') else 2
    return passes * again, passes, run.rows * run.length // pieces
  if program.name == 'score':
    return pieces, 0, run.rows * run.length // pieces
  if program.name == 'prefill':
    return 1, 0, run.prompts * run.prompt_length
  return program.trips or 1, 0, run.rows


def _copied(run, program) -> list[Collective]:
  """The sampler's weights, gathered from where the update has them."""
  given = bytes_per_device(abstract_copy(run.parts.model, run.parts.serving))
  members = tuple(range(program.mesh.size))
  return [Collective('all-gather', given, program.mesh.size, 1, members,
                     'weights')]


def _gathered(leaf, width) -> int:
  """Bytes of a leaf that 'fsdp' divides, gathered in the compute dtype."""
  axes = jax.tree.leaves(tuple(leaf.sharding.spec))
  if 'fsdp' not in axes:
    return 0
  return math.prod(leaf.shape) * width // _others(leaf)


def _others(leaf) -> int:
  """Shards of a leaf over other axes than 'fsdp'."""
  axes = jax.tree.leaves(tuple(leaf.sharding.spec))
  mesh = leaf.sharding.mesh
  return math.prod(mesh.shape[axis] for axis in axes if axis != 'fsdp')


def _members(mesh, axis) -> tuple[int, ...]:
  """Flat indices of the first group along a mesh axis."""
  names = list(mesh.axis_names)
  stride = math.prod(mesh.shape[name] for name in
                     names[names.index(axis) + 1:])
  return tuple(place * stride for place in range(mesh.shape[axis]))
