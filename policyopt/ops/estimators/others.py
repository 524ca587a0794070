"""Rewards against those of the other members of the group, one row left out.

Groups are ids in [0, B) in any order and of any size; rows with any other id
get 0.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, normalizers, segments

Array = jax.Array


def _enter(rewards: Array, ids: Array) -> tuple[Array, Array]:
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  chex.assert_rank([rewards, ids], 1)
  chex.assert_equal_shape((rewards, ids))
  return jnp.where(ids >= 0, rewards, 0), ids


def top_two(x: Array, ids: Array) -> tuple[Array, Array, Array]:
  """The largest entry of each row's group, the second largest, and who has it.

  Args:
    x: f32[B].
    ids: i32[B] in [0, B).

  Returns:
    (f32[B] largest, f32[B] second largest, bool[B] rows that hold the
    largest). Two rows that share the largest make the second equal to it, and
    so does a group of one.

  Example:
    >>> x, ids = jnp.array([3., 1., 2., 5.]), jnp.array([0, 0, 0, -1])
    >>> [part.tolist() for part in top_two(x, ids)]
    [[3.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 0.0], [True, False, False, False]]
  """
  x, ids = _enter(x, ids)
  first = segments.gather(segments.segment_max(x, ids), ids)
  holds = (ids >= 0) & (x == first)
  holders = segments.gather(segments.segment_count(ids, where=holds), ids)
  others = jnp.where(holds, -1, ids)
  there = segments.gather(segments.segment_count(others), ids) > 0
  below = segments.gather(segments.segment_max(x, others), ids)
  return first, jnp.where((holders == 1) & there, below, first), holds


def best_margin(
    rewards: Array, ids: Array, *, std: str = 'sample',
    eps: float = 1e-6) -> Array:
  """(R − second best) / (σ + eps) for the best of a group, 0 for the others.

  The margin is what the group's maximum owes to that row, so that the gradient
  is that of max@G, which is pass@G for right and wrong answers.

  Args:
    rewards: f32[B], one number per row.
    ids: i32[B] in [0, B).
    std: σ, 'sample' (n − 1), 'population' (n) or 'none' (no division).
    eps: added to σ.

  Returns:
    f32[B]; 0 in a group whose best reward is shared, and in a group of one.

  Raises:
    ValueError: an unknown `std`.

  Source: "Optimizing Language Models for Inference Time Objectives using
    Reinforcement Learning", Tang, Zheng, Synnaeve, Munos, 2025,
    arXiv:2503.19595.

  Example:
    >>> rewards, ids = jnp.array([3., 1., 2.]), jnp.array([0, 0, 0])
    >>> best_margin(rewards, ids, std='none').tolist()
    [1.0, 0.0, 0.0]
  """
  normalizers.check_rules(std=std)
  rewards, ids = _enter(rewards, ids)
  first, second, holds = top_two(rewards, ids)
  margin = jnp.where(holds, first - second, 0)
  if std == 'none':
    return margin
  spread = segments.segment_std(rewards, ids, ddof=1 if std == 'sample' else 0)
  return masking.safe_divide(
      margin, segments.gather(spread, ids) + jnp.asarray(eps, rewards.dtype))


def others_std(x: Array, ids: Array) -> Array:
  """Sample standard deviation of the OTHER members of each row's group.

  Args:
    x: f32[B].
    ids: i32[B] in [0, B).

  Returns:
    f32[B]; exactly 0 where the others are all equal or fewer than two.

  Example:
    >>> x, ids = jnp.array([1., 2., 3., 5.]), jnp.array([0, 0, 0, 0])
    >>> [round(float(spread), 3) for spread in others_std(x, ids)]
    [1.528, 2.0, 2.082, 1.0]
  """
  x, ids = _enter(x, ids)
  rows = ids.shape[0]
  # Rows of no group stand at the end.
  bins = jnp.where(ids >= 0, ids, rows)
  order = jnp.lexsort((x, bins))
  x, bins = x[order], bins[order]
  size = segments.segment_count(bins, rows + 1).astype(jnp.int32)
  first = jnp.cumsum(size) - size
  middle = jnp.minimum(first + size // 2, rows - 1)
  # Measured from the median, entries that equal most others are exactly 0.
  x = x - x[middle][bins]
  total, squares = _sums_of_others(jnp.stack([x, jnp.square(x)], axis=1), bins)
  count = (size[bins] - 1).astype(x.dtype)
  spread = squares - masking.safe_divide(jnp.square(total), count)
  variance = masking.safe_divide(
      jnp.maximum(spread, 0), jnp.maximum(count - 1, 0))
  variance = jnp.where(bins < rows, variance, 0)
  variance = jnp.zeros_like(variance).at[order].set(variance)
  # The root's slope at 0 is infinite.
  return jnp.where(
      variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance)))


def _sums_of_others(x: Array, bins: Array) -> Array:
  """Sums over the rows before and after each one in its bin: [2, B] of [B, 2].

  Added up from both ends: what is left of the whole sum when one row is taken
  out again is rounding where the others are nearly equal.
  """
  def before(x, bins):
    starts = jnp.concatenate([jnp.ones(1, bool), bins[1:] != bins[:-1]])
    moved = jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])
    return segments.running_sums(
        jnp.where(starts[:, None], 0, moved), starts)

  return (before(x, bins) + before(x[::-1], bins[::-1])[::-1]).T


def leave_one_out_standardize(
    rewards: Array, ids: Array, *, eps: float = 1e-6,
    singleton: str = 'zero') -> Array:
  """(R − μ₋) / (σ₋ + eps), mean and sample spread of the others of the group.

  Equals R − μ₋ where σ₋ is 0: the only right answer of a group, and a group
  of two.

  Args:
    rewards: f32[B], one number per row.
    ids: i32[B] in [0, B).
    eps: added to σ₋.
    singleton: what a group of one gets: 'zero' or 'raw'.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal.

  Raises:
    ValueError: an unknown `singleton`.

  Source: the default of NeMo RL.

  Example:
    >>> rewards, ids = jnp.array([1., 2., 3., 5.]), jnp.array([0, 0, 0, 0])
    >>> leave_one_out_standardize(rewards, ids, eps=0.)[1::2].tolist()
    [-0.5, 3.0]
  """
  centred = normalizers.leave_one_out(rewards, ids, singleton=singleton)
  spread = others_std(rewards, ids)
  return centred / jnp.where(
      spread > 0, spread + jnp.asarray(eps, spread.dtype), 1)
