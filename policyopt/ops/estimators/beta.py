"""Advantages normalised by a Beta distribution of the success rates."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy import special

from policyopt.ops import masking, normalizers, segments
from policyopt.ops.across import sum_across
from policyopt.ops.estimators.difficulty import check_range, success_rates

Array = jax.Array


class BetaFit(NamedTuple):
  """The Beta distribution of success rates, and the one that normalises.

  Attributes:
    mean: f32[], mean of the rates over prompts.
    variance: f32[], their sample variance.
    a: f32[], first parameter of the distribution that fits them.
    b: f32[], its second parameter.
    alpha: f32[], max(1, 1 + a / 3).
    beta: f32[], max(1, 1 + b / 3).
  """
  mean: Array
  variance: Array
  a: Array
  b: Array
  alpha: Array
  beta: Array


def check_beta(
    *,
    reward_min: float,
    reward_max: float,
    shape: float | None,
    singleton: str,
    max_weight: float,
) -> None:
  """Raises ValueError for arguments that `beta_normalize` rejects.

  Args:
    reward_min: must be smaller than `reward_max`.
    reward_max: must be larger than `reward_min`.
    shape: must be None, or 1 or more.
    singleton: must be 'zero' or 'raw'.
    max_weight: must be positive.

  Raises:
    ValueError: it is not so.

  Example:
    >>> check_beta(reward_min=0., reward_max=1., shape=None, singleton='zero',
    ...            max_weight=1e6)
  """
  normalizers.check_rules(singleton=singleton)
  check_range(reward_min, reward_max)
  if shape is not None and not shape >= 1:
    raise ValueError(f'shape is {shape}; it must be 1 or more, or None')
  if not max_weight > 0:
    raise ValueError(f'max_weight is {max_weight}; it must be positive')


def fit_beta(
    rates: Array, counted: Array, *, axis_name: str | None = None) -> BetaFit:
  """The moments' Beta(a, b) of success rates, and the normalising Beta(α, β).

    c = p̄(1 − p̄) / v − 1, a = c·p̄, b = c·(1 − p̄)
    α = max(1, 1 + a / 3), β = max(1, 1 + b / 3)

  with p̄ and v the mean and the sample variance over prompts. Of rates p that
  are so distributed, this pair gives the gradient the smallest variance if
  its norm is independent of the reward.

  Args:
    rates: f32[S], p in [0, 1]; what lies outside counts as the nearest end.
    counted: bool[S], the prompts that there are.
    axis_name: axis that the prompts are spread over; None: all are here.

  Returns:
    A BetaFit without gradient. Rates that are all equal tell nothing of a
    distribution: α = β = 1 and a = b = 0. For a single prompt the mean is 0
    and the variance 1, which also gives α = β = 1.

  Source: "BNPO: Beta Normalization Policy Optimization", Xiao, Zhang,
    Cao, 2025, arXiv:2506.02864.

  Example:
    >>> fit = fit_beta(jnp.array([0.5, 0., 0.5]), jnp.ones(3, bool))
    >>> round(float(fit.alpha), 3), round(float(fit.beta), 3)
    (1.185, 1.37)
  """
  rates = jax.lax.stop_gradient(jnp.clip(masking.as_float(rates), 0, 1))
  chex.assert_equal_shape((rates, counted))
  count = sum_across(
      masking.masked_sum(jnp.ones_like(rates), counted), axis_name)
  several = count > 1
  total = sum_across(masking.masked_sum(rates, counted), axis_name)
  mean = jnp.where(several, masking.safe_divide(total, count), 0)
  squares = sum_across(
      masking.masked_sum(jnp.square(rates - mean), counted), axis_name)
  variance = jnp.where(
      several, masking.safe_divide(squares, jnp.maximum(count - 1, 0)), 1)
  # Rounding alone makes equal rates differ by a few units in the last place.
  spread = variance > (32 * jnp.finfo(rates.dtype).eps) ** 2
  c = mean * (1 - mean) / jnp.where(spread, variance, 1) - 1
  a = jnp.where(spread, c * mean, 0)
  b = jnp.where(spread, c * (1 - mean), 0)
  return BetaFit(mean, variance, a, b, jnp.maximum(1, 1 + a / 3),
                 jnp.maximum(1, 1 + b / 3))


def beta_weights(
    rates: Array, alpha: Array, beta: Array, *, max_weight: float = 1e6
) -> Array:
  """1 / Beta(p; α, β), at most `max_weight`.

    Beta(p; α, β) = p^(α − 1)·(1 − p)^(β − 1) / B(α, β)

  Equals 1 when α = β = 1, and (π / 8) / √(p(1 − p)) when α = β = 3/2.

  Args:
    rates: f32[...], p in [0, 1]; what lies outside counts as the nearest end.
    alpha: f32[], α ≥ 1.
    beta: f32[], β ≥ 1.
    max_weight: the largest weight.

  Returns:
    f32[...], without gradient; finite at p = 0 and p = 1.

  Source: "BNPO: Beta Normalization Policy Optimization", Xiao, Zhang,
    Cao, 2025, arXiv:2506.02864.

  Example:
    >>> beta_weights(jnp.array([0., 0.5]), 2., 2., max_weight=9.).round(4)
    Array([9.    , 0.6667], dtype=float32)
  """
  rates = jnp.clip(masking.as_float(rates), 0, 1)
  alpha, beta = (jnp.asarray(x, rates.dtype) for x in (alpha, beta))
  log_weight = (special.betaln(alpha, beta) - special.xlogy(alpha - 1, rates)
                - special.xlog1py(beta - 1, -rates))
  weights = jnp.minimum(jnp.exp(log_weight), max_weight)
  return jax.lax.stop_gradient(weights)


def beta_normalize(
    rewards: Array,
    ids: Array,
    *,
    reward_min: float = 0.,
    reward_max: float = 1.,
    shape: float | None = None,
    singleton: str = 'zero',
    max_weight: float = 1e6,
    axis_name: str | None = None,
) -> tuple[Array, BetaFit]:
  """A = (R − p) / Beta(p; α, β), p being the success rate of the own group.

  R is first mapped to [0, 1] by `reward_min` and `reward_max`; α and β come
  from the success rates of all groups (see `fit_beta`).

  Equals R − p when α = β = 1, and (π / 8)·(R − p) / √(p(1 − p)) when
  α = β = 3/2, for binary rewards.

  Args:
    rewards: f32[B].
    ids: i32[B] in [0, B); rows with any other id get 0.
    reward_min: the reward of a failure.
    reward_max: the reward of a success.
    shape: α and β instead of the fit.
    singleton: a group of one gets 0 and does not enter the fit ('zero'), or
      gets w·R and enters it with p = 0 ('raw').
    max_weight: the largest weight 1 / Beta(p; α, β).
    axis_name: axis of `shard_map`, `pmap` or `vmap` that the batch is spread
      over, all rows of a group in one shard; the ids are the shard's own.

  Returns:
    (f32[B], the BetaFit); exactly 0 in groups whose rewards are all equal.

  Raises:
    ValueError: as `check_beta`.

  Source: "BNPO: Beta Normalization Policy Optimization", Xiao, Zhang,
    Cao, 2025, arXiv:2506.02864.

  Example:
    >>> rewards, ids = jnp.array([1., 0., 0., 0.]), jnp.array([0, 0, 1, 1])
    >>> advantages, fit = beta_normalize(rewards, ids)
    >>> [round(float(a), 2) for a in advantages], round(float(fit.beta), 3)
    ([0.48, -0.48, 0.0, 0.0], 1.125)
  """
  check_beta(reward_min=reward_min, reward_max=reward_max, shape=shape,
             singleton=singleton, max_weight=max_weight)
  rates, counted = success_rates(
      rewards, ids, reward_min=reward_min, reward_max=reward_max,
      singleton=singleton)
  fit = fit_beta(rates, counted, axis_name=axis_name)
  if shape is not None:
    fixed = jnp.full_like(fit.alpha, shape)
    fit = fit._replace(alpha=fixed, beta=fixed)
  scaled = (masking.as_float(rewards) - reward_min) / (reward_max - reward_min)
  centred = segments.centre(scaled, ids)
  if singleton == 'raw':
    alone = segments.gather(segments.segment_count(ids), ids) == 1
    centred = jnp.where(alone, scaled, centred)
  weights = beta_weights(
      rates, fit.alpha, fit.beta, max_weight=max_weight)
  return segments.gather(weights, ids) * centred, fit
