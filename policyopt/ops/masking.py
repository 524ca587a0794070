"""Means and whitening over the True places of a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def as_float(x: Array) -> Array:
  """x in at least float32: bool, int and half precision become float32.

  Args:
    x: any array.

  Returns:
    The same values; float64 stays float64.

  Example:
    >>> as_float(jnp.array([True, False])).dtype
    dtype('float32')
  """
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def safe_divide(numerator: Array, denominator: Array) -> Array:
  """numerator / denominator, and 0 where the denominator is 0.

  Both branches are finite, so gradients are finite too.

  Args:
    numerator: float array.
    denominator: float array of the same shape, or a scalar.

  Returns:
    Array of the shape of `numerator`.

  Example:
    >>> safe_divide(jnp.array([1., 1.]), jnp.array([2., 0.])).tolist()
    [0.5, 0.0]
  """
  empty = denominator == 0
  return jnp.where(empty, 0, numerator / jnp.where(empty, 1, denominator))


def fill(x: Array, mask: Array, value: float = 0.) -> Array:
  """x where the mask is True and `value` elsewhere, in at least float32.

  NaN and infinity outside the mask vanish, from the gradient too.

  Args:
    x: [...].
    mask: bool or 0/1 [...], of the same shape.
    value: what takes the place of the others.

  Returns:
    Float array of the shape of x.

  Example:
    >>> fill(jnp.array([1., jnp.nan]), jnp.array([True, False])).tolist()
    [1.0, 0.0]
  """
  x = as_float(x)
  return jnp.where(jnp.asarray(mask) != 0, x, jnp.asarray(value, x.dtype))


def masked_sum(x: Array, mask: Array, axis=None) -> Array:
  """Σ x·m.

  Args:
    x: [...].
    mask: bool or 0/1 [...], of the same shape.
    axis: as in `jnp.sum`.

  Returns:
    The sum over `axis`.

  Example:
    >>> float(masked_sum(jnp.array([1., 2.]), jnp.array([True, False])))
    1.0
  """
  return jnp.sum(fill(x, mask), axis=axis)


def masked_mean(
    x: Array, mask: Array, axis=None, *, count_eps: float = 0.) -> Array:
  """Σ x·m / (Σ m + count_eps), and 0 for an empty mask.

  Args:
    x: [...].
    mask: bool or 0/1 [...], of the same shape.
    axis: as in `jnp.sum`.
    count_eps: added to the number of True places.

  Returns:
    The mean over `axis`.

  Example:
    >>> float(masked_mean(jnp.array([1., 5.]), jnp.array([True, False])))
    1.0
  """
  x = fill(x, mask)
  count = masked_sum(jnp.ones_like(x), mask, axis)
  total = jnp.sum(x, axis=axis)
  return jnp.where(count == 0, 0, safe_divide(total, count + count_eps))


def masked_variance(
    x: Array, mask: Array, *, ddof: int = 1, count_eps: float = 0.) -> Array:
  """Variance over the mask: Σ (x − x̄)²·m / n · n / (n − ddof).

  Args:
    x: [...].
    mask: bool or 0/1 [...], of the same shape.
    ddof: 1 for the sample variance, 0 for the population's.
    count_eps: added to n in both means.

  Returns:
    Scalar; 0 where n ≤ ddof.

  Example:
    >>> float(masked_variance(jnp.array([1., 3.]), jnp.array([True, True])))
    2.0
  """
  x = as_float(x)
  centred = x - masked_mean(x, mask, count_eps=count_eps)
  variance = masked_mean(
      jnp.square(fill(centred, mask)), mask, count_eps=count_eps)
  count = masked_sum(jnp.ones_like(x), mask)
  correction = safe_divide(count, jnp.maximum(count - ddof, 0))
  return variance * correction


def masked_whiten(
    x: Array,
    mask: Array,
    *,
    shift_mean: bool = True,
    ddof: int = 1,
    eps: float = 1e-8,
    floor: float = 0.,
    count_eps: float = 0.,
) -> Array:
  """(x − x̄) / √(max(var, floor) + eps) over the mask, 0 outside it.

  Args:
    x: [...].
    mask: bool or 0/1 [...], of the same shape.
    shift_mean: False adds the mean back afterwards.
    ddof: 1 for the sample variance, 0 for the population's.
    eps: added to the variance, inside the root.
    floor: smallest variance.
    count_eps: added to the number of True places in means.

  Returns:
    Array of the shape of x, finite for any mask; with fewer than two True
    places there is no spread to divide by and the result is x − x̄.

  Example:
    >>> x = jnp.array([1., 3., 9.])
    >>> masked_whiten(x, x < 5, ddof=0).round(3).tolist()
    [-1.0, 1.0, 0.0]
  """
  x = as_float(x)
  mean = masked_mean(x, mask, count_eps=count_eps)
  variance = masked_variance(x, mask, ddof=ddof, count_eps=count_eps)
  variance = jnp.where(variance < floor, jnp.asarray(floor, x.dtype), variance)
  count = masked_sum(jnp.ones_like(x), mask)
  scale = jnp.where(
      count > ddof, jax.lax.rsqrt(variance + jnp.asarray(eps, x.dtype)), 1)
  white = fill(x - mean, mask) * scale
  return fill(white if shift_mean else white + mean, mask)
