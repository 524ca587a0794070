"""What losses of pairs share: who is paired, and what is reported of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt.losses import base
from policyopt.ops import masking, segments
from policyopt.ops.pairwise import pairs
from policyopt.types import Array, Metrics, PolicyOutput, Rollout


class Pairs(NamedTuple):
  """The pairs of a microbatch, an entry per group, most of them empty.

  Attributes:
    roles: f32[B] by row, +1 chosen, −1 rejected, 0 neither.
    ids: i32[B] by row, the group in [0, B), -1 for none.
    weight: f32[B] by group, of its pair; 0 without one.
    where: bool[B] by group, those that have a pair.
  """
  roles: Array
  ids: Array
  weight: Array
  where: Array

  def split(self, x: Array) -> tuple[Array, Array]:
    """What rows have, by group: of the chosen row and of the rejected one.

    Args:
      x: f32[B] by row.

    Returns:
      (f32[B], f32[B]) by group.
    """
    return pairs.split_pairs(x, self.roles, self.ids)


def row_mean(x: Array, mask: Array) -> Array:
  """The mean of x over the chosen tokens of each row.

  Args:
    x: f32[B, T].
    mask: bool[B, T].

  Returns:
    f32[B]; 0 for a row without a chosen token.
  """
  return masking.masked_mean(x, mask, axis=1)


def row_sum(x: Array, mask: Array) -> Array:
  """The sum of x over the chosen tokens of each row.

  Args:
    x: f32[B, T].
    mask: bool[B, T].

  Returns:
    f32[B].
  """
  return masking.masked_sum(x, mask, axis=1)


def lengths(mask: Array) -> Array:
  """The number of chosen tokens of each row.

  Args:
    mask: bool[B, T].

  Returns:
    f32[B].
  """
  return row_sum(jnp.ones(mask.shape, jnp.float32), mask)


def find_pairs(advantages: Array, weights: Array, rollout: Rollout) -> Pairs:
  """The pairs of a microbatch that is cut between groups.

  Args:
    advantages: f32[B, T], of each row on average its role, or anything that
      is largest on the chosen row of a group and smallest on the rejected one.
    weights: f32[B, T]; a pair weighs what its chosen row does on average, and
      nothing if one of its rows weighs nothing.
    rollout: B rows, whose group ids may be those of a larger batch.

  Returns:
    Pairs.
  """
  mask = rollout.mask
  ids = segments.compact_ids(rollout.group)
  roles = pairs.best_and_worst(
      row_mean(advantages, mask), ids, where=jnp.any(mask, axis=1))
  weight, other = pairs.split_pairs(row_mean(weights, mask), roles, ids)
  where = (weight != 0) & (other != 0)
  return Pairs(roles, ids, jnp.where(where, weight, 0), where)


def weighted_entries(
    name: str, losses: Array, weight: Array) -> tuple[Array, Metrics]:
  """Σ w·l over entries that are pairs or rows, and its metric.

  Args:
    name: of the metric.
    losses: f32[N].
    weight: f32[N].

  Returns:
    (f32[], {name: (sum, weight)}).
  """
  loss = jnp.sum(weight * losses)
  stop = jax.lax.stop_gradient
  return loss, {name: (stop(loss), stop(jnp.sum(weight)))}


def pair_loss(
    terms: Mapping[str, Array],
    found: Pairs,
    rewards: Iterable[Array],
) -> tuple[Array, Metrics]:
  """The weighted sum of the losses of pairs, and what is reported of them.

  Args:
    terms: metric -> f32[B] by group, what is added up.
    found: the pairs.
    rewards: (f32[B], f32[B]) by group, the implicit rewards of the chosen and
      of the rejected rows.

  Returns:
    (f32[], metrics): those of the terms, 'preference/accuracy' (the fraction
    of pairs that are ordered rightly), 'preference/margin',
    'preference/chosen' and 'preference/rejected'.
  """
  total, metrics = 0., {}
  for name, losses in terms.items():
    losses = masking.fill(losses, found.where)
    loss, metric = weighted_entries(name, losses, found.weight)
    total, metrics = total + loss, metrics | metric
  chosen, rejected = rewards
  compared = {'accuracy': chosen > rejected, 'margin': chosen - rejected,
              'chosen': chosen, 'rejected': rejected}
  return total, metrics | {
      f'preference/{name}': base.mean_metric(x, found.where)
      for name, x in compared.items()}


def with_gap(
    result: tuple[Array, Metrics],
    policy: PolicyOutput,
    weights: Array,
    rollout: Rollout,
) -> tuple[Array, Metrics]:
  """Adds 'log_prob_gap', mean |log π − log π_sampler| where weights are not 0.

  Args:
    result: (loss, metrics).
    policy: of B rows.
    weights: f32[B, T].
    rollout: of the same rows.

  Returns:
    (loss, metrics).
  """
  counted = rollout.mask & (weights != 0)
  gap = masking.fill(policy.log_probs, counted) - masking.fill(
      rollout.log_probs, counted)
  loss, metrics = result
  return loss, {
      **metrics, 'log_prob_gap': base.mean_metric(jnp.abs(gap), counted)}


def check_positive(**arguments: float) -> None:
  """Raises ValueError for a number that is not positive.

  Args:
    **arguments: by name.

  Raises:
    ValueError: one of them is not.

  Example:
    >>> check_positive(beta=.1)
  """
  for name, value in arguments.items():
    if not value > 0:
      raise ValueError(f'{name} is {value}; it must be positive')


def check_not_negative(**arguments: float) -> None:
  """Raises ValueError for a negative number.

  Args:
    **arguments: by name.

  Raises:
    ValueError: one of them is.

  Example:
    >>> check_not_negative(nll_coef=0.)
  """
  for name, value in arguments.items():
    if not value >= 0:
      raise ValueError(f'{name} is {value}; it must not be negative')
