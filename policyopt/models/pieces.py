"""Long rows in pieces of one size, for what is computed bit by bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def split(x: Array, count: int, size: int) -> Array:
  """Cuts axis 1 into pieces, padded with zeros.

  Args:
    x: [B, T, ...], T at most count · size.
    count: of pieces.
    size: of a piece.

  Returns:
    [count, B, size, ...].

  Example:
    >>> split(jnp.array([[1, 2, 3]]), 2, 2).tolist()
    [[[1, 2]], [[3, 0]]]
  """
  pad = [(0, 0)] * x.ndim
  pad[1] = (0, count * size - x.shape[1])
  x = jnp.pad(x, pad).reshape(x.shape[0], count, size, *x.shape[2:])
  return jnp.swapaxes(x, 0, 1)


def join(x: Array, length: int) -> Array:
  """Puts the pieces together again and drops the padding.

  Args:
    x: [count, B, size, ...].
    length: T.

  Returns:
    [B, T, ...].

  Example:
    >>> join(split(jnp.array([[1, 2, 3]]), 2, 2), 3).tolist()
    [[1, 2, 3]]
  """
  x = jnp.swapaxes(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
