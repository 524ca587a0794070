"""What transforms report: (sum, weight) pairs of a batch and of its prompts."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.credit.advantages import taking_part
from policyopt.ops import masking, segments
from policyopt.types import Array, Rollout


def batch_metric(value: Array, rollout: Rollout) -> tuple[Array, Array]:
  """The (sum, weight) pair of one number of the batch.

  Args:
    value: f32[].
    rollout: the rollout.

  Returns:
    (value, 1), or (0, 0) for a batch without a chosen token.
  """
  there = jnp.any(taking_part(rollout)).astype(jnp.float32)
  return jnp.where(there > 0, value, 0), there


def prompt_metric(
    values: Array, rollout: Rollout, counted: Array | None = None
) -> tuple[Array, Array]:
  """The (sum, weight) pair of a mean over the prompts of the batch.

  Args:
    values: f32[B], by group.
    rollout: the rollout; groups without a chosen token are left out.
    counted: bool[B], the groups that are counted; all when None.

  Returns:
    (f32[], f32[]).
  """
  rows = jnp.any(taking_part(rollout), axis=1)
  there = segments.segment_count(rollout.group, where=rows) > 0
  if counted is not None:
    there &= counted
  values = masking.as_float(values)
  return (masking.masked_sum(values, there),
          masking.masked_sum(jnp.ones_like(values), there))


def row_metric(
    values: Array, rollout: Rollout, counted: Array | None = None
) -> tuple[Array, Array]:
  """The (sum, weight) pair of a mean over the rows of the batch.

  Args:
    values: f32[B].
    rollout: the rollout; rows without a chosen token are left out.
    counted: bool[B], the rows that are counted; all when None.

  Returns:
    (f32[], f32[]).
  """
  there = jnp.any(taking_part(rollout), axis=1)
  if counted is not None:
    there &= counted
  values = masking.as_float(values)
  return (masking.masked_sum(values, there),
          masking.masked_sum(jnp.ones_like(values), there))
