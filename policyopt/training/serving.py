"""The parameters that the sampler draws with.

An update wants every device to hold a piece of everything; the decode loop
reads all weights for every token, and wants them at hand: narrow, and split
over few devices with the products themselves. Both are had by one compiled
copy a step, from the layout of the update to the layout of the sampler, which
is let go before the next update begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from policyopt.models import parameters, partitioning, transformer
from policyopt.models.config import ModelConfig
from policyopt.names import check_name

_DTYPES = ('bfloat16', 'float16', 'float32')


class Layout(NamedTuple):
  """Where the sampler's parameters live, and as what.

  Attributes:
    mesh: of the sampler: the devices of the update's, in the same order.
    dtype: of the weights; None for that of the update.
    copied: whether this is another layout than that of the update.
    source: mesh of the update, where the sampler has one of its own.
  """
  mesh: Mesh
  dtype: str | None = None
  copied: bool = False
  source: Mesh | None = None


def layout(rollout: Mapping[str, Any] | None, model: ModelConfig, mesh: Mesh,
           rows: int) -> Layout:
  """The sampler's layout of a config.

  Args:
    rollout: 'mesh', axis -> size or None, and 'dtype'; without a size it is
      the update's mesh, otherwise missing axes have size 1 and 'data' what is
      left. None for a run that knows no such keys.
    model: shape of the policy.
    mesh: of the update.
    rows: of a step.

  Returns:
    Layout.

  Raises:
    ValueError: in one line, for a mesh that does not fit the devices, the
      model or the rows, and for an unknown dtype.
  """
  sizes, dtype = {}, None
  if rollout is not None:
    sizes = {name: int(size) for name, size in rollout['mesh'].items()
             if size is not None}
    dtype = rollout['dtype']
  if dtype is not None:
    check_name('rollout.dtype', dtype, _DTYPES)
    if jnp.dtype(dtype) == jnp.dtype(model.param_dtype):
      dtype = None
  if not sizes:
    return Layout(mesh, dtype, dtype is not None)
  try:
    other = partitioning.reshape_mesh(mesh, {'data': -1} | sizes)
    partitioning.param_shardings(model, other)
  except ValueError as error:
    raise ValueError(f'rollout.mesh: {error}') from None
  shards = other.shape['data'] * other.shape['fsdp']
  if rows % shards:
    raise ValueError(
        f'prompts x samples is {rows} rows; it must be a multiple of the '
        f"{shards} shards of rollout.mesh ('data' x 'fsdp')")
  if other is mesh:
    return Layout(mesh, dtype, dtype is not None)
  return Layout(other, dtype, True, mesh)


class Serving:
  """Makes the sampler's copy of the parameters, at most one at a time.

  Without a layout of its own it hands out the parameters themselves.
  """

  def __init__(self, model: ModelConfig, where: Layout):
    self._copied = where.copied
    self._source = self._copy = None
    if self._copied:
      self._make = make_copy(model, where)

  def __call__(self, params: Any) -> Any:
    """The sampler's parameters; a copy only when these are new."""
    if not self._copied:
      return params
    if params is not self._source:
      self.release()
      self._copy, self._source = self._make(params), params
    return self._copy

  def release(self) -> None:
    """Lets the copy go, so that an update has its memory."""
    self._source = self._copy = None


def make_copy(model: ModelConfig, where: Layout):
  """The compiled copy, (params) -> params in the sampler's layout."""
  halfway = _halfway(model, where)

  def copy(params):
    params = parameters.cast(params, where.dtype)
    if halfway is not None:
      params = jax.lax.with_sharding_constraint(params, halfway)
    return params

  return jax.jit(copy, out_shardings=partitioning.param_shardings(
      model, where.mesh))


def _halfway(model, where):
  """Between the two layouts: split as for the sampler, but in pieces still.

  From pieces over all devices, these change hands inside of the groups that
  will hold a whole each, and are then gathered: nothing is sent to a device
  that does not keep it. By itself the compiler may send all to all. Other
  layouts are left to it.
  """
  if where.source is None or where.source.shape['fsdp'] < where.source.size:
    return None
  rules = partitioning.RULES | {'embed': partitioning.RULES['batch']}
  try:
    return partitioning.param_shardings(model, where.mesh, rules)
  except ValueError:  # The pieces would not be equal.
    return None


def abstract_copy(model: ModelConfig, where: Layout) -> Any:
  """Shapes, dtypes and shardings of what the sampler is given."""
  shapes = jax.eval_shape(
      lambda params: parameters.cast(params, where.dtype),
      transformer.abstract_params(model))
  return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes, partitioning.param_shardings(model, where.mesh))
