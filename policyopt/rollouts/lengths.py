"""Rows cut to one of a few lengths, so that nothing is computed on padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.data.sizes import buckets, smallest
from policyopt.types import Array, Rollout


def trim(rollout: Rollout, count: int) -> Rollout:
  """Cuts the columns after the last chosen token of the batch.

  Rows then have one of `count` lengths, so that what is compiled for them is
  compiled `count` times at most. Nothing that is learned changes: the columns
  are padding in every row that takes part.

  Args:
    rollout: B rows of T tokens.
    count: of lengths, T among them; 1 leaves the rollout as it is.

  Returns:
    The rollout with T' ≤ T, the smallest of the lengths that holds all.

  Raises:
    ValueError: when count is less than 1.
  """
  length = rollout.mask.shape[1]
  sizes = buckets(length, count)
  if len(sizes) == 1:
    return rollout
  new = smallest(sizes, int(_longest(rollout.mask)))
  return rollout if new == length else _cut(rollout, length, new)


@jax.jit
def _longest(mask: Array) -> Array:
  """Columns up to the last chosen token of any row."""
  place = jnp.arange(1, mask.shape[1] + 1)
  return jnp.max(jnp.where(mask.any(axis=0), place, 0))


def _cut_leaf(x, length, new):
  # What has a column for each token has them on axis 1.
  return x[:, :new] if x.ndim > 1 and x.shape[1] == length else x


_cut = jax.jit(
    lambda rollout, length, new: jax.tree.map(
        lambda x: _cut_leaf(x, length, new), rollout),
    static_argnums=(1, 2))
