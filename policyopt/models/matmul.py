"""A product with weights, and its gradient, in the forms that are fast."""

from __future__ import annotations

import functools

import jax
from jax import lax
import jax.numpy as jnp

from policyopt.models import quantized
from policyopt.models.attention_kernels import platform

Array = jax.Array

_VECTOR = 8


def product(x: Array, w: Array | quantized.Quantized, inner: int) -> Array:
  """`contract` with weights of any dtype, or in 8 bits.

  Args:
    x: [..., in...].
    w: [in..., out...].
    inner: how many axes `in...` has.

  Returns:
    [..., out...] in the dtype of x.
  """
  w, scale = quantized.split(w)
  # Every number of 8 bits is one of 16 bits.
  out = contract(x, w.astype(x.dtype), inner)
  if scale is None:
    return out
  return quantized.rescale(out, scale.reshape(scale.shape[inner:]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def contract(x: Array, w: Array, inner: int) -> Array:
  """Σ x · w over the last axes of x and the first of w.

  What `jnp.tensordot` gives. Its own derivative writes the weights' gradient as
  gᵀx, which XLA's CPU backend can only do after copying the larger of the two
  operands, and whatever is fused into it, column by column; as xᵀg it copies
  x. A whole update of a small model takes 0.7 of the time then.

  Args:
    x: [..., in...].
    w: [in..., out...], of the same dtype.
    inner: how many axes `in...` has.

  Returns:
    [..., out...].

  Example:
    >>> contract(jnp.ones((2, 3)), jnp.ones((3, 4)), 1).tolist()[0]
    [3.0, 3.0, 3.0, 3.0]
  """
  return _forward(x, w, inner)[0]


def _forward(x, w, inner):
  out = tuple(range(x.ndim - inner, x.ndim)), tuple(range(inner))
  return _dot(x, w, out), (x, w)


def _backward(inner, kept, g):
  x, w = kept
  outer = tuple(range(x.ndim - inner))
  out_of_g = tuple(range(len(outer), g.ndim))
  out_of_w = tuple(range(inner, w.ndim))
  by_x = _dot(g, w, (out_of_g, out_of_w))
  if _widens(x):
    x, g, outer = _two_axes(x, g, outer)
  return by_x, _dot(x, g, (outer, outer))


contract.defvjp(_forward, _backward)


def _widens(x):
  """Whether XLA has a fast product of this dtype for float32 results only."""
  return x.dtype == jnp.bfloat16 and platform() == 'cpu'


def _dot(x, y, axes):
  """Σ x · y over pairs of axes, in the dtype of x.

  On CPUs XLA multiplies bfloat16 at half the speed, that of float32, when the
  result is to be bfloat16 at once.
  """
  wide = jnp.float32 if _widens(x) else None
  out = lax.dot_general(x, y, (axes, ((), ())), preferred_element_type=wide)
  return out.astype(x.dtype)


def _two_axes(x, g, outer):
  """The same sum over two axes, if there is one: the CPU's kernel takes no
  product over the first axes of two matrices, but copies one that has more.
  """
  if len(outer) > 1 or x.shape[0] % _VECTOR:
    return x, g, outer
  x, g = (y.reshape(-1, _VECTOR, *y.shape[1:]) for y in (x, g))
  return x, g, (0, 1)
