"""Sums over the devices or the mapped axis that a batch is spread over."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def sum_across(x: Array, axis_name: str | None = None) -> Array:
  """Σ of x over a named axis of `shard_map`, `pmap` or `vmap`.

  Args:
    x: this shard's part, already summed over its rows.
    axis_name: the axis that the batch is spread over; None: x is the whole.

  Returns:
    Array of the shape of x, the same in every shard.

  Example:
    >>> total = jax.vmap(lambda x: sum_across(x, 'shard'), axis_name='shard')
    >>> total(jnp.array([1., 2.])).tolist()
    [3.0, 3.0]
  """
  x = jnp.asarray(x)
  return x if axis_name is None else jax.lax.psum(x, axis_name)
