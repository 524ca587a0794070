"""How much the answers to a prompt agree, and what follows from it."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, normalizers, segments

Array = jax.Array

BLENDS = ('soft_with_zero', 'soft_with_forced', 'only_soft', 'only_zero',
          'only_forced', 'only_global', 'no_global')


def _class_sizes(answer: Array, ids: Array) -> Array:
  """Rows of the same group with the same answer, i32[B]."""
  rows = ids.shape[0]
  order = jnp.lexsort((answer, ids))
  answer, ids = answer[order], ids[order]
  new = (answer[1:] != answer[:-1]) | (ids[1:] != ids[:-1])
  label = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(new)])
  size = jax.ops.segment_sum(jnp.ones(rows, jnp.int32), label, rows)
  return jnp.zeros(rows, jnp.int32).at[order].set(size[label])


def consistency_entropy(
    answer: Array, ids: Array, *, eps: float = 1e-8) -> Array:
  """H = −Σ_c f_c·log₂(f_c + eps) over the distinct answers of the own group.

  f_c is the fraction of the group's rows that gave answer c. The entropy is in
  bits: about 0 for a unanimous group, at most log₂ of its size.

  Args:
    answer: i32[B], equal for equal answers to the same prompt; negative: no
      answer, and all rows without one agree.
    ids: i32[B] in [0, B), the groups.
    eps: keeps the logarithm finite.

  Returns:
    f32[B], the same for all rows of a group; 0 for rows of no group.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.

  Example:
    >>> answer, ids = jnp.array([7, 7, 3, 3, 5]), jnp.array([0, 0, 0, 0, 1])
    >>> consistency_entropy(answer, ids).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0]
  """
  answer, ids = jnp.asarray(answer), jnp.asarray(ids)
  chex.assert_rank([answer, ids], 1)
  chex.assert_equal_shape((answer, ids))
  dtype = jnp.result_type(float)
  agreeing = _class_sizes(jnp.maximum(answer, -1), ids).astype(dtype)
  size = segments.gather(segments.segment_count(ids), ids).astype(dtype)
  share = jnp.where(size > 0, agreeing / jnp.maximum(size, 1), 1)
  # Each of the n·f rows of an answer adds log f / n, together f·log f.
  mean = segments.segment_mean(jnp.log2(share + eps), ids)
  return 0. - segments.gather(mean, ids)


def consistency_coefficient(entropy: Array, ids: Array) -> Array:
  """1 − κ·H with κ = (1 − 1/n) / log₂ n for a group of n rows.

  1 for a unanimous group, 1/n for one whose answers all differ.

  Args:
    entropy: f32[B], H in bits, see `consistency_entropy`.
    ids: i32[B] in [0, B), the groups.

  Returns:
    f32[B]; 1 for groups of one and rows of no group.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.

  Example:
    >>> entropy, ids = jnp.array([1., 1., 0.]), jnp.array([0, 0, 1])
    >>> consistency_coefficient(entropy, ids).tolist()
    [0.5, 0.5, 1.0]
  """
  entropy = masking.as_float(entropy)
  chex.assert_equal_shape((entropy, ids))
  size = segments.gather(segments.segment_count(ids), ids)
  size = jnp.maximum(size.astype(entropy.dtype), 1)
  several = size > 1
  kappa = (1 - 1 / size) / jnp.log2(jnp.where(several, size, 2))
  return jnp.where(several, 1 - kappa * entropy, 1)


def prompt_standardize(
    rewards: Array, ids: Array, *, std: str = 'sample', eps: float = 1e-6
) -> Array:
  """(R̄ − mean) / (std + eps) of the groups' mean rewards R̄ over all groups.

  Each group counts once, whatever its size, and all its rows get its number.

  Args:
    rewards: f32[B].
    ids: i32[B] in [0, B), the groups.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.

  Returns:
    f32[B]; 0 when there is one group, when all have the same mean, and for
    rows of no group.

  Raises:
    ValueError: an unknown `std`.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.

  Example:
    >>> rewards, ids = jnp.array([1., 1., 0.]), jnp.array([0, 0, 1])
    >>> prompt_standardize(rewards, ids, std='population').round(3).tolist()
    [1.0, 1.0, -1.0]
  """
  level = segments.segment_level(rewards, ids)
  there = segments.segment_count(ids) > 0
  scores = normalizers.group_standardize(
      level, jnp.where(there, 0, -1), std=std, eps=eps)
  return segments.gather(scores, ids)


def blend_weight(
    entropy: Array,
    rewards: Array,
    advantages: Array,
    *,
    mode: str = 'soft_with_zero',
    steepness: float = 5.,
    centre: float = 1.,
) -> Array:
  """w = σ(steepness·(H − centre)), how much the own group's comparison counts.

  Args:
    entropy: f32[B], H, see `consistency_entropy`.
    rewards: f32[B], of the rows.
    advantages: f32[B], of the rows against their own group.
    mode: 'only_soft': w; 'soft_with_zero': 0 where the reward is 0;
      'soft_with_forced': 0 where the advantage is 0; 'only_zero' and
      'only_forced': those rows get 0 and the others 1; 'only_global': 0;
      'no_global': 1.
    steepness: how fast it changes with the entropy.
    centre: the entropy at which it is ½, in bits.

  Returns:
    f32[B] in [0, 1].

  Raises:
    ValueError: an unknown `mode`.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.

  Example:
    >>> entropy, rewards = jnp.array([1., 1.]), jnp.array([1., 0.])
    >>> blend_weight(entropy, rewards, rewards).tolist()
    [0.5, 0.0]
  """
  if mode not in BLENDS:
    raise ValueError(f'mode is {mode!r}; it must be one of {BLENDS}')
  entropy = masking.as_float(entropy)
  chex.assert_equal_shape((entropy, rewards, advantages))
  weight = jnp.ones_like(entropy)
  if mode == 'only_global':
    return 0 * weight
  if mode in ('soft_with_zero', 'soft_with_forced', 'only_soft'):
    weight = jax.nn.sigmoid(steepness * (entropy - centre))
  if mode.endswith('_zero'):
    weight = jnp.where(rewards == 0, 0, weight)
  if mode.endswith('_forced'):
    weight = jnp.where(advantages == 0, 0, weight)
  return weight
