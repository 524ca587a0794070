"""Weights in 8 bits with a scale for each output, for those who only read.

  w ≈ q · s,   s = max |w| / top over the axes that a product sums over,
               q = w / s, rounded to the nearest of the narrow dtype

so that x · w = (x · q) s: what is read from memory is q, and the scale meets
the product's result. Nothing here is differentiated: the sampler has such a
copy, and the learner keeps the weights.

The kernels of projections and experts are held so, and the output head, whose
whole is read for every token; it is the embedding where the two are tied. An
embedding of its own is looked up, not multiplied, and stays as it is, as do
norms, biases, the router, the value head and adapters.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Narrow dtype -> the largest number that is used of it.
TOPS = {'int8': 127., 'float8_e4m3fn': 448.}

# Name of a parameter -> the axes that its product sums over.
_SUMMED = {
    'query': (1,), 'key': (1,), 'value': (1,), 'out': (1, 2),
    'gate': (1,), 'up': (1,), 'down': (1,),
    'expert_gate': (2,), 'expert_up': (2,), 'expert_down': (2,),
    'embedding': (1,), 'head': (0,)}

# Scales are not smaller: their reciprocals stay finite.
_SMALLEST = 1e-30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
  """An array as values · scale.

  Attributes:
    values: int8 or float8, of the array's shape. First, for a reader that
      compares the first leaf's shape with that of the array.
    scale: f32, of the same rank; 1 on the axes that are summed over.
  """
  values: Any
  scale: Any

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the array."""
    return self.values.shape

  @property
  def ndim(self) -> int:
    """Number of axes."""
    return len(self.values.shape)


def is_quantized(x: Any) -> bool:
  """Whether a node of a tree is one."""
  return isinstance(x, Quantized)


def quantize(x: Array, axes: tuple[int, ...], kind: str) -> Quantized:
  """Rounds an array to 8 bits, symmetrically and to the nearest.

  Each entry of int8 is off by s / 2 at most; of float8_e4m3fn by 1/16 of
  itself, or by s / 1024 where it is small.

  Args:
    x: any float array.
    axes: that share a scale, those that a product sums over.
    kind: a name of `TOPS`.

  Returns:
    Quantized; an array of zeros stays one.

  Example:
    >>> q = quantize(jnp.array([[1., -2.], [4., 0.5]]), (1,), 'int8')
    >>> q.values.tolist(), q.scale.shape
    ([[64, -127], [127, 16]], (2, 1))
  """
  wide, top = jnp.promote_types(x.dtype, jnp.float32), TOPS[kind]
  x = x.astype(wide)
  largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
  scale = jnp.maximum(largest, _SMALLEST) / top
  # One division for each scale, and products, which round alike everywhere.
  values = jnp.clip(x * (1 / scale), -top, top)
  if kind == 'int8':
    values = jnp.round(values)
  return Quantized(values.astype(kind), scale.astype(jnp.float32))


def dequantize(x: Quantized, dtype: Any = jnp.float32) -> Array:
  """The array that the values and scales stand for.

  Args:
    x: from `quantize`.
    dtype: of the result.

  Returns:
    An array of the shape of the values.
  """
  return (x.values.astype(jnp.float32) * x.scale).astype(dtype)


def rescale(out: Array, scale: Array) -> Array:
  """The result of a product with values, times their scale.

  Args:
    out: [..., out...].
    scale: f32[out...].

  Returns:
    [..., out...] in the dtype of `out`.
  """
  scale = scale.reshape((1,) * (out.ndim - scale.ndim) + scale.shape)
  return (out * scale).astype(out.dtype)


def take(table: Array | Quantized, index: Array, dtype: Any) -> Array:
  """Rows of a table of embeddings.

  Args:
    table: [V, D].
    index: i32[...].
    dtype: of the result.

  Returns:
    [..., D].
  """
  if is_quantized(table):
    return dequantize(jax.tree.map(lambda x: x[index], table), dtype)
  return table[index].astype(dtype)


def cast(w: Array | Quantized, dtype: Any) -> Array | Quantized:
  """In the compute dtype; 8 bits stay what they are until they are used."""
  return w if is_quantized(w) else w.astype(dtype)


def gather(w: Array | Quantized, axes: tuple[str, ...], axis: int,
           summed: tuple[int, ...]) -> Array | Quantized:
  """Whole along an axis that mesh axes split; inside of `shard_map`.

  Args:
    w: one device's part.
    axes: of the mesh.
    axis: of the array.
    summed: axes that share a scale, which is whole along them.

  Returns:
    The array.
  """
  def whole(x):
    return jax.lax.all_gather(x, axes, axis=axis, tiled=True)

  if not is_quantized(w):
    return whole(w)
  return Quantized(
      whole(w.values), w.scale if axis in summed else whole(w.scale))


def spec(w: Array | Quantized, names: jax.sharding.PartitionSpec,
         summed: tuple[int, ...]) -> Any:
  """The PartitionSpec of an array, or of its values and its scale."""
  if not is_quantized(w):
    return names
  return Quantized(names, _scale_spec(names, summed))


def split(w: Array | Quantized) -> tuple[Array, Array | None]:
  """What is multiplied, and the scale of the product's result or None."""
  return (w.values, w.scale) if is_quantized(w) else (w, None)


def quantize_params(params: Any, kind: str | None) -> Any:
  """The parameters with their kernels in 8 bits.

  Args:
    params: of a model.
    kind: a name of `TOPS`; None leaves all.

  Returns:
    A tree of the same structure, but that some leaves are Quantized.

  Example:
    >>> ones = jnp.ones((1, 2, 2))
    >>> tree = quantize_params({'layers': {'up': ones, 'norm': ones}}, 'int8')
    >>> tree['layers']['up'].scale.shape, tree['layers']['norm'].shape
    ((1, 1, 2), (1, 2, 2))
  """
  if kind is None:
    return params
  return _map(params, lambda x, axes: quantize(x, axes, kind))


def quantize_shardings(shardings: Any, kind: str | None) -> Any:
  """Where such parameters live: a scale lies with the outputs that it is of.

  Args:
    shardings: of the parameters, from `partitioning.param_shardings`.
    kind: as in `quantize_params`.

  Returns:
    A tree in the structure of `quantize_params`.
  """
  if kind is None:
    return shardings

  def place(sharding, axes):
    return Quantized(sharding, jax.sharding.NamedSharding(
        sharding.mesh, _scale_spec(sharding.spec, axes)))

  return _map(shardings, place)


def _scale_spec(names, summed):
  return jax.sharding.PartitionSpec(*(
      None if axis in summed else name for axis, name in enumerate(names)))


def _map(params, change):
  """Changes the leaves that are multiplied."""
  def walk(tree):
    changed = {}
    for name, x in tree.items():
      if isinstance(x, dict):
        changed[name] = walk(x)
      elif name in _SUMMED and not (name == 'embedding' and 'head' in tree):
        changed[name] = change(x, _SUMMED[name])
      else:
        changed[name] = x
    return changed
  return walk(params)
