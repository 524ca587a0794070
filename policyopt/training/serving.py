"""The parameters that the sampler draws with.

An update wants every device to hold a piece of everything; the decode loop
reads all weights for every token, and wants them at hand: narrow, and split
over few devices with the products themselves. Both are had by one compiled
copy a step, from the layout of the update to the layout of the sampler, which
is let go before the next update begins.

Where the copy, or the cache of keys and values, is rounded further than the
model computes, the sampler draws from another policy than the one that is
learned. `rollout.log_probs` are that policy's own, so a method that weighs
tokens by π/μ learns from them what it would have learned without (see
`credit.importance_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
import warnings

import jax
from jax.experimental import layout as orders
import jax.numpy as jnp
from jax.sharding import Mesh

from policyopt.models import parameters, partitioning, quantized, transformer
from policyopt.models.config import ModelConfig
from policyopt.names import check_name
from policyopt.types import Method

_DTYPES = ('bfloat16', 'float16', 'float32')
_WEIGHTS = tuple(quantized.TOPS)
_CACHES = ('bfloat16', *_WEIGHTS)
# Projections to heads, [L, D, H, DH].
_TO_HEADS = ('query', 'key', 'value')
_LANES = 128


class Layout(NamedTuple):
  """Where the sampler's parameters live, and as what.

  Attributes:
    mesh: of the sampler: the devices of the update's, in the same order.
    dtype: of the weights; None for that of the update.
    copied: whether this is another layout than that of the update.
    source: mesh of the update, where the sampler has one of its own.
    weights: 8 bits that kernels are rounded to, or None.
    cache: dtype of keys and values; None for that of the computation.
  """
  mesh: Mesh
  dtype: str | None = None
  copied: bool = False
  source: Mesh | None = None
  weights: str | None = None
  cache: str | None = None

  @property
  def rounds(self) -> bool:
    """Whether the sampler's policy is a rounded one on purpose."""
    return self.weights is not None or self.cache is not None

  def model(self, config: ModelConfig) -> ModelConfig:
    """The model as the sampler runs it."""
    return config.replace(cache_dtype=self.cache) if self.cache else config

  def warn(self, method: Method, name: str) -> None:
    """Says so when rows of a rounded policy are taken for the learner's own.

    Args:
      method: that learns from them.
      name: of the method.
    """
    needs = method.weights.needs | method.advantages.needs
    if not self.rounds or 'old_log_probs' in needs:
      return
    asked = ' and '.join(
        f'rollout.{key} = {value!r}' for key, value in (
            ('weights', self.weights), ('cache', self.cache)) if value)
    warnings.warn(
        f'{asked}: a rounded policy draws the rows, and no weights of method '
        f"{name!r} correct for it (a ratio to 'log_probs' does, as far as its "
        "clip allows); method_kw.importance = 'token' with method_kw.old = "
        "'old_log_probs' where the method has them, or credit.corrected("
        'method, credit.importance_weights()), do', stacklevel=3)


def layout(rollout: Mapping[str, Any] | None, model: ModelConfig, mesh: Mesh,
           rows: int) -> Layout:
  """The sampler's layout of a config.

  Args:
    rollout: 'mesh', axis -> size or None, 'dtype', and, where they are there,
      'weights' and 'cache'; without a size it is the update's mesh, otherwise
      missing axes have size 1 and 'data' what is left. None for a run that
      knows no such keys.
    model: shape of the policy.
    mesh: of the update.
    rows: of a step.

  Returns:
    Layout.

  Raises:
    ValueError: in one line, for a mesh that does not fit the devices, the
      model or the rows, and for an unknown dtype.
  """
  rollout = rollout or {'mesh': {}}
  sizes = {name: int(size) for name, size in rollout['mesh'].items()
           if size is not None}
  dtype, weights, cache = (
      _checked(name, rollout.get(name), known) for name, known in (
          ('dtype', _DTYPES), ('weights', _WEIGHTS), ('cache', _CACHES)))
  if dtype and jnp.dtype(dtype) == jnp.dtype(model.param_dtype):
    dtype = None
  if cache and jnp.dtype(cache) == jnp.dtype(model.dtype):
    cache = None
  narrow = bool(dtype or weights)
  if not sizes:
    return Layout(mesh, dtype, narrow, None, weights, cache)
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
    return Layout(mesh, dtype, narrow, None, weights, cache)
  return Layout(other, dtype, True, mesh, weights, cache)


def _checked(name, value, known):
  if value is not None:
    check_name(f'rollout.{name}', value, known)
  return value


class Serving:
  """Makes the sampler's copy of the parameters, at most one at a time.

  Without a layout of its own it hands out the parameters themselves.
  """

  def __init__(self, model: ModelConfig, where: Layout,
               jit: Callable = jax.jit):
    self._copied = where.copied
    self._source = self._copy = None
    if self._copied:
      self._make = make_copy(model, where, jit)

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


def make_copy(model: ModelConfig, where: Layout, jit: Callable = jax.jit):
  """The compiled copy, (params) -> params in the sampler's layout."""
  stations = [_halfway(model, where)]
  if where.weights and where.source is not None:
    # Else the weights travel before they are narrow.
    stations.insert(0, partitioning.param_shardings(model, where.source))

  def copy(params):
    params = rounded(params, where)
    for shardings in filter(None, stations):
      params = jax.lax.with_sharding_constraint(
          params, quantized.quantize_shardings(shardings, where.weights))
    return params

  return jit(copy, out_shardings=_formats(model, where))


def rounded(params: Any, where: Layout) -> Any:
  """The numbers of the sampler's copy, on the mesh of the update.

  Args:
    params: of a model, or some of them.
    where: the sampler's layout.

  Returns:
    A tree with `quantized.Quantized` in place of kernels that are in 8 bits.
  """
  # From the weights themselves, not from what is left of them in 16 bits.
  return parameters.cast(
      quantized.quantize_params(params, where.weights), where.dtype)


def _shardings(model, where):
  return quantized.quantize_shardings(
      partitioning.param_shardings(model, where.mesh), where.weights)


def _formats(model, where):
  """Where the copy lies, and in which order.

  On TPUs a product reads the weights of one head after another. Given in the
  order of their axes, the decode loop would lay them out anew, those of all
  layers at once, and hold them twice.
  """
  places = _shardings(model, where)
  if not _by_head(model, where):
    return places
  order = lambda place: orders.Format(orders.Layout((0, 2, 1, 3)), place)
  layers = {name: jax.tree.map(order, place) if name in _TO_HEADS else place
            for name, place in places['layers'].items()}
  return {**places, 'layers': layers}


def _by_head(model, where):
  # Heads that do not fill the lanes would be padded in that order.
  on_tpus = where.mesh.devices.flat[0].platform == 'tpu'
  return on_tpus and model.head_dim % _LANES == 0


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
  """Shapes, dtypes and formats of what the sampler is given."""
  shapes = jax.eval_shape(
      lambda params: rounded(params, where), transformer.abstract_params(model))
  return jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes, _formats(model, where))
