"""Groups cut in two by some property of their rows."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, normalizers, segments
from policyopt.ops.signals import ordering

Array = jax.Array

SCALED = ('high', 'low')


def upper_half(metric: Array, ids: Array) -> Array:
  """Rows in the upper half of their group.

  The lower half are the ⌊n/2⌋ rows with the smallest metric, so an odd group
  has the larger half above; equal metrics keep the order of rows.

  Args:
    metric: f32[B].
    ids: i32[B] in [0, B); any other id belongs to no group.

  Returns:
    bool[B]; False for rows of no group.

  Source: "Conditional Advantage Estimation for Reinforcement Learning in Large
    Reasoning Models", Chen et al., 2025, arXiv:2509.23962.

  Example:
    >>> metric, ids = jnp.array([3., 1., 2., 5.]), jnp.array([0, 0, 0, 1])
    >>> upper_half(metric, ids).tolist()
    [True, False, True, True]
  """
  rank = ordering.rank_in_group(metric, ids)
  size = segments.gather(segments.segment_count(ids), ids)
  return (rank >= 0) & (rank >= size.astype(jnp.int32) // 2)


def half_means(
    rewards: Array, high: Array, ids: Array) -> tuple[Array, Array]:
  """Mean reward of either half of the row's group.

  Args:
    rewards: f32[B].
    high: bool[B], rows of the upper half.
    ids: i32[B] in [0, B); any other id belongs to no group.

  Returns:
    (f32[B] of the lower half, f32[B] of the upper half); 0 for an empty half.

  Example:
    >>> rewards, ids = jnp.array([1., 3., 5.]), jnp.zeros(3, jnp.int32)
    >>> low, high = half_means(rewards, jnp.array([False, True, True]), ids)
    >>> low.tolist(), high.tolist()
    ([1.0, 1.0, 1.0], [4.0, 4.0, 4.0])
  """
  chex.assert_equal_shape((rewards, high, ids))
  low, upper = (
      segments.gather(
          segments.segment_level(rewards, jnp.where(half, ids, -1)), ids)
      for half in (~high, high))
  return low, upper


def conditional_advantages(
    rewards: Array,
    high: Array,
    ids: Array,
    mu: Array | float,
    *,
    alpha: float = 1.,
    offset: float = 0.,
    scaled: str = 'high',
    singleton: str = 'zero',
) -> Array:
  """μ·(R' − mean of the other half) + (1 − μ)·(R − mean of the own half).

  R' is α·R in the half that `scaled` names and R in the other one; its means
  are of R' too. In the first term the upper half gains `offset` and the lower
  half loses it.

  Equals R − mean of the group for μ = ½, α = 1, offset 0 and halves of equal
  size, whatever they are.

  Args:
    rewards: f32[B].
    high: bool[B], rows of the upper half, see `upper_half`.
    ids: i32[B] in [0, B); any other id belongs to no group.
    mu: μ in [0, 1], a number or a scalar array.
    alpha: α; below 1 it disfavours the half that is scaled.
    offset: what the upper half gains against the lower one.
    scaled: 'high' or 'low'.
    singleton: what a group of one gets: 'zero', or 'raw' for means of 0.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal when α = 1 and
    offset is 0; 0 for rows of no group.

  Raises:
    ValueError: an unknown `scaled` or `singleton`.

  Source: "Conditional Advantage Estimation for Reinforcement Learning in Large
    Reasoning Models", Chen et al., 2025, arXiv:2509.23962.

  Example:
    >>> rewards, ids = jnp.array([1., 0., 0., 1.]), jnp.zeros(4, jnp.int32)
    >>> high = jnp.array([True, True, False, False])
    >>> conditional_advantages(rewards, high, ids, 1.).tolist()
    [0.5, -0.5, -0.5, 0.5]
  """
  if scaled not in SCALED:
    raise ValueError(f'scaled is {scaled!r}; it must be one of {SCALED}')
  normalizers.check_rules(singleton=singleton)
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  chex.assert_rank([rewards, high, ids], 1)
  chex.assert_equal_shape((rewards, high, ids))
  rewards = jnp.where(ids >= 0, rewards, 0)
  shrunk = jnp.where(high == (scaled == 'high'), alpha * rewards, rewards)
  low_mean, high_mean = half_means(shrunk, high, ids)
  inter = shrunk - jnp.where(high, low_mean, high_mean)
  inter = inter + jnp.where(high, offset, -offset)
  low_mean, high_mean = half_means(rewards, high, ids)
  count = segments.gather(segments.segment_count(ids), ids)
  alone = count == 1
  own = jnp.where(alone, 0, jnp.where(high, high_mean, low_mean))
  advantages = mu * inter + (1 - mu) * (rewards - own)
  kept = count > (0 if singleton == 'raw' else 1)
  return jnp.where(kept, advantages, 0)
