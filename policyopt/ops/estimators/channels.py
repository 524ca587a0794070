"""Several rewards of a row made into one advantage."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.names import check_name
from policyopt.ops import masking, segments

Array = jax.Array


def spread_weights(
    rewards: Array,
    ids: Array,
    weights: Array,
    *,
    std: str = 'population',
    eps: float = 1e-8,
) -> Array:
  """wₖσₖ / (Σ wₗσₗ + eps) in each group, σₖ the spread of channel k there.

  A channel that does not tell the group's rows apart has no say.

  Args:
    rewards: f32[K, B], one row per channel.
    ids: i32[B] in [0, B).
    weights: f32[K], w ≥ 0.
    std: 'population' (n) or 'sample' (n − 1).
    eps: added to the sum.

  Returns:
    f32[B, K], by group; 0 for groups with no spread at all.

  Raises:
    ValueError: an unknown `std`.

  Source: "DVAO: Dynamic Variance-adaptive Advantage Optimization for
    Multi-reward Reinforcement Learning", 2026, arXiv:2605.25604.

  Example:
    >>> rewards = jnp.array([[1., 0.], [0., 3.]])
    >>> spread_weights(rewards, jnp.zeros(2, int), jnp.ones(2))[0].tolist()
    [0.25, 0.75]
  """
  share, total = _spreads(rewards, ids, weights, std)
  return masking.safe_divide(
      share, jnp.broadcast_to(total[:, None] + eps, share.shape))


def spread_weighted(
    rewards: Array,
    ids: Array,
    weights: Array,
    *,
    std: str = 'population',
    eps: float = 1e-8,
) -> Array:
  """A = Σₖ wₖ(Rₖ − μₖ) / (Σₗ wₗσₗ + eps), the statistics of the own group.

  That is the sum of the channels' standardised rewards, each weighing by its
  share wₖσₖ / Σ wₗσₗ.

  Equals group_standardize(R) for one channel; equals
  group_standardize(Σ wₖRₖ) for channels that are equal.

  Args:
    rewards: f32[K, B], one row per channel.
    ids: i32[B] in [0, B); rows with any other id get 0.
    weights: f32[K], w ≥ 0.
    std: 'population' (n) or 'sample' (n − 1).
    eps: added to the denominator.

  Returns:
    f32[B]; with 'population' no entry is larger than √(n − 1) in size, nor
    larger than that of group_standardize(Σ wₖRₖ).

  Raises:
    ValueError: an unknown `std`.

  Source: "DVAO: Dynamic Variance-adaptive Advantage Optimization for
    Multi-reward Reinforcement Learning", 2026, arXiv:2605.25604.

  Example:
    >>> rewards = jnp.array([[1., 0., 0., 1.], [5., 5., 5., 5.]])
    >>> advantages = spread_weighted(rewards, jnp.zeros(4, int), jnp.ones(2))
    >>> advantages.round(3).tolist()
    [1.0, -1.0, -1.0, 1.0]
  """
  _, total = _spreads(rewards, ids, weights, std)
  weights = jnp.asarray(weights, total.dtype)
  centred = jax.vmap(segments.centre, (0, None))(
      masking.as_float(rewards), ids)
  scale = segments.gather(total, ids) + eps
  return masking.safe_divide(jnp.sum(weights[:, None] * centred, axis=0), scale)


def _spreads(rewards, ids, weights, std):
  """wₖσₖ f32[B, K] and its sum f32[B], by group."""
  check_name('std', std, ('population', 'sample'))
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  weights = jnp.asarray(weights, rewards.dtype)
  chex.assert_rank([rewards, ids, weights], [2, 1, 1])
  chex.assert_shape(rewards, (weights.shape[0], ids.shape[0]))
  ddof = 0 if std == 'population' else 1
  spread = jax.vmap(
      lambda x: segments.segment_std(x, ids, ddof=ddof))(rewards)
  share = (weights[:, None] * spread).T
  return share, jnp.sum(share, axis=1)
