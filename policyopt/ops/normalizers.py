"""Sequence rewards measured against the other members of their group."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, segments

Array = jax.Array

STD_KINDS = ('sample', 'population', 'none')
SINGLETON_RULES = ('zero', 'raw')


def check_rules(*, std: str = 'none', singleton: str = 'zero') -> None:
  """Raises ValueError for an unknown rule.

  Args:
    std: must be one of `STD_KINDS`.
    singleton: must be one of `SINGLETON_RULES`.

  Raises:
    ValueError: it is not.

  Example:
    >>> check_rules(std='sample', singleton='raw')
  """
  for name, value, choices in (
      ('std', std, STD_KINDS), ('singleton', singleton, SINGLETON_RULES)):
    if value not in choices:
      raise ValueError(f'{name} is {value!r}; it must be one of {choices}')


def _take_part(
    rewards: Array, ids: Array, where: Array | None) -> tuple[Array, Array]:
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  chex.assert_rank([rewards, ids], 1)
  chex.assert_equal_shape((rewards, ids))
  if where is not None:
    ids = jnp.where(where, ids, -1)
  return jnp.where(ids >= 0, rewards, 0), ids


def group_standardize(
    rewards: Array,
    ids: Array,
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    where: Array | None = None,
) -> Array:
  """(R − μ) / (σ + eps) with the mean and spread of the own group.

  Equals R − μ when std is 'none'.

  Args:
    rewards: f32[B], one number per row.
    ids: i32[B] in [0, B); rows with any other id get 0.
    std: 'sample' (n − 1), 'population' (n) or 'none' (no division).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero', or 'raw' for R / (1 + eps)
      (R when std is 'none').
    where: bool[B], rows that count as members; the others get 0.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal.

  Raises:
    ValueError: an unknown `std` or `singleton`.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300.

  Example:
    >>> rewards, ids = jnp.array([1., 0., 5.]), jnp.array([0, 0, 1])
    >>> group_standardize(rewards, ids, std='population').round(3).tolist()
    [1.0, -1.0, 0.0]
  """
  check_rules(std=std, singleton=singleton)
  rewards, ids = _take_part(rewards, ids, where)
  centred = segments.centre(rewards, ids)
  scale = jnp.ones_like(rewards)
  if std != 'none':
    spread = segments.segment_std(
        rewards, ids, ddof=1 if std == 'sample' else 0)
    scale = segments.gather(spread, ids) + jnp.asarray(eps, rewards.dtype)
    # With eps = 0 a flat group has nothing to divide by; its rows are 0.
    scale = jnp.where(scale == 0, 1, scale)
  advantages = centred / scale
  if singleton == 'raw':
    alone = segments.gather(segments.segment_count(ids), ids) == 1
    raw = rewards if std == 'none' else rewards / (1 + eps)
    advantages = jnp.where(alone, raw, advantages)
  return advantages


def leave_one_out(
    rewards: Array,
    ids: Array,
    *,
    singleton: str = 'zero',
    where: Array | None = None,
) -> Array:
  """R minus the mean of the OTHER members of the group: (R − μ)·n / (n − 1).

  Args:
    rewards: f32[B], one number per row.
    ids: i32[B] in [0, B); rows with any other id get 0.
    singleton: what a group of one gets: 'zero', or 'raw' for R.
    where: bool[B], rows that count as members; the others get 0.

  Returns:
    f32[B]; exactly 0 in groups whose rewards are all equal.

  Raises:
    ValueError: an unknown `singleton`.

  Source: "Back to Basics: Revisiting REINFORCE Style Optimization for Learning
    from Human Feedback in LLMs", Ahmadian et al., 2024, arXiv:2402.14740.

  Example:
    >>> rewards, ids = jnp.array([1., 0., 5.]), jnp.array([0, 0, 1])
    >>> leave_one_out(rewards, ids).tolist()
    [1.0, -1.0, 0.0]
  """
  check_rules(singleton=singleton)
  rewards, ids = _take_part(rewards, ids, where)
  count = segments.gather(segments.segment_count(ids), ids)
  count = count.astype(rewards.dtype)
  others = jnp.maximum(count - 1, 1)
  advantages = segments.centre(rewards, ids) * (count / others)
  if singleton == 'raw':
    advantages = jnp.where(count == 1, rewards, advantages)
  return advantages


def flat_groups(
    rewards: Array, ids: Array, *, tolerance: float = 0.) -> Array:
  """Rows whose whole group earned the same, so that nothing can be learnt.

  Args:
    rewards: f32[B].
    ids: i32[B] in [0, B).
    tolerance: largest difference that still counts as equal.

  Returns:
    bool[B]; groups of one are flat; rows of no group are not.

  Example:
    >>> flat_groups(jnp.array([1., 1., 0.]), jnp.array([0, 0, -1])).tolist()
    [True, True, False]
  """
  rewards, ids = _take_part(rewards, ids, None)
  top = segments.segment_max(rewards, ids)
  low = segments.segment_min(rewards, ids)
  flat = (top - low <= tolerance).astype(rewards.dtype)
  return segments.gather(flat, ids) == 1
