"""Collectives and memory traffic by hand, where a program has no text.

What the sharding rules imply: weights are gathered over 'fsdp' where they are
used, their gradients are summed and scattered, and the products that are split
over 'tensor' are summed in each layer. Smaller exchanges are left out.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from experiments.aot import shapes
from experiments.aot.hlo import Collective
from experiments.aot.programs import Program
from experiments.aot.shapes import Run

SOURCE = 'by hand from the sharding rules: the compiler cannot print this one'


def collectives(run: Run, program: Program
                ) -> list[Collective]:
  """The exchanges that the mesh asks for, the largest traffic first."""
  mesh, model = run.parts.mesh, run.parts.model
  forward, backward, rows = _passes(run, program)
  width = jnp.dtype(model.dtype).itemsize
  fsdp, tensor = mesh.shape['fsdp'], mesh.shape['tensor']
  found = []
  if fsdp > 1:
    size = sum(_gathered(leaf, width) for leaf in jax.tree.leaves(
        shapes.abstract_params(run)))
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
  mesh = run.parts.mesh
  # A device reads the gathered weight whole, not its share of it.
  forward, backward, _ = _passes(run, program)
  width = jnp.dtype(run.parts.model.dtype).itemsize
  whole = sum(_gathered(leaf, width) for leaf in jax.tree.leaves(
      shapes.abstract_params(run)))
  shards = mesh.shape['fsdp'] * mesh.shape['data']
  extra = whole * (1 - 1 / shards) * (forward + 2 * backward)
  return product_bytes / mesh.size + extra


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


def _gathered(leaf, width) -> int:
  """Bytes of a leaf that 'fsdp' divides, gathered in the compute dtype."""
  axes = jax.tree.leaves(tuple(leaf.sharding.spec))
  if 'fsdp' not in axes:
    return 0
  mesh = leaf.sharding.mesh
  others = math.prod(mesh.shape[axis] for axis in axes if axis != 'fsdp')
  return math.prod(leaf.shape) * width // others


def _members(mesh, axis) -> tuple[int, ...]:
  """Flat indices of the first group along a mesh axis."""
  names = list(mesh.axis_names)
  stride = math.prod(mesh.shape[name] for name in
                     names[names.index(axis) + 1:])
  return tuple(place * stride for place in range(mesh.shape[axis]))
