"""Token weights: what is left out, and which mean the loss is.

A weights chain starts from the mask as numbers and ends in one aggregator. A
token whose weight an earlier transform set to 0 is left out: it counts in no
mean. With `count='mask'` an aggregator divides by all chosen tokens instead.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.advantages import taking_part
from policyopt.names import check_name
from policyopt.ops import aggregation, normalizers, segments
from policyopt.types import (
    Array,
    CreditTransform,
    Rollout,
    read_extra,
    total_reward,
)


def _aggregator(reduce: Callable[..., Array], count: str) -> CreditTransform:
  if count not in ('kept', 'mask'):
    raise ValueError(f"count is {count!r}; it must be 'kept' or 'mask'")

  def weigh(x, rollout):
    mask = taking_part(rollout)
    counted = mask & (x != 0) if count == 'kept' else mask
    return reduce(x, counted, rollout)

  return base.stateless(weigh)


def _rows(empty_rows: str) -> Callable[[Rollout], Array | None]:
  """How many rows a mean over rows divides by; None: those with a token."""
  check_name('empty_rows', empty_rows, aggregation.EMPTY_ROWS)

  def rows(rollout):
    # Rows of no group are padding, not responses without a token.
    count = jnp.sum((rollout.group >= 0).astype(jnp.float32))
    return jnp.maximum(count, 1)

  return rows if empty_rows == 'count' else lambda rollout: None


def token_mean(*, count: str = 'kept') -> CreditTransform:
  """The mean over all tokens of the batch: wₜ / N.

  Args:
    count: 'kept' or 'mask', the tokens that the mean runs over.

  Returns:
    A CreditTransform for weights.

  Raises:
    ValueError: an unknown `count`.
  """
  return _aggregator(lambda x, m, r: aggregation.token_mean(x, m), count)


def sequence_mean(
    *, count: str = 'kept', empty_rows: str = 'skip') -> CreditTransform:
  """The mean over rows of their token means: wₜ / (R·n).

  Args:
    count: 'kept' or 'mask', the tokens that the means run over.
    empty_rows: whether rows without such a token count in R: 'skip' or
      'count', as in TRL.

  Returns:
    A CreditTransform for weights.

  Raises:
    ValueError: an unknown `count` or `empty_rows`.
  """
  rows = _rows(empty_rows)
  return _aggregator(
      lambda x, m, r: aggregation.sequence_mean(x, m, rows=rows(r)), count)


def sequence_sum(
    *, count: str = 'kept', empty_rows: str = 'skip') -> CreditTransform:
  """The mean over rows of their token sums: wₜ / R.

  Args:
    count: 'kept' or 'mask', the tokens that the sums run over.
    empty_rows: as in `sequence_mean`.

  Returns:
    A CreditTransform for weights.

  Raises:
    ValueError: an unknown `count` or `empty_rows`.
  """
  rows = _rows(empty_rows)
  return _aggregator(
      lambda x, m, r: aggregation.sequence_sum(x, m, rows=rows(r)), count)


def constant_length(
    length: int, *, count: str = 'kept', empty_rows: str = 'skip',
) -> CreditTransform:
  """The mean over rows of their token sums over a constant: wₜ / (R·length).

  Args:
    length: the constant, usually the longest response allowed, in tokens.
    count: 'kept' or 'mask', the tokens that the sums run over.
    empty_rows: as in `sequence_mean`.

  Returns:
    A CreditTransform for weights.

  Raises:
    ValueError: `length` is not positive, or an unknown `count` or
      `empty_rows`.
  """
  if length <= 0:
    raise ValueError(f'length is {length}; it must be a positive number')
  rows = _rows(empty_rows)
  return _aggregator(lambda x, m, r: aggregation.constant_length(
      x, m, length, rows=rows(r)), count)


def prompt_mean(*, count: str = 'kept') -> CreditTransform:
  """The mean over prompts of the token mean of all their rows.

  Args:
    count: 'kept' or 'mask', the tokens that the means run over.

  Returns:
    A CreditTransform for weights.

  Raises:
    ValueError: an unknown `count`.
  """
  return _aggregator(
      lambda x, m, r: aggregation.prompt_mean(x, m, r.group), count)


_AGGREGATORS = {
    'token_mean': token_mean,
    'sequence_mean': sequence_mean,
    'sequence_sum': sequence_sum,
    'constant_length': constant_length,
    'prompt_mean': prompt_mean,
}


def aggregate(
    name: str, *, length: int | None = None, count: str = 'kept',
    empty_rows: str = 'skip',
) -> CreditTransform:
  """The aggregator of that name, for recipes and configs.

  Args:
    name: 'token_mean', 'sequence_mean', 'sequence_sum', 'constant_length' or
      'prompt_mean'.
    length: tokens, for 'constant_length' only.
    count: 'kept' or 'mask', the tokens that the mean runs over.
    empty_rows: for the means over rows, see `sequence_mean`.

  Returns:
    A CreditTransform for weights.

  Raises:
    ValueError: an unknown name, `count` or `empty_rows`, or
      'constant_length' without a length.
  """
  check_name('aggregation', name, _AGGREGATORS)
  check_name('empty_rows', empty_rows, aggregation.EMPTY_ROWS)
  kw = dict(count=count)
  if name.startswith('sequence_'):
    kw['empty_rows'] = empty_rows
  if name != 'constant_length':
    return _AGGREGATORS[name](**kw)
  if length is None:
    raise ValueError("aggregation 'constant_length' needs a length in tokens")
  return constant_length(length, empty_rows=empty_rows, **kw)


def drop_flat_groups(
    *, tolerance: float = 0., at: float | None = None) -> CreditTransform:
  """Weight 0 for groups whose rows all earned the same.

  What counts is the sum of the reward channels as the environment gave them.

  Args:
    tolerance: largest difference that still counts as the same.
    at: drops only the groups whose rows all earned this much, such as those
      that are all correct; None: whatever they earned.

  Returns:
    A CreditTransform for weights.

  Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    Yu et al., 2025, arXiv:2503.14476 (dynamic sampling).
  """
  def drop(x, rollout):
    rewards = jnp.sum(total_reward(rollout), axis=1)
    flat = normalizers.flat_groups(
        rewards, rollout.group, tolerance=tolerance)
    if at is not None:
      away = (jnp.abs(rewards - at) > tolerance).astype(jnp.int32)
      away = segments.segment_sum(away, rollout.group)
      flat &= segments.gather(away, rollout.group) == 0
    return jnp.where(flat[:, None], 0, x)

  return base.stateless(drop)


def drop_truncated() -> CreditTransform:
  """Weight 0 for rows that hit their length limit; needs 'truncated'.

  Returns:
    A CreditTransform for weights.

  Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    Yu et al., 2025, arXiv:2503.14476 (overlong filtering).
  """
  def drop(x, rollout):
    truncated = read_extra(rollout, 'truncated', 'drop_truncated')
    return jnp.where(truncated[:, None], 0, x)

  return base.stateless(drop, {'truncated'})
