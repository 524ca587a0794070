"""How hard a prompt is for the policy, and weights that follow from it."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.names import check_name
from policyopt.ops import masking, normalizers, segments
from policyopt.ops.across import sum_across

Array = jax.Array

FOCUSES = ('both', 'hard', 'easy', 'none')
READINGS = ('paper', 'release')
# What the length criterion says when no row is (correct, wrong).
MISSING = {'llm': (False, True), 'vlm': (True, False)}


def check_range(reward_min: float, reward_max: float) -> None:
  """Raises ValueError if there is no room between two rewards.

  Args:
    reward_min: the reward of a failure.
    reward_max: the reward of a success.

  Raises:
    ValueError: `reward_max` is not the larger one.

  Example:
    >>> check_range(0., 1.)
  """
  if not reward_max > reward_min:
    raise ValueError(
        f'reward_max is {reward_max}; it must be larger than reward_min, '
        f'which is {reward_min}')


def success_rates(
    rewards: Array,
    ids: Array,
    *,
    reward_min: float = 0.,
    reward_max: float = 1.,
    singleton: str = 'zero',
) -> tuple[Array, Array]:
  """p = mean of (R − reward_min) / (reward_max − reward_min) of each group.

  Args:
    rewards: f32[B].
    ids: i32[B] in [0, B); rows with any other id belong to no group.
    reward_min: the reward of a failure.
    reward_max: the reward of a success.
    singleton: a group of one is not counted ('zero'), or counts with p = 0
      ('raw').

  Returns:
    (f32[B], bool[B]): by group, its rate and whether it counts.

  Raises:
    ValueError: an unknown `singleton`, or no room between the two rewards.

  Example:
    >>> rewards, ids = jnp.array([1., 0., 1.]), jnp.array([1, 1, 2])
    >>> rates, counted = success_rates(rewards, ids)
    >>> rates.tolist(), counted.tolist()
    ([0.0, 0.5, 1.0], [False, True, False])
  """
  normalizers.check_rules(singleton=singleton)
  check_range(reward_min, reward_max)
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  chex.assert_rank([rewards, ids], 1)
  chex.assert_equal_shape((rewards, ids))
  scaled = (rewards - reward_min) / (reward_max - reward_min)
  rates = segments.segment_mean(scaled, ids)
  count = segments.segment_count(ids)
  if singleton == 'raw':
    return jnp.where(count == 1, 0, rates), count > 0
  return rates, count > 1


def competence(
    rewards: Array,
    ids: Array,
    *,
    over: str = 'rows',
    axis_name: str | None = None,
) -> Array:
  """ω = the mean reward of the batch, within [0, 1].

  Args:
    rewards: f32[B], a row's success in [0, 1].
    ids: i32[B] in [0, B); rows with any other id are left out.
    over: 'rows', or 'prompts' for the mean of the groups' means, in which a
      group of one counts with 0 (as in the code of A-GRAE).
    axis_name: axis that the batch is spread over, groups whole in a shard.

  Returns:
    f32[]; 0 for an empty batch.

  Raises:
    ValueError: an unknown `over`.

  Source: "Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with
    Exploration and Difficulty Adaptation", 2026, arXiv:2602.05548.

  Example:
    >>> rewards, ids = jnp.array([1., 1., 1., 0.]), jnp.array([0, 0, 0, -1])
    >>> float(competence(rewards, ids))
    1.0
  """
  check_name('over', over, ('rows', 'prompts'))
  rewards, ids = masking.as_float(rewards), jnp.asarray(ids)
  if over == 'prompts':
    rewards, counted = success_rates(rewards, ids, singleton='raw')
  else:
    counted = (ids >= 0) & (ids < ids.shape[0])
  total = sum_across(masking.masked_sum(rewards, counted), axis_name)
  count = sum_across(
      masking.masked_sum(jnp.ones_like(rewards), counted), axis_name)
  return jnp.clip(masking.safe_divide(total, count), 0, 1)


def difficulty_weights(
    rates: Array,
    omega: Array,
    *,
    focus: str = 'both',
    gamma: float = 0.5,
    reading: str = 'paper',
    eps: float = 1e-6,
) -> Array:
  """γ·(ω / √p + (1 − ω) / √(1 − p)): hard prompts when able, else easy ones.

  With the reading 'release' it is γ·(ω / (√p + eps) + (1 − ω) / (1 − √p +
  eps)), as in the authors' code.

  Args:
    rates: f32[...], p, the success rate of each prompt.
    omega: f32[], ω in [0, 1], how able the policy is.
    focus: 'both', 'hard' (as if ω = 1), 'easy' (as if ω = 0), or 'none' for
      weights of 1.
    gamma: γ.
    reading: 'paper' or 'release'.
    eps: of the reading 'release' alone.

  Returns:
    f32[...]; with the reading 'paper' 1 where p is not inside (0, 1): there
    is no spread to divide by.

  Raises:
    ValueError: an unknown `focus` or `reading`.

  Source: "Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with
    Exploration and Difficulty Adaptation", 2026, arXiv:2602.05548.

  Example:
    >>> rates = jnp.array([0.0625, 0.25, 1.])
    >>> difficulty_weights(rates, jnp.ones(())).tolist()
    [2.0, 1.0, 1.0]
  """
  check_name('focus', focus, FOCUSES)
  check_name('reading', reading, READINGS)
  rates = masking.as_float(rates)
  if focus == 'none':
    return jnp.ones_like(rates)
  if focus != 'both':
    omega = 1. if focus == 'hard' else 0.
  inside = (rates > 0) & (rates < 1)
  if reading == 'paper':
    safe = jnp.where(inside, rates, 0.5)
    weights = omega / jnp.sqrt(safe) + (1 - omega) / jnp.sqrt(1 - safe)
    return jnp.where(inside, gamma * weights, 1)
  # The root's slope at 0 is infinite.
  root = jnp.sqrt(jnp.where(inside, rates, 1))
  root = jnp.where(rates <= 0, 0, root)
  return gamma * (
      omega * masking.safe_divide(jnp.ones_like(root), root + eps)
      + (1 - omega) * masking.safe_divide(
          jnp.ones_like(root), 1 - root + eps))


def longer_when_correct(
    lengths: Array,
    correct: Array,
    wrong: Array,
    ids: Array,
    *,
    missing: str = 'llm',
) -> Array:
  """Whether the longest correct row is longer than the mean of the wrong ones.

  Args:
    lengths: f32[B], in tokens.
    correct: bool[B].
    wrong: bool[B], the wrong rows that count (those cut short do not).
    ids: i32[B] in [0, B).
    missing: what is said of a group without such rows. 'llm': False if none
      is correct, else True if none is wrong. 'vlm': the reverse, True if none
      is correct, else False if none is wrong.

  Returns:
    bool[B], by group; False for a group with no row when `missing` is 'llm'.

  Raises:
    ValueError: an unknown `missing`.

  Source: "ADORA: Training Reasoning Models with Dynamic Advantage Estimation
    on Reinforcement Learning", 2026, arXiv:2602.10019.

  Example:
    >>> lengths, ids = jnp.array([9., 3., 5.]), jnp.array([1, 1, 1])
    >>> correct = jnp.array([True, True, False])
    >>> longer_when_correct(lengths, correct, ~correct, ids).tolist()
    [False, True, False]
  """
  check_name('missing', missing, MISSING)
  lengths, ids = masking.as_float(lengths), jnp.asarray(ids)
  chex.assert_rank([lengths, correct, wrong, ids], 1)
  chex.assert_equal_shape((lengths, correct, wrong, ids))
  no_correct, no_wrong = MISSING[missing]
  correct_ids = jnp.where(correct, ids, -1)
  wrong_ids = jnp.where(wrong, ids, -1)
  longest = segments.segment_max(lengths, correct_ids)
  total = segments.segment_sum(lengths, wrong_ids)
  count = segments.segment_count(wrong_ids)
  # A product of whole numbers is exact where the mean would be rounded.
  longer = longest * count.astype(total.dtype) > total
  longer = jnp.where(count > 0, longer, no_wrong)
  return jnp.where(segments.segment_count(correct_ids) > 0, longer, no_correct)
