"""Rewards measured against the tokens of the group instead of its rows."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, normalizers, segments

Array = jax.Array


def token_group_standardize(
    rewards: Array,
    mask: Array,
    ids: Array,
    *,
    std: str = 'population',
    eps: float = 1e-6,
    limit: float | None = 5.,
    count_padding: bool = False,
    singleton: str = 'zero',
) -> Array:
  """(R − μ) / (σ + eps), μ and σ over all TOKENS of the group.

  Every token carries the reward of its row, so long rows count for more, and
  the advantages of a group's tokens sum to 0. A group in which some |A| reaches
  the limit, because few tokens stand against many, is measured row by row
  instead, with the sample spread: `group_standardize`.

  Equals `group_standardize` with the same std for rows of equal length.

  Args:
    rewards: f32[B], one number per row.
    mask: bool[B, T], chosen tokens.
    ids: i32[B] in [0, B); rows with any other id, or without a token, get 0.
    std: 'population', 'sample' or 'none' (no division, row by row neither).
    eps: added to the standard deviation.
    limit: where the group falls back to rows; None: never.
    count_padding: whether places outside the mask count, with reward 0, when
      the limit is tested, as in the authors' code.
    singleton: what a group of one gets when it falls back, see
      `group_standardize`.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal.

  Raises:
    ValueError: an unknown `std` or `singleton`.

  Source: "From Uniform to Heterogeneous: Tailoring Policy Optimization to
    Every Token's Nature", Liu et al., 2025, arXiv:2509.16591.

  Example:
    >>> mask = jnp.array([[True, True, True], [True, False, False]])
    >>> rewards, ids = jnp.array([0., 4.]), jnp.zeros(2, jnp.int32)
    >>> token_group_standardize(rewards, mask, ids, std='none').tolist()
    [-1.0, 3.0]
  """
  normalizers.check_rules(std=std, singleton=singleton)
  chex.assert_rank([rewards, mask, ids], [1, 2, 1])
  chex.assert_equal_shape_prefix((rewards, mask, ids), 1)
  length = masking.masked_sum(jnp.ones(mask.shape), mask, axis=1)
  ids = jnp.where(length > 0, ids, -1)
  rewards = jnp.where(ids >= 0, masking.as_float(rewards), 0)
  length = jnp.where(ids >= 0, length, 0).astype(rewards.dtype)

  def over_tokens(x):
    return segments.gather(segments.segment_sum(length * x, ids), ids)

  tokens = over_tokens(jnp.ones_like(rewards))
  # Measured from the smallest, equal rewards are exactly 0 and so is the mean.
  lowest = segments.gather(segments.segment_min(rewards, ids), ids)
  mean = masking.safe_divide(over_tokens(rewards - lowest), tokens)
  centred = rewards - lowest - mean
  scale = jnp.ones_like(rewards)
  if std != 'none':
    variance = masking.safe_divide(
        over_tokens(jnp.square(centred)),
        jnp.maximum(tokens - (std == 'sample'), 0))
    flat = variance == 0
    spread = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, variance)))
    scale = spread + jnp.asarray(eps, rewards.dtype)
    # With eps = 0 a flat group has nothing to divide by; its rows are 0.
    scale = jnp.where(scale == 0, 1, scale)
  by_token = centred / scale
  if limit is None:
    return by_token
  extreme = jnp.abs(by_token)
  if count_padding:
    padded = length < mask.shape[1]
    extreme = jnp.maximum(
        extreme, jnp.where(padded, jnp.abs(lowest + mean) / scale, 0))
  by_row = normalizers.group_standardize(
      rewards, ids, std='none' if std == 'none' else 'sample', eps=eps,
      singleton=singleton)
  top = segments.gather(segments.segment_max(extreme, ids), ids)
  return jnp.where(top >= limit, by_row, by_token)
