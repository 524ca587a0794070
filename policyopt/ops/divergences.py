"""Single-sample estimators of KL(π ‖ π_ref), token by token."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, ratios

Array = jax.Array

ESTIMATORS = ('k1', 'k2', 'k3', 'abs')


def _estimate(name, x, input_limit, output_limit):
  if name == 'k1':
    return x
  if name == 'k2':
    return 0.5 * jnp.square(x)
  if name == 'abs':
    # Written out because the slope of jnp.abs at 0 is 1, not 0.
    return x * jnp.sign(x)
  # Only k3 has an exponential, so only k3 needs to be held back.
  x = ratios.clamp(-x, input_limit)
  return ratios.clamp(jnp.expm1(x) - x, output_limit)


def kl_estimate(
    log_probs: Array,
    ref_log_probs: Array,
    *,
    value: str = 'k3',
    gradient: str | None = None,
    k3_input_limit: float | None = 20.,
    k3_output_limit: float | None = None,
) -> Array:
  """KL(π ‖ π_ref) from the chosen tokens; value and gradient chosen apart.

  With x = log π − log π_ref: k1 = x;  k2 = ½x²;  k3 = e⁻ˣ − 1 + x;  abs = |x|.
  k1 and k3 are unbiased as values. As gradients (tokens drawn from π) k2 is
  unbiased for KL(π ‖ π_ref), k1 has mean 0 and k3 descends KL(π_ref ‖ π).

  Args:
    log_probs: f32[...], of the policy.
    ref_log_probs: f32[...], of the reference; a constant.
    value: 'k1', 'k2', 'k3' or 'abs'.
    gradient: the estimator to differentiate; as `value` when None.
    k3_input_limit: x is clamped to ±limit before k3's exponential.
    k3_output_limit: k3 is clamped to ±limit.

  Returns:
    f32[...] in nats.

  Raises:
    ValueError: an unknown estimator.

  Source: "Approximating KL Divergence", Schulman, 2020,
    http://joschu.net/blog/kl-approx.html.

  Example:
    >>> log_probs, ref = jnp.array([-1., -2.]), jnp.array([-2., -2.])
    >>> kl_estimate(log_probs, ref, value='k2').tolist()
    [0.5, 0.0]
    >>> k3 = kl_estimate(log_probs, ref, value='k3')
    >>> [round(float(kl), 4) for kl in k3]
    [0.3679, 0.0]
  """
  gradient = value if gradient is None else gradient
  for argument, name in (('value', value), ('gradient', gradient)):
    if name not in ESTIMATORS:
      raise ValueError(
          f'{argument} is {name!r}; it must be one of {ESTIMATORS}')
  chex.assert_equal_shape((log_probs, ref_log_probs))
  limits = (k3_input_limit, k3_output_limit)
  ref = jax.lax.stop_gradient(masking.as_float(ref_log_probs))
  x = masking.as_float(log_probs) - ref
  result = _estimate(gradient, x, *limits)
  if gradient == value:
    return result
  wanted = _estimate(value, x, *limits)
  # The bracket is exactly 0, so that the value is not rounded twice.
  stop = jax.lax.stop_gradient
  return stop(wanted) + (result - stop(result))
