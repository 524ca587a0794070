"""Where a token's entropy lies among those of its batch, and what follows.

The entropy of next-token distributions spreads over orders of magnitude, so it
is measured as a logarithm: from a high quantile (the pivot), in units of the
spread about it, and scaled so that the ends of the batch are −1 and 1.

Source of everything here: "From Uniform to Heterogeneous: Tailoring Policy
Optimization to Every Token's Nature", Liu et al., 2025, arXiv:2509.16591.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, selection

Array = jax.Array

FLOOR = 1e-8


class EntropyScale(NamedTuple):
  """What the log-entropies of a batch are measured by.

  Attributes:
    pivot: f32[], quantile of the log-entropies, log nats.
    spread: f32[], root mean square distance from the pivot.
    high: f32[], the largest distance above the pivot, in spreads.
    low: f32[], the largest distance below it, in spreads.
  """
  pivot: Array
  spread: Array
  high: Array
  low: Array


class Heat(NamedTuple):
  """How the entropy of a distribution sets the temperature it is drawn at.

  Attributes:
    strength: f32[], τ: the temperature moves by at most this fraction; 0
      leaves it as it is, whatever the others are.
    pivot: f32[], as in `EntropyScale`.
    spread: f32[], as in `EntropyScale`.
    scale_high: f32[], `EntropyScale.high`.
    scale_low: f32[], `EntropyScale.low`.
  """
  strength: Array
  pivot: Array
  spread: Array
  scale_high: Array
  scale_low: Array


def _log(entropy: Array) -> Array:
  entropy = jax.lax.stop_gradient(masking.as_float(entropy))
  return jnp.log(jnp.maximum(entropy, FLOOR))


def fit_entropy_scale(
    entropy: Array, mask: Array, *, quantile: float = 0.8) -> EntropyScale:
  """Pivot, spread and ends of the log-entropies of a batch.

  With ℓ = log max(H, 1e-8) over the True places: pivot = the quantile of ℓ
  (the nearest rank), spread = √mean (ℓ − pivot)², high = max (ℓ − pivot) /
  spread, low = max (pivot − ℓ) / spread; the last three are floored, so that
  one can divide by them.

  Args:
    entropy: f32[...] in nats; a constant.
    mask: bool[...], of the same shape.
    quantile: ρ in [0, 1].

  Returns:
    EntropyScale of finite numbers; pivot 0 for an empty mask.

  Example:
    >>> entropy = jnp.exp(jnp.array([0., -2., -2., 9.]))
    >>> mask = jnp.array([True, True, True, False])
    >>> scale = fit_entropy_scale(entropy, mask, quantile=1.)
    >>> [round(float(x), 3) for x in scale]
    [0.0, 1.633, 0.0, 1.225]
  """
  chex.assert_equal_shape((entropy, mask))
  mask = jnp.asarray(mask) != 0
  log = _log(masking.fill(entropy, mask, 1.))
  count = masking.masked_sum(jnp.ones_like(log), mask)
  rank = jnp.round(jnp.maximum(count - 1, 0) * quantile).astype(jnp.int32)
  pivot = selection.kth_smallest(log, mask, rank + 1)
  pivot = jnp.where(count > 0, pivot, 0)
  away = masking.fill(log - pivot, mask)
  variance = masking.masked_mean(jnp.square(away), mask)
  spread = jnp.sqrt(jnp.maximum(variance, FLOOR))
  return EntropyScale(
      pivot, spread, jnp.maximum(jnp.max(away) / spread, FLOOR),
      jnp.maximum(jnp.max(-away) / spread, FLOOR))


def entropy_score(
    entropy: Array, scale: EntropyScale, *, signed: bool = True) -> Array:
  """ĥ = h / high above the pivot and h / low below, h = (ℓ − pivot) / spread.

  In [−1, 1] for the tokens that the scale was taken from; 1 is the token of
  the highest entropy, −1 that of the lowest, 0 the pivot. Multiplying all
  entropies by one number changes nothing.

  Args:
    entropy: f32[...] in nats; a constant.
    scale: of the batch.
    signed: False returns |ĥ|, as the authors' code does.

  Returns:
    f32[...].

  Example:
    >>> entropy = jnp.exp(jnp.array([0., -1., -3.]))
    >>> scale = fit_entropy_scale(entropy, jnp.ones(3, bool), quantile=.5)
    >>> entropy_score(entropy, scale).round(3).tolist()
    [1.0, 0.0, -1.0]
  """
  pivot, spread, high, low = scale
  h = (_log(entropy) - pivot) / spread
  score = h / jnp.where(h > 0, high, low)
  return score if signed else jnp.abs(score)


def heated(entropy: Array, heat: Heat) -> Array:
  """1 + τ·clip(ĥ, −1, 1): what the temperature is multiplied by.

  Args:
    entropy: f32[...] in nats, of the next-token distributions.
    heat: strength, and the scale of an earlier batch.

  Returns:
    f32[...] in [1 − τ, 1 + τ]; exactly 1 for a strength of 0.

  Example:
    >>> heat = Heat(.25, 0., 1., 2., 1.)
    >>> heated(jnp.exp(jnp.array([1., 5., -9., 0.])), heat).tolist()
    [1.125, 1.25, 0.75, 1.0]
  """
  score = entropy_score(entropy, EntropyScale(*heat[1:]))
  return 1 + heat.strength * jnp.clip(score, -1, 1)


def adaptive_clip(
    score: Array, clip_low: float, clip_high: float, *, alpha: float = 1.,
) -> tuple[Array, Array]:
  """ε_low·(1 − αĥ) where ĥ ≤ 0, ε_high·(1 + αĥ) where ĥ > 0; else as given.

  A confident token may become less likely more freely, an undecided one more
  likely.

  Args:
    score: f32[...], ĥ.
    clip_low: ε_low, how far a ratio may fall below 1.
    clip_high: ε_high, how far it may rise above 1.
    alpha: α ≥ 0; 0 is one clip range for all.

  Returns:
    (low f32[...], high f32[...]).

  Example:
    >>> low, high = adaptive_clip(jnp.array([-1., 0., 1.]), .25, .5)
    >>> low.tolist(), high.tolist()
    ([0.5, 0.25, 0.25], [0.5, 0.5, 1.0])
  """
  score = jax.lax.stop_gradient(masking.as_float(score))
  return (clip_low * (1 - alpha * jnp.minimum(score, 0)),
          clip_high * (1 + alpha * jnp.maximum(score, 0)))


def redistribute(
    advantages: Array,
    score: Array,
    ratio: Array,
    clip_low: Array,
    clip_high: Array,
    *,
    beta: float = 1.,
) -> Array:
  """A·(1 + βĥ) where an undecided token moved or a confident one did not.

  A token has moved when its ratio lies outside (1 − ε_low / 2, 1 + ε_high / 2).
  Those with ĥ > 0 are strengthened if they have moved, the others are weakened
  if they have not; A stays as it is elsewhere.

  Args:
    advantages: f32[...].
    score: f32[...], ĥ.
    ratio: f32[...]; a constant.
    clip_low: f32[...], ε_low of each token.
    clip_high: f32[...], ε_high of each token.
    beta: β; 0 changes nothing.

  Returns:
    f32[...], of the sign of A for β ≤ 1.

  Example:
    >>> half = jnp.full(4, .5)
    >>> ratio, score = jnp.array([1., 2., 1., 2.]), jnp.array([1., 1, -.5, -.5])
    >>> redistribute(jnp.ones(4), score, ratio, half, half).tolist()
    [1.0, 2.0, 0.5, 1.0]
  """
  chex.assert_equal_shape((advantages, score, ratio, clip_low, clip_high))
  ratio, score = jax.lax.stop_gradient((ratio, score))
  near = (ratio > 1 - clip_low / 2) & (ratio < 1 + clip_high / 2)
  changed = jnp.where(score > 0, ~near, near)
  return jnp.where(changed, advantages * (1 + beta * score), advantages)
