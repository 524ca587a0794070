"""A baseline of its own for every token, from the others of the group."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.names import check_name
from policyopt.ops import masking, segments
from policyopt.ops.estimators import others

Array = jax.Array

VARIANTS = ('position', 'valid')
TAILS = ('alone', 'length', 'none')


def gradient_energy(log_probs: Array, sum_squared_probs: Array) -> Array:
  """wₜ = 1 − 2π(yₜ) + Σ_v π(v)² = ‖one-hot(yₜ) − π‖².

  The squared norm of the gradient of log π(yₜ) by its logits.

  Args:
    log_probs: f32[...], log π(yₜ).
    sum_squared_probs: f32[...], Σ_v π(v)².

  Returns:
    f32[...]; at least 0 if both come from the same distribution.

  Source: "The Optimal Token Baseline: Variance Reduction for Long-Horizon
    LLM-RL", Li et al., 2026, arXiv:2602.07078.

  Example:
    >>> float(gradient_energy(jnp.log(.5), .5))
    0.5
  """
  log_probs, squares = map(masking.as_float, (log_probs, sum_squared_probs))
  return 1 - 2 * jnp.exp(log_probs) + squares


def token_positions(mask: Array, variant: str = 'position') -> Array:
  """Where each chosen token stands in its row.

  Args:
    mask: bool[B, T], chosen tokens.
    variant: 'position' counts all tokens from the row's first chosen one,
      'valid' the chosen ones only.

  Returns:
    i32[B, T], from 0; -1 outside the mask.

  Raises:
    ValueError: an unknown `variant`.

  Example:
    >>> mask = jnp.array([[False, True, False, True]])
    >>> [token_positions(mask, name).tolist() for name in VARIANTS]
    [[[-1, 0, -1, 2]], [[-1, 0, -1, 1]]]
  """
  check_name('variant', variant, VARIANTS)
  mask = jnp.asarray(mask) != 0
  chex.assert_rank(mask, 2)
  if variant == 'valid':
    positions = jnp.cumsum(mask.astype(jnp.int32), axis=1) - 1
  else:
    column = jnp.arange(mask.shape[1], dtype=jnp.int32)
    positions = column[None] - jnp.argmax(mask, axis=1)[:, None]
  return jnp.where(mask, positions, -1).astype(jnp.int32)


def optimal_token_baseline(
    returns: Array,
    energy: Array,
    mask: Array,
    ids: Array,
    positions: Array,
    *,
    tail: str = 'alone',
    eps: float = 1e-8,
) -> Array:
  """Bₖ = Σᵢ GᵢₖWᵢₖ / (Σᵢ Wᵢₖ + eps) over the group's tokens at position k.

  Wₜ = Σ_{j ≤ t} wⱼ, the energy of a row up to and including token t.

  Args:
    returns: f32[B, T], Gₜ; what lies outside the mask is ignored.
    energy: f32[B, T], wₜ, usually `gradient_energy`, times ρₜ² where truncated
      importance weights ρ multiply the loss.
    mask: bool[B, T], chosen tokens.
    ids: i32[B] in [0, B); rows with any other id get 0.
    positions: i32[B, T] in [0, T), which tokens of a group are compared; see
      `token_positions`.
    tail: where there is no baseline, so that B = 0. 'alone': at positions that
      no other row of the group reaches, whose own return would be the
      baseline. 'length', verl's rule: in a group's longest row, from the
      position on that is the number of chosen tokens of the second longest;
      the same when positions count chosen tokens. 'none': nowhere but in
      groups of one.
    eps: added to the sum of W.

  Returns:
    f32[B, T], 0 outside the mask.

  Raises:
    ValueError: an unknown `tail`.

  Source: "The Optimal Token Baseline: Variance Reduction for Long-Horizon
    LLM-RL", Li et al., 2026, arXiv:2602.07078.

  Example:
    >>> returns = jnp.array([[1., 1., 1.], [0., 0., 0.]])
    >>> mask = jnp.array([[True, True, True], [True, True, False]])
    >>> energy, ids = jnp.ones((2, 3)), jnp.array([0, 0])
    >>> optimal_token_baseline(
    ...     returns, energy, mask, ids, token_positions(mask)).tolist()
    [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
  """
  check_name('tail', tail, TAILS)
  chex.assert_rank([mask, ids], [2, 1])
  chex.assert_equal_shape((returns, energy, mask, positions))
  rows, width = mask.shape
  mask = (jnp.asarray(mask) != 0) & (ids >= 0)[:, None]
  returns, energy = masking.fill(returns, mask), masking.fill(energy, mask)
  weight = masking.fill(jnp.cumsum(energy, axis=1), mask)
  # One segment for each position of each group.
  at = jnp.where(mask, ids[:, None] * width + positions, -1).reshape(-1)

  def over_group(x):
    total = segments.segment_sum(x.reshape(-1), at, rows * width)
    return segments.gather(total, at).reshape(mask.shape)

  total = over_group(weight)
  baseline = masking.safe_divide(
      over_group(returns * weight), total + jnp.asarray(eps, total.dtype))
  members = segments.gather(segments.segment_count(ids), ids)
  without = jnp.broadcast_to((members == 1)[:, None], mask.shape)
  if tail == 'alone':
    without |= over_group(jnp.ones_like(weight)) == 1
  elif tail == 'length':
    lengths = jnp.sum(mask, axis=1).astype(weight.dtype)
    _, second, longest = others.top_two(lengths, ids)
    longest &= lengths > second
    without |= longest[:, None] & (positions >= second[:, None])
  return jnp.where(mask & ~without, baseline, 0)
