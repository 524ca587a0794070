"""Coefficients that follow what is measured."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


def adapt_coefficient(
    coef: Array,
    measured: Array,
    target: float,
    *,
    count: Array,
    horizon: float,
    limit: float = 0.2,
) -> Array:
  """β·(1 + clip(KL / target − 1, ±limit)·n / horizon).

  Args:
    coef: f32[], β.
    measured: f32[], the divergence that β should hold at `target`; a value
      that is not finite changes nothing.
    target: what it should be, positive.
    count: i32[] or f32[], n: rows behind the measurement.
    horizon: rows after which β may have changed by about a factor of
      exp(±limit).
    limit: largest relative error that counts.

  Returns:
    f32[], the new β.

  Source: "Fine-Tuning Language Models from Human Preferences", Ziegler et al.,
    2019, arXiv:1909.08593.

  Example:
    >>> coef = adapt_coefficient(.5, 12., 6., count=100, horizon=1000)
    >>> round(float(coef), 4)
    0.51
  """
  coef, measured = masking.as_float(coef), masking.as_float(measured)
  known = jnp.isfinite(measured)
  error = jnp.where(known, measured, target) / target - 1
  return coef * (1 + jnp.clip(error, -limit, limit) * count / horizon)
