"""Group statistics that count rollouts nobody drew."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.names import check_name
from policyopt.ops import masking, segments

Array = jax.Array

SINGLETON_RULES = ('virtual', 'zero', 'raw')


def check_virtual(*, std: str, virtual: int, singleton: str) -> None:
  """Raises ValueError for arguments that `virtual_standardize` rejects.

  Args:
    std: must be 'sample' or 'population'.
    virtual: must not be negative.
    singleton: must be 'virtual', 'zero' or 'raw'.

  Raises:
    ValueError: it is not so.

  Example:
    >>> check_virtual(std='sample', virtual=1, singleton='virtual')
  """
  check_name('std', std, ('sample', 'population'))
  check_name('singleton', singleton, SINGLETON_RULES)
  if virtual < 0:
    raise ValueError(f'virtual is {virtual}; it must be 0 or more')


def virtual_standardize(
    rewards: Array,
    ids: Array,
    *,
    virtual: int = 1,
    reward_max: float = 1.,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'virtual',
) -> Array:
  """(R − μ⁺) / (σ⁺ + eps), the group having been joined by perfect rollouts.

  μ⁺ and σ⁺ are the mean and spread of the group's rewards together with
  `virtual` copies of `reward_max`; only real rows get an advantage. A group
  that is all wrong is pushed down: by 1 / √(G + 1) for rewards of 0 and the
  sample's spread, by 1 / √G for the population's.

  Equals `group_standardize` when `virtual` is 0.

  Args:
    rewards: f32[B].
    ids: i32[B] in [0, B); rows with any other id get 0.
    virtual: number of virtual rollouts in each group.
    reward_max: what each of them earned.
    std: 'sample' (n − 1) or 'population' (n), n counting the virtual ones.
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'virtual' (as any other group),
      'zero', or 'raw' for R / (1 + eps).

  Returns:
    f32[B]; exactly 0 in groups whose rows all earned `reward_max`. The sum
    over a group is minus that of its virtual rollouts.

  Raises:
    ValueError: an unknown `std` or `singleton`, or a negative `virtual`.

  Source: "NGRPO: Negative-enhanced Group Relative Policy Optimization", Nan et
    al., 2025, arXiv:2509.18851.

  Example:
    >>> wrong, ids = jnp.zeros(3), jnp.zeros(3, int)
    >>> virtual_standardize(wrong, ids, eps=0.).tolist()
    [-0.5, -0.5, -0.5]
  """
  check_virtual(std=std, virtual=virtual, singleton=singleton)
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  chex.assert_rank([rewards, ids], 1)
  chex.assert_equal_shape((rewards, ids))
  rewards = jnp.where((ids >= 0) & (ids < ids.shape[0]), rewards, 0)
  count = segments.segment_count(ids).astype(rewards.dtype)
  low = segments.segment_min(rewards, ids)
  # Measured from the smallest, equal rewards differ by exactly 0.
  rise = segments.segment_mean(rewards - segments.gather(low, ids), ids)
  gap = (reward_max - low) - rise
  shift = virtual * masking.safe_divide(gap, count + virtual)
  apart = segments.centre(rewards, ids) - segments.gather(shift, ids)
  squares = segments.segment_sum(jnp.square(apart), ids)
  squares = squares + virtual * jnp.square(gap - shift)
  ddof = 1 if std == 'sample' else 0
  variance = masking.safe_divide(
      squares, jnp.maximum(count + virtual - ddof, 0))
  # The root's slope at 0 is infinite; flat groups must not poison gradients.
  flat = variance == 0
  spread = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, variance)))
  scale = segments.gather(spread, ids) + jnp.asarray(eps, rewards.dtype)
  advantages = apart / jnp.where(scale == 0, 1, scale)
  if singleton != 'virtual':
    alone = segments.gather(count, ids) == 1
    rule = 0. if singleton == 'zero' else rewards / (1 + eps)
    advantages = jnp.where(alone, rule, advantages)
  return advantages
