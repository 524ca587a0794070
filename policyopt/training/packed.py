"""Where the rows of a batch lie in packed rows: decided on the host.

A compiled program needs to know how many packed rows there are, and only the
lengths of the sampled rows tell.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from policyopt.data.packing import pack_rows
from policyopt.models import partitioning
from policyopt.models.packed import Packing
from policyopt.types import Array


def make_planner(mesh: Mesh, jit: Callable = jax.jit
                 ) -> Callable[..., Packing]:
  """Builds `plan(mask, pieces, order=None) -> Packing`.

  mask bool[B, T]: tokens after the last chosen one are left out, and so are
  rows without any. pieces: microbatches of a minibatch, each packed by itself.
  order i32[S, B']: the rows of each of S minibatches; None for one of all
  rows. The arrays of the result have the rows of all pieces on axis 0, and,
  with an order, the minibatches before that. jit: compiles.
  """
  count = jit(_lengths, out_shardings=partitioning.replicated(mesh))
  axes = partitioning.RULES['batch']
  shards = math.prod(mesh.shape[axis] for axis in axes)

  def plan(mask: Array, pieces: int, order: Array | None = None) -> Packing:
    lengths = np.asarray(count(mask))
    steps = () if order is None else (len(order),)
    if order is not None:
      lengths = lengths[np.asarray(order)]
    lengths = lengths.reshape(math.prod(steps) * pieces, -1)
    row, start = pack_rows(lengths, mask.shape[1], shards)
    return Packing(*(
        _place(mesh, x.reshape(*steps, -1, *x.shape[2:]), len(steps))
        for x in (row, start, lengths)))

  return plan


def _lengths(mask):
  """Tokens of each row up to the last chosen one."""
  place = jnp.arange(1, mask.shape[1] + 1, dtype=jnp.int32)
  return jnp.max(jnp.where(mask, place[None], 0), axis=1)


def _place(mesh, x, axis):
  """Onto the mesh, rows (of that axis) as the rows of a batch."""
  x = np.asarray(x, np.int32)
  spec = jax.sharding.PartitionSpec(
      *[None] * axis, partitioning.RULES['batch'])
  return jax.make_array_from_callback(
      x.shape, jax.sharding.NamedSharding(mesh, spec), lambda index: x[index])
