"""Single-sample estimators of KL(π ‖ π_ref), token by token."""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, ratios

Array = jax.Array

ESTIMATORS = ('k1', 'k2', 'k3', 'abs')

# What other libraries clamp when they are left as they are.
KL_LIMITS = {
    'verl': dict(k3_input_limit=20., k3_output_limit=10.),
    'trl': dict(k3_input_limit=None),
    'tunix': dict(k3_input_limit=None),
    'openrlhf': dict(k3_input_limit=None, output_limit=10.),
    'nemo': dict(input_limit=20., output_limit=10.),
    'slime': dict(k3_input_limit=None, k3_output_limit=10.),
}


def bounded_exp(x: Array, limit: ratios.Limit = None) -> Array:
  """exp(x) that is finite, and so is its gradient, whatever x is.

  Args:
    x: float array.
    limit: x is clamped to ±limit, see `ops.clamp`; None: only where the
      exponential would overflow.

  Returns:
    Array of the shape of x, in at least float32.

  Example:
    >>> [float(y) for y in bounded_exp(jnp.array([0., 1e4]), 0.)]
    [1.0, 1.0]
    >>> bool(jnp.isfinite(bounded_exp(jnp.array([1e4])))[0])
    True
  """
  return jnp.exp(_bounded(masking.as_float(x), limit))


def _bounded(x, limit):
  # A tenth below the overflow leaves room for sums and products.
  most = 0.9 * math.log(float(jnp.finfo(x.dtype).max))
  return ratios.clamp(ratios.clamp(x, limit), (None, most))


def _estimate(name, x, input_limit, output_limit):
  if name == 'k1':
    return x
  if name == 'k2':
    return 0.5 * jnp.square(x)
  if name == 'abs':
    # Written out because the slope of jnp.abs at 0 is 1, not 0.
    return x * jnp.sign(x)
  # Only k3 has an exponential, so only k3 needs to be held back.
  x = _bounded(-x, input_limit)
  return ratios.clamp(jnp.expm1(x) - x, output_limit)


def check_estimators(**chosen: str) -> None:
  """Raises ValueError for an unknown estimator.

  Args:
    **chosen: argument -> the estimator it names.

  Raises:
    ValueError: one that is not in `ESTIMATORS`.

  Example:
    >>> check_estimators(value='k3', gradient='k2')
  """
  for argument, name in chosen.items():
    if name not in ESTIMATORS:
      raise ValueError(
          f'{argument} is {name!r}; it must be one of {ESTIMATORS}')


def kl_estimate(
    log_probs: Array,
    ref_log_probs: Array,
    *,
    value: str = 'k3',
    gradient: str | None = None,
    ratio: Array | None = None,
    score: bool = False,
    k3_input_limit: ratios.Limit = 20.,
    k3_output_limit: ratios.Limit = None,
    input_limit: ratios.Limit = None,
    output_limit: ratios.Limit = None,
) -> Array:
  """KL(π ‖ π_ref) from the chosen tokens; value and gradient chosen apart.

  With x = log π − log π_ref: k1 = x;  k2 = ½x²;  k3 = e⁻ˣ − 1 + x;  abs = |x|.
  k1 and k3 are unbiased as values. As gradients (tokens drawn from π) k2 is
  unbiased for KL(π ‖ π_ref), k1 has mean 0 and k3 descends KL(π_ref ‖ π).
  ρ·k1 and ρ·k3 with the ratio ρ = π / π_old to whoever drew the tokens are
  unbiased as values and as gradients, on-policy (ρ = 1) too.

  Args:
    log_probs: f32[...], of the policy.
    ref_log_probs: f32[...], of the reference; a constant.
    value: 'k1', 'k2', 'k3' or 'abs'.
    gradient: the estimator to differentiate; as `value` when None. With
      another one the value is kept by a straight-through term.
    ratio: f32[...], ρ, which multiplies the estimate and is differentiated.
    score: adds estimate·∇log π to the gradient, and nothing to the value: ρ as
      it is on-policy, where it is 1 (NeMo RL). Clamps that hold the estimate
      hold this too.
    k3_input_limit: x is clamped to ±limit before k3's exponential; None: only
      where it would overflow.
    k3_output_limit: k3 is clamped to ±limit.
    input_limit: x is clamped to ±limit for every estimator.
    output_limit: every estimate is clamped to ±limit, before ρ.

  Returns:
    f32[...] in nats. `KL_LIMITS` has the limits of other libraries.

  Raises:
    ValueError: an unknown estimator.

  Source: "Approximating KL Divergence", Schulman, 2020,
    http://joschu.net/blog/kl-approx.html; ρ: "DeepSeek-V3.2: Pushing the
    Frontier of Open Large Language Models", DeepSeek-AI, 2025,
    arXiv:2512.02556.

  Example:
    >>> log_probs, ref = jnp.array([-1., -2.]), jnp.array([-2., -2.])
    >>> kl_estimate(log_probs, ref, value='k2').tolist()
    [0.5, 0.0]
    >>> k3 = kl_estimate(log_probs, ref, value='k3')
    >>> [round(float(kl), 4) for kl in k3]
    [0.3679, 0.0]
  """
  gradient = value if gradient is None else gradient
  check_estimators(value=value, gradient=gradient)
  chex.assert_equal_shape((log_probs, ref_log_probs))
  ref = jax.lax.stop_gradient(masking.as_float(ref_log_probs))
  x = ratios.clamp(masking.as_float(log_probs) - ref, input_limit)

  def estimate(name):
    kl = _estimate(name, x, k3_input_limit, k3_output_limit)
    if score:
      kl = kl * (1 + (x - jax.lax.stop_gradient(x)))
    return ratios.clamp(kl, output_limit)

  result = estimate(gradient)
  if gradient != value:
    # The bracket is exactly 0, so that the value is not rounded twice.
    stop = jax.lax.stop_gradient
    result = stop(estimate(value)) + (result - stop(result))
  if ratio is not None:
    chex.assert_equal_shape((result, ratio))
    result = masking.as_float(ratio) * result
  return result
