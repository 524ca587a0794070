"""Per-token objectives that are not the clipped one, and their weights.

An objective is what a surrogate maximises, [B, T]; a weight is what multiplies
A·∇log π.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, ratios

Array = jax.Array


def weighted_likelihood(
    log_probs: Array, advantages: Array, weight: Array) -> Array:
  """sg(w)·A·log π: its gradient is w·A·∇log π, whatever w is made of.

  Equals the policy gradient for w = 1, and CISPO for w = clip(ρ).

  Args:
    log_probs: f32[B, T], of the policy being trained.
    advantages: f32[B, T].
    weight: f32[B, T]; a constant.

  Returns:
    f32[B, T].

  Source: "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning
    Attention", 2025, arXiv:2506.13585.

  Example:
    >>> x = jnp.array([[-1.5]])
    >>> weighted_likelihood(x, jnp.full((1, 1), 2.), -x).tolist()
    [[-4.5]]
    >>> grad = jax.grad(lambda x: weighted_likelihood(x, 2., -x).sum())
    >>> grad(x).tolist()
    [[3.0]]
  """
  log_probs = masking.as_float(log_probs)
  return jax.lax.stop_gradient(weight) * advantages * log_probs


def one_sided_clip(
    log_ratios: Array,
    advantages: Array,
    clip_low: float,
    clip_high: float,
) -> Array:
  """min(x, clip_high) where A > 0, max(x, −clip_low) where A < 0, else 0.

  The clip of PPO in log space, on the side that the advantage pushes to.

  Args:
    log_ratios: f32[B, T], x = log ρ.
    advantages: f32[B, T].
    clip_low: how far x may fall below 0.
    clip_high: how far it may rise above 0.

  Returns:
    f32[B, T].

  Source: "Geometric-Mean Policy Optimization", 2025, arXiv:2507.20673.

  Example:
    >>> x, advantages = jnp.array([[-2., 2., -2., 2.]]), jnp.array(
    ...     [[1., 1., -1., -1.]])
    >>> one_sided_clip(x, advantages, 0.5, 0.25).tolist()
    [[-2.0, 0.25, -0.5, 2.0]]
  """
  chex.assert_equal_shape((log_ratios, advantages))
  below = ratios.clamp(log_ratios, (None, clip_high))
  above = ratios.clamp(log_ratios, (-clip_low, None))
  # A token without an advantage pushes nowhere, so its ratio counts as 1.
  return jnp.where(
      advantages > 0, below, jnp.where(advantages < 0, above, 0))


def soft_gate(
    ratio: Array,
    advantages: Array,
    tau_positive: float,
    tau_negative: float,
) -> Array:
  """(4 / τ)·sigmoid(τ(ρ − 1)), τ by the sign of A; its slope is 1 at ρ = 1.

  Reduces to ρ plus a constant as τ → 0.

  Args:
    ratio: f32[B, T], ρ.
    advantages: f32[B, T].
    tau_positive: τ where A > 0.
    tau_negative: τ elsewhere.

  Returns:
    f32[B, T]; the objective is gate·A.

  Source: "Soft Adaptive Policy Optimization", 2025, arXiv:2511.20347.

  Example:
    >>> ratio, advantages = jnp.array([[1., 1.]]), jnp.array([[2., -2.]])
    >>> soft_gate(ratio, advantages, 1., 2.).tolist()
    [[2.0, 1.0]]
  """
  chex.assert_equal_shape((ratio, advantages))
  tau = jnp.where(advantages > 0, jnp.asarray(tau_positive, ratio.dtype),
                  jnp.asarray(tau_negative, ratio.dtype))
  return jax.nn.sigmoid(tau * (ratio - 1)) * 4 / tau


def gamma_weight(
    log_weight: Array,
    advantages: Array,
    positive: tuple[float, float],
    negative: tuple[float, float],
) -> Array:
  """φ(w) = wᵏ·exp(λ(1 − w)), the shape of a gamma density with φ(1) = 1.

  Equals 1 everywhere for k = λ = 0, and w for k = 1, λ = 0.

  Args:
    log_weight: f32[B, T], log w, within limits that the exponential takes.
    advantages: f32[B, T].
    positive: (k, λ) where A ≥ 0.
    negative: (k, λ) where A < 0.

  Returns:
    f32[B, T], a constant; largest at w = k / λ.

  Source: "VESPO: Variational Sequence-Level Soft Policy Optimization for
    Stable Off-Policy LLM Training", 2026, arXiv:2602.10693.

  Example:
    >>> log_weight, advantages = jnp.zeros((1, 2)), jnp.array([[1., -1.]])
    >>> gamma_weight(log_weight, advantages, (2., 3.), (3., 2.)).tolist()
    [[1.0, 1.0]]
  """
  chex.assert_equal_shape((log_weight, advantages))
  dtype = log_weight.dtype
  power, rate = (
      jnp.where(advantages < 0, jnp.asarray(b, dtype), jnp.asarray(a, dtype))
      for a, b in zip(positive, negative, strict=True))
  log_phi = rate + power * log_weight - rate * jnp.exp(log_weight)
  return jax.lax.stop_gradient(jnp.exp(log_phi))


def tapered_weight(
    log_weight: Array,
    advantages: Array,
    positive: tuple[float, float],
    negative: tuple[float, float],
) -> Array:
  """clip(w, low, high) with a range of its own for each sign of A.

  Equals 1 everywhere for the ranges (1, 1); the weight of truncated
  importance sampling for (0, c).

  Args:
    log_weight: f32[B, T], log w.
    advantages: f32[B, T].
    positive: (low, high) where A ≥ 0.
    negative: (low, high) where A < 0.

  Returns:
    f32[B, T], a constant.

  Source: "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement
    learning for LLMs", Le Roux et al., 2025, arXiv:2503.14286.

  Example:
    >>> log_weight = jnp.log(jnp.array([[.5, .5, 4.]]))
    >>> advantages = jnp.array([[1., -1., -1.]])
    >>> tapered_weight(log_weight, advantages, (1., 1.), (0., 1.)).tolist()
    [[1.0, 0.5, 1.0]]
  """
  chex.assert_equal_shape((log_weight, advantages))
  # Beyond this the exponential overflows; any finite `high` cuts earlier.
  weight = jnp.exp(ratios.clamp(log_weight, (None, 80.)))
  weight = jnp.where(advantages < 0, ratios.clamp(weight, negative),
                     ratios.clamp(weight, positive))
  return jax.lax.stop_gradient(weight)


def quadratic_objective(
    log_probs: Array,
    log_ratios: Array,
    advantages: Array,
    beta: float,
) -> Array:
  """A·log π − ½β·x²: the drift x = log ρ costs its square.

  Args:
    log_probs: f32[B, T], of the policy being trained.
    log_ratios: f32[B, T], x.
    advantages: f32[B, T].
    beta: β.

  Returns:
    f32[B, T]; the gradient is (A − βx)·∇log π.

  Source: "Offline Regularised Reinforcement Learning for Large Language Models
    Alignment", Richemond et al., 2024, arXiv:2405.19107.

  Example:
    >>> one = jnp.ones((1, 1))
    >>> quadratic_objective(-one, 2 * one, 3 * one, .5).tolist()
    [[-4.0]]
  """
  chex.assert_equal_shape((log_probs, log_ratios, advantages))
  return advantages * log_probs - .5 * beta * jnp.square(log_ratios)
