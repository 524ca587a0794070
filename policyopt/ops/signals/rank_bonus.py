"""From the dynamics of the effective rank to a bonus on the advantage.

Source of everything here: "Beyond the Exploration-Exploitation Trade-off: A
Hidden State Approach for LLM Reasoning in RLVR", Huang et al., 2025,
arXiv:2509.23808.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array

EPS = 1e-8
MIXES = ('tendency', 'even', 'sum')
STARTS = ('batch', 'zero')


class RankBaseline(NamedTuple):
  """What indicators are compared with; the order is ERA, ERV, ER.

  Attributes:
    mean: f32[3], μ, running mean of the batches' means.
    latest: f32[3], mean of the latest batch, which μ has not seen yet.
    score: f32[], running mean of the rewards.
    count: i32[], batches seen.
  """
  mean: Array
  latest: Array
  score: Array
  count: Array


def check_controller(
    *,
    start: str = 'batch',
    mix: str = 'tendency',
    explore: Sequence[float] = (0., 0., 1.),
    exploit: Sequence[float] = (0., 1., 0.),
) -> None:
  """Raises ValueError for choices that do not exist.

  Args:
    start: must be one of `STARTS`.
    mix: must be one of `MIXES`.
    explore: must be three weights.
    exploit: must be three weights.

  Raises:
    ValueError: one is not.

  Example:
    >>> check_controller(start='zero', mix='sum')
  """
  for name, value, allowed in (('start', start, STARTS), ('mix', mix, MIXES)):
    if value not in allowed:
      raise ValueError(f'{name} is {value!r}; it must be one of {allowed}')
  for name, value in (('explore', explore), ('exploit', exploit)):
    if len(value) != 3:
      raise ValueError(
          f'{name} is {value!r}; it must hold the weights of ERA, ERV and ER')


def empty_baseline() -> RankBaseline:
  """The baseline before any batch.

  Returns:
    RankBaseline of zeros.

  Example:
    >>> int(empty_baseline().count)
    0
  """
  zeros = jnp.zeros(3, jnp.float32)
  return RankBaseline(
      zeros, zeros, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))


def current_mean(
    baseline: RankBaseline, batch_mean: Array, *, start: str = 'batch',
) -> tuple[Array, Array]:
  """μ for this batch, and whether there is a bonus yet.

  Args:
    baseline: before the batch.
    batch_mean: f32[3], mean of the batch's indicators.
    start: 'batch': μ begins as the mean of the first batch; 'zero': as 0, and
      the first batch has no bonus, as in the authors' code.

  Returns:
    (f32[3], bool[]).

  Raises:
    ValueError: an unknown `start`.

  Example:
    >>> mean, ready = current_mean(empty_baseline(), jnp.arange(3.))
    >>> mean.tolist(), bool(ready)
    ([0.0, 1.0, 2.0], True)
  """
  check_controller(start=start)
  first = baseline.count == 0
  if start == 'zero':
    return baseline.mean, ~first
  return jnp.where(first, batch_mean, baseline.mean), jnp.ones((), bool)


def next_baseline(
    baseline: RankBaseline,
    mean: Array,
    batch_mean: Array,
    batch_score: Array,
    *,
    rate: float = 0.3,
) -> RankBaseline:
  """μ ← (1 − a)·μ + a·(mean of the batch BEFORE this one).

  The first batch leaves μ as it is. So μ lags by two batches, as the authors'
  does.

  Args:
    baseline: before the batch.
    mean: f32[3], the μ that this batch was compared with.
    batch_mean: f32[3], mean of the batch's indicators.
    batch_score: f32[], mean reward of the batch.
    rate: a.

  Returns:
    RankBaseline.

  Example:
    >>> one = jnp.ones(3)
    >>> first = next_baseline(empty_baseline(), 0 * one, 4 * one, 0.)
    >>> second = next_baseline(first, first.mean, one, 0., rate=.5)
    >>> first.mean.tolist(), second.mean.tolist()
    ([0.0, 0.0, 0.0], [2.0, 2.0, 2.0])
  """
  first = baseline.count == 0

  def move(old, new):
    return jnp.where(first, old, (1 - rate) * old + rate * new)

  return RankBaseline(
      move(mean, baseline.latest), batch_mean,
      move(baseline.score, batch_score), baseline.count + 1)


def rank_signal(
    indicators: Array,
    mean: Array,
    *,
    gain: float = 2.,
    explore: Sequence[float] = (0., 0., 1.),
    exploit: Sequence[float] = (0., 1., 0.),
    mix: str = 'tendency',
    limit: float = 5.,
) -> Array:
  """Φ = Σ_k w_k·tanh(d_k), d_k = clip((x_k − μ_k) / |μ_k|, ±limit).

  The acceleration decides what counts: with u = sigmoid(gain·d_ERA) the
  weights are w = u·explore + (1 − u)·exploit.

  Args:
    indicators: f32[B, 3], x: ERA, ERV, ER of each row.
    mean: f32[3], μ.
    gain: how sharply the acceleration decides.
    explore: weights of the three when the rank accelerates.
    exploit: weights when it slows down.
    mix: 'tendency' as above; 'even' for u = ½; 'sum' for explore + exploit.
    limit: of the deviations.

  Returns:
    f32[B].

  Raises:
    ValueError: an unknown `mix`, or not three weights.

  Example:
    >>> x = jnp.array([[0., 1., 99.], [0., 1., 1.]])
    >>> rank_signal(x, jnp.ones(3), mix='sum').round(2).tolist()
    [1.0, 0.0]
  """
  check_controller(mix=mix, explore=explore, exploit=exploit)
  chex.assert_shape(indicators, (None, 3))
  indicators = masking.as_float(indicators)
  away = (indicators - mean[None, :]) / (jnp.abs(mean) + EPS)[None, :]
  away = jnp.clip(away, -limit, limit)
  explore = jnp.asarray(explore, away.dtype)[None, :]
  exploit = jnp.asarray(exploit, away.dtype)[None, :]
  if mix == 'sum':
    weights = explore + exploit
  else:
    up = jax.nn.sigmoid(gain * away[:, :1]) if mix == 'tendency' else 0.5
    weights = up * explore + (1 - up) * exploit
  return jnp.sum(weights * jnp.tanh(away), axis=1)


def bounded_bonus(
    signal: Array, advantages: Array, *, kappa: float = 2.) -> Array:
  """min(max(Φ, 0), |A| / κ): what is added to the advantage.

  For κ > 1 no advantage changes its sign, and one of 0 stays 0.

  Args:
    signal: f32[...], Φ.
    advantages: f32[...], A.
    kappa: κ.

  Returns:
    f32[...], at least 0.

  Example:
    >>> signal, advantages = jnp.array([9., 9., -1.]), jnp.array([1., -1., 1.])
    >>> (advantages + bounded_bonus(signal, advantages)).tolist()
    [1.5, -0.5, 1.0]
  """
  chex.assert_equal_shape((signal, advantages))
  return jnp.minimum(jnp.maximum(signal, 0), jnp.abs(advantages) / kappa)
