"""Where arrays live: logical axes, mesh axes, and the rules between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
from jax.experimental import mesh_utils

P = jax.sharding.PartitionSpec

AXES = ('data', 'fsdp', 'tensor', 'expert')

# Logical axis -> mesh axis, mesh axes, or None (replicated).
RULES = {
    # Activations.
    'batch': ('data', 'fsdp'),
    'length': None,
    'features': None,
    # Parameters.
    'layers': None,
    'vocab': 'tensor',
    'embed': 'fsdp',
    'heads': 'tensor',
    'kv_heads': 'tensor',
    'head_dim': None,
    'mlp': 'tensor',
    'norm': None,
    'experts': 'expert',
    'expert_mlp': 'tensor',
    'router': None,
    'lora': None,
}


def make_mesh(shape: Sequence[int] | Mapping[str, int],
              devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
  """A mesh over `AXES` whose sharding XLA propagates (Auto axis types).

  Args:
    shape: four sizes in the order of `AXES`, or axis name -> size where a
      missing axis has size 1. One size may be -1: what the others leave.
    devices: all devices when None.

  Returns:
    A `jax.sharding.Mesh`; enter it with `jax.set_mesh`.

  Raises:
    ValueError: for an unknown axis, a bad size, or a product that is not the
      number of devices.

  Example:
    >>> dict(make_mesh({'data': 1}, jax.devices()[:1]).shape)
    {'data': 1, 'fsdp': 1, 'tensor': 1, 'expert': 1}
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = _sizes(shape, len(devices))
  # A tensor axis of 4 may take half of a slice's side of 8.
  return _mesh(mesh_utils.create_device_mesh(
      tuple(sizes), devices, allow_split_physical_axes=True))


def reshape_mesh(mesh: jax.sharding.Mesh,
                 shape: Sequence[int] | Mapping[str, int]
                 ) -> jax.sharding.Mesh:
  """The same devices in the same order, on axes of other sizes.

  One program may take arrays that lie on one of the two meshes and return them
  on the other.

  Args:
    mesh: from `make_mesh`.
    shape: as for `make_mesh`.

  Returns:
    A `jax.sharding.Mesh`; `mesh` itself when the sizes are its own.

  Raises:
    ValueError: as `make_mesh`.

  Example:
    >>> mesh = make_mesh({'fsdp': 1}, jax.devices()[:1])
    >>> reshape_mesh(mesh, {'tensor': -1}) is mesh
    True
  """
  sizes = _sizes(shape, mesh.size)
  if tuple(sizes) == mesh.devices.shape:
    return mesh
  return _mesh(mesh.devices.reshape(sizes))


def param_shardings(config, mesh: jax.sharding.Mesh,
                    rules: Mapping[str, Any] = RULES) -> Any:
  """Where each parameter lives.

  A dimension smaller than its mesh axes is replicated (two key heads on four
  tensor shards); a larger one must be divisible by them.

  Args:
    config: of the model.
    mesh: from `make_mesh`.
    rules: logical axis -> mesh axes.

  Returns:
    A tree of NamedSharding with the structure of the parameters.

  Raises:
    ValueError: naming the parameter, its dimension and the mesh axes that do
      not divide it.
  """
  # Only here: everything else in this file knows nothing of the model.
  from policyopt.models import transformer
  shapes = transformer.abstract_params(config)
  axes = transformer.logical_axes(config)

  def place(path, shape, logical):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    spec = [_place_dim(name, dim, size, logical[dim], mesh, rules)
            for dim, size in enumerate(shape.shape)]
    return jax.sharding.NamedSharding(mesh, P(*spec))

  return jax.tree_util.tree_map_with_path(place, shapes, axes)


def rows(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of an array [B, ...]: rows over 'data' and 'fsdp'."""
  return jax.sharding.NamedSharding(mesh, P(RULES['batch']))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of an array that every device holds whole."""
  return jax.sharding.NamedSharding(mesh, P())


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
  """Asks XLA to place an array of activations by its logical axes.

  Does nothing without a mesh (see `jax.set_mesh`). A dimension that its mesh
  axes do not divide, and an axis that is not Auto (inside `shard_map`), is
  left to XLA.

  Args:
    x: any array.
    *logical: a name of `RULES` or None for each dimension.

  Returns:
    x.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  auto = {name for name, kind in zip(mesh.axis_names, mesh.axis_types)
          if kind == jax.sharding.AxisType.Auto}
  spec = []
  for size, name in zip(x.shape, logical, strict=True):
    axes = _mesh_axes(RULES[name] if name else None)
    shards = math.prod(mesh.shape.get(axis, 1) for axis in axes)
    fits = auto.issuperset(axes) and size % shards == 0
    spec.append(axes if axes and fits else P.UNCONSTRAINED if axes else None)
  if not auto or all(s is None or s is P.UNCONSTRAINED for s in spec):
    return x
  return jax.lax.with_sharding_constraint(x, P(*spec))


def _mesh(grid):
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.sharding.Mesh(grid, AXES, axis_types=auto)


def _sizes(shape, count):
  """The size of every axis of a mesh of `count` devices."""
  if isinstance(shape, Mapping):
    for name in shape:
      if name not in AXES:
        raise ValueError(f'mesh axis {name!r} must be one of {", ".join(AXES)}')
    shape = [shape.get(name, 1) for name in AXES]
  sizes = list(shape)
  if len(sizes) != len(AXES):
    raise ValueError(f'mesh shape {tuple(sizes)} must have {len(AXES)} sizes: '
                     f'{", ".join(AXES)}')
  if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
    raise ValueError(f'mesh shape {tuple(sizes)} must hold positive sizes, and '
                     '-1 at most once')
  if -1 in sizes:
    known = -math.prod(sizes)
    sizes[sizes.index(-1)] = count // known
  if math.prod(sizes) != count:
    raise ValueError(f'mesh shape {tuple(shape)} does not fit '
                     f'{count} devices: the product must be equal')
  return sizes


def _mesh_axes(rule):
  return () if rule is None else (rule,) if isinstance(rule, str) else rule


def _place_dim(name, dim, size, logical, mesh, rules):
  if logical not in rules:
    raise ValueError(f'no rule for logical axis {logical!r} of {name!r}; '
                     f'known: {", ".join(rules)}')
  axes = _mesh_axes(rules[logical])
  shards = math.prod(mesh.shape[axis] for axis in axes)
  if shards == 1 or size < shards:
    return None
  if size % shards:
    raise ValueError(
        f'dimension {dim} of parameter {name!r} ({logical!r}, size {size}) '
        f'must be divisible by mesh axes {", ".join(axes)} of size {shards}')
  return axes[0] if len(axes) == 1 else axes
