"""How many directions the hidden states of a response really use.

Source of everything here: "Beyond the Exploration-Exploitation Trade-off: A
Hidden State Approach for LLM Reasoning in RLVR", Huang et al., 2025,
arXiv:2509.23808.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array

EPS = 1e-8


class RankDynamics(NamedTuple):
  """The effective rank of a response and how it grew: f32[B] each.

  Attributes:
    acceleration: ERA, how the steps of the rank change from window to window.
    velocity: ERV, how far the rank of a window lies above those before it.
    rank: ER, of the whole response.
  """
  acceleration: Array
  velocity: Array
  rank: Array


def effective_rank(hidden: Array, length: Array) -> Array:
  """exp(−Σ p log p), p the singular values of the centred rows over their sum.

  Between 1 and min(T − 1, D) for rows that are not all equal; moving, rotating
  and scaling the rows changes nothing.

  Args:
    hidden: f32[B, T, D]; a constant.
    length: i32[B]: the first so many rows count, the others are not read.

  Returns:
    f32[B]; 1 where all rows are equal, 0 where there are fewer than two.

  Example:
    >>> cross = jnp.array([[[1., 0], [-1, 0], [0, 1], [0, -1], [9, 9]]])
    >>> effective_rank(cross, jnp.array([4])).round(4).tolist()
    [2.0]
  """
  chex.assert_rank([hidden, length], [3, 1])
  hidden = jax.lax.stop_gradient(masking.as_float(hidden))
  there = jnp.arange(hidden.shape[1])[None, :] < length[:, None]
  there = jnp.broadcast_to(there[:, :, None], hidden.shape)
  # Measured from the first row, equal rows are exactly 0 and so is the mean.
  hidden = hidden - hidden[:, :1]
  mean = masking.masked_mean(hidden, there, axis=1)
  # Rows of zeros add singular values of 0, which add nothing to the entropy.
  centred = masking.fill(hidden - mean[:, None, :], there)
  values = jnp.linalg.svd(centred, compute_uv=False)
  p = values / (jnp.sum(values, axis=-1, keepdims=True) + EPS)
  entropy = -jnp.sum(p * jnp.log(p + EPS), axis=-1)
  return jnp.where(length < 2, 0, jnp.exp(entropy))


def chosen_first(hidden: Array, mask: Array, last: int) -> tuple[Array, Array]:
  """Moves the chosen tokens of each row to its front, the last ones only.

  Args:
    hidden: f32[B, T, D].
    mask: bool[B, T], chosen tokens.
    last: how many to keep of a row, from its end.

  Returns:
    (f32[B, min(T, last), D], 0 behind the kept tokens; i32[B], their number).

  Example:
    >>> hidden = jnp.array([[[1.], [2.], [3.], [4.]]])
    >>> mask = jnp.array([[True, False, True, True]])
    >>> kept, length = chosen_first(hidden, mask, 2)
    >>> kept[..., 0].tolist(), length.tolist()
    ([[3.0, 4.0]], [2])
  """
  chex.assert_rank([hidden, mask], [3, 2])
  mask = jnp.asarray(mask) != 0
  total = mask.shape[1]
  width = min(total, last)
  count = jnp.sum(mask, axis=1, dtype=jnp.int32)
  order = jnp.argsort(~mask, axis=1, stable=True)
  place = jnp.maximum(count - width, 0)[:, None] + jnp.arange(width)[None, :]
  index = jnp.take_along_axis(order, jnp.minimum(place, total - 1), axis=1)
  length = jnp.minimum(count, width)
  there = jnp.arange(width)[None, :] < length[:, None]
  kept = jnp.take_along_axis(hidden, index[:, :, None], axis=1)
  return masking.fill(
      kept, jnp.broadcast_to(there[:, :, None], kept.shape)), length


def prefix_ranks(
    hidden: Array, length: Array, *, stride: int) -> tuple[Array, Array]:
  """Effective rank of the growing windows of each row.

  Window j holds the first j·stride + 1 rows, as long as there are so many.

  Args:
    hidden: f32[B, T, D].
    length: i32[B], rows that count.
    stride: rows by which a window is longer than the one before.

  Returns:
    (f32[B, J], bool[B, J] windows that exist); J = ⌊(T − 1) / stride⌋.

  Example:
    >>> ranks, there = prefix_ranks(
    ...     jnp.eye(5)[None], jnp.array([4]), stride=2)
    >>> ranks.round(2).tolist(), there.tolist()
    ([[2.0, 0.0]], [[True, False]])
  """
  sizes = jnp.arange(stride, hidden.shape[1], stride) + 1
  there = sizes[None, :] <= length[:, None]
  lengths = jnp.where(there, sizes[None, :], 0)
  # One window of all rows at a time: each needs a copy of the hidden states.
  ranks = jax.lax.map(lambda n: effective_rank(hidden, n), lengths.T)
  return ranks.T, there


def rank_steps(ranks: Array) -> Array:
  """δⱼ = ERⱼ − mean(ER₁ … ERⱼ₋₁) for j ≥ 2.

  Args:
    ranks: f32[B, J].

  Returns:
    f32[B, J − 1].

  Example:
    >>> rank_steps(jnp.array([[1., 2., 3.5]])).tolist()
    [[1.0, 2.0]]
  """
  before = jnp.arange(1, max(ranks.shape[1], 1), dtype=ranks.dtype)
  mean = jnp.cumsum(ranks, axis=1)[:, :-1] / before[None, :]
  return ranks[:, 1:] - mean


def rank_growth(ranks: Array, there: Array) -> tuple[Array, Array]:
  """Velocity and acceleration of the ranks of growing windows.

  ERV = mean δⱼ and ERA = mean (δⱼ − δⱼ₋₁), δ as in `rank_steps`.

  Args:
    ranks: f32[B, J].
    there: bool[B, J], windows that exist: the first ones of a row.

  Returns:
    (ERV f32[B], ERA f32[B]); 0 where there are too few windows.

  Example:
    >>> velocity, acceleration = rank_growth(
    ...     jnp.array([[1., 2., 3.5]]), jnp.ones((1, 3), bool))
    >>> velocity.tolist(), acceleration.tolist()
    ([1.5], [1.0])
  """
  chex.assert_rank([ranks, there], 2)
  chex.assert_equal_shape((ranks, there))
  steps = rank_steps(masking.fill(ranks, there))
  return (masking.masked_mean(steps, there[:, 1:], axis=1),
          masking.masked_mean(
              steps[:, 1:] - steps[:, :-1], there[:, 2:], axis=1))


def rank_dynamics(
    hidden: Array,
    mask: Array,
    *,
    stride: int = 40,
    last: int = 512,
    rank_of_all: bool = False,
) -> RankDynamics:
  """ERA, ERV and ER of every row's chosen tokens.

  Args:
    hidden: f32[B, T, D], last hidden states; a constant.
    mask: bool[B, T], chosen tokens.
    stride: tokens between two windows.
    last: only so many tokens of a row are looked at, from its end.
    rank_of_all: ER, but not its growth, is of all the chosen tokens.

  Returns:
    RankDynamics; 0 for rows that are too short.

  Raises:
    ValueError: `stride` or `last` is not positive.

  Example:
    >>> hidden = jnp.eye(6)[None]
    >>> out = rank_dynamics(hidden, jnp.ones((1, 6), bool), stride=2)
    >>> [round(float(x[0]), 2) for x in out]
    [0.0, 2.0, 5.0]
  """
  check_windows(stride=stride, last=last)
  kept, length = chosen_first(hidden, mask, last)
  velocity, acceleration = rank_growth(
      *prefix_ranks(kept, length, stride=stride))
  if rank_of_all:
    kept, length = chosen_first(hidden, mask, mask.shape[1])
  return RankDynamics(acceleration, velocity, effective_rank(kept, length))


def check_windows(*, stride: int, last: int) -> None:
  """Raises ValueError for windows that make no sense.

  Args:
    stride: must be at least 1.
    last: must be at least 1.

  Raises:
    ValueError: it is not.

  Example:
    >>> check_windows(stride=40, last=512)
  """
  for name, value in (('stride', stride), ('last', last)):
    if value < 1:
      raise ValueError(f'{name} is {value}; it must be at least 1')
