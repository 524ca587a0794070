"""Weights and masks for tokens that another policy sampled.

Throughout, x = log π(y) − log μ(y) of a chosen token y, with π the learner's
policy before its update and μ the sampler's: an older policy, or the same one
in another precision or implementation. All of it is constant: nothing here
sends a gradient into π or μ.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, ratios
from policyopt.ops.divergences import bounded_exp
from policyopt.ops.surrogates.mismatch import check_choice, over_row

Array = jax.Array

LEVELS = ('token', 'sequence', 'geometric')
BOUNDS = ('truncate', 'mask', 'none')


def check_weights(
    level: str, bound: str, cap: float, floor: float | None,
    bound_level: str | None) -> None:
  """Raises ValueError for arguments that `importance_weights` refuses.

  Args:
    level: must be one of `LEVELS`.
    bound: must be one of `BOUNDS`.
    cap: must be positive.
    floor: must lie in [0, cap], or be None.
    bound_level: must be one of `LEVELS`, or None.

  Raises:
    ValueError: one of them is not.

  Example:
    >>> check_weights('token', 'truncate', 2., None, None)
  """
  check_choice('level', level, LEVELS)
  check_choice('bound', bound, BOUNDS)
  if bound_level is not None:
    check_choice('bound_level', bound_level, LEVELS)
    if bound != 'mask':
      raise ValueError(
          f'bound_level is {bound_level!r} and bound is {bound!r}; only a '
          "mask can be judged by another level than the weight's own")
  # Written so that NaN fails.
  if not cap > 0:
    raise ValueError(f'cap is {cap}; it must be positive')
  if floor is not None and not 0 <= floor <= cap:
    raise ValueError(f'floor is {floor}; it must lie in [0, cap = {cap}]')


def importance_ratios(
    log_ratios: Array,
    mask: Array,
    *,
    level: str = 'token',
    limit: ratios.Limit = 20.,
    count_eps: float = 0.,
) -> Array:
  """π / μ of the token, of the sequence, or its geometric mean per token.

  token: eˣ;  sequence: exp(Σ x);  geometric: exp(mean x), over the row.

  Args:
    log_ratios: f32[B, T], x.
    mask: bool[B, T], chosen tokens.
    level: 'token', 'sequence' or 'geometric'.
    limit: the exponent is clamped to ±limit; None: only where it overflows.
    count_eps: added to the number of tokens of a row in means.

  Returns:
    f32[B, T], a row's number on each of its tokens; 0 outside the mask.

  Raises:
    ValueError: an unknown `level`.

  Example:
    >>> x, mask = jnp.log(jnp.array([[2., 8., 5.]])), jnp.arange(3)[None] < 2
    >>> importance_ratios(x, mask, level='geometric').round(3).tolist()
    [[4.0, 4.0, 0.0]]
  """
  check_choice('level', level, LEVELS)
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((log_ratios, mask))
  x = jax.lax.stop_gradient(masking.fill(log_ratios, mask))
  if level != 'token':
    how = 'sum' if level == 'sequence' else 'mean'
    x = over_row(x, mask, how, count_eps=count_eps)
  return masking.fill(bounded_exp(x, limit), mask)


def importance_weights(
    log_ratios: Array,
    mask: Array,
    *,
    level: str = 'token',
    bound: str = 'truncate',
    cap: float = 2.,
    floor: float | None = None,
    bound_level: str | None = None,
    normalize: bool = False,
    limit: ratios.Limit = 20.,
    count_eps: float = 0.,
) -> Array:
  """w = π / μ, truncated or masked; E over μ of w·f is E over π of f.

  truncate: min(w, cap), and max(·, floor): less variance for some bias.
  mask: 0 where the ratio is not in [floor, cap] ("IcePop" at level 'token').
  With bound_level 'geometric' the row's mean ratio decides which rows keep
  their tokens' own unbounded ratios (OpenRLHF's "seq-mask-tis").

  Args:
    log_ratios: f32[B, T], x.
    mask: bool[B, T], chosen tokens.
    level: whose ratio, see `importance_ratios`.
    bound: 'truncate', 'mask' or 'none'.
    cap: largest weight.
    floor: smallest weight; None: no bound from below.
    bound_level: the level whose ratio a mask judges; as `level` when None.
    normalize: divide by the mean weight, see `normalize_weights`.
    limit: exponents are clamped to ±limit; None: only where they overflow.
    count_eps: added to token counts in means.

  Returns:
    f32[B, T], 0 outside the mask.

  Raises:
    ValueError: an unknown or senseless argument, see `check_weights`.

  Source: "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", Yao et al., 2025, https://fengyao.notion.site/off-policy-rl;
    the mask: "Every Step Evolves: Scaling Reinforcement Learning for
    Trillion-Scale Thinking Model", Ling Team, 2025, arXiv:2510.18855.

  Example:
    >>> x, mask = jnp.log(jnp.array([[.25, 1., 4.]])), jnp.ones((1, 3), bool)
    >>> importance_weights(x, mask).tolist()
    [[0.25, 1.0, 2.0]]
    >>> importance_weights(x, mask, bound='mask', floor=.5).tolist()
    [[0.0, 1.0, 0.0]]
  """
  check_weights(level, bound, cap, floor, bound_level)
  kw = dict(limit=limit, count_eps=count_eps)
  weights = importance_ratios(log_ratios, mask, level=level, **kw)
  if bound == 'truncate':
    weights = masking.fill(ratios.clamp(weights, (floor, cap)), mask)
  elif bound == 'mask':
    judged = weights
    if bound_level not in (None, level):
      judged = importance_ratios(log_ratios, mask, level=bound_level, **kw)
    inside = (judged <= cap) & (judged >= (0 if floor is None else floor))
    weights = jnp.where(inside, weights, 0)
  if normalize:
    weights = normalize_weights(
        weights, mask, level=level, count_eps=count_eps)
  return weights


def normalize_weights(
    weights: Array,
    mask: Array,
    *,
    level: str = 'token',
    count_eps: float = 0.,
) -> Array:
  """w / mean w over the batch, so that the weights average to 1.

  Args:
    weights: f32[B, T].
    mask: bool[B, T], tokens that count.
    level: 'token' for the mean over tokens; 'sequence' or 'geometric' for the
      mean over rows of their mean weight.
    count_eps: added to token counts.

  Returns:
    f32[B, T]; as they are where the mean is 0.

  Raises:
    ValueError: an unknown `level`.

  Example:
    >>> weights, mask = jnp.array([[1., 3.]]), jnp.ones((1, 2), bool)
    >>> normalize_weights(weights, mask).tolist()
    [[0.5, 1.5]]
  """
  check_choice('level', level, LEVELS)
  if level == 'token':
    mean = masking.masked_mean(weights, mask, count_eps=count_eps)
  else:
    rows = masking.masked_mean(weights, mask, axis=1, count_eps=count_eps)
    mean = masking.masked_mean(rows, jnp.any(jnp.asarray(mask) != 0, axis=1))
  # A mean this small is that of weights which are all 0.
  return weights / jnp.where(mean > 1e-8, mean, 1)


def effective_sample_size(
    weights: Array,
    mask: Array,
    *,
    count_eps: float = 0.,
    mean_eps: float = 0.,
) -> Array:
  """(Σ w)² / (n·Σ w²): the share of the n tokens that the weights leave.

  Args:
    weights: f32[B, T], not negative.
    mask: bool[B, T], tokens that count.
    count_eps: added to n.
    mean_eps: added to the mean weight.

  Returns:
    f32[] in [0, 1]: 1 for equal weights, 0 when all of them are 0.

  Example:
    >>> mask = jnp.ones((1, 4), bool)
    >>> float(effective_sample_size(jnp.array([[1., 0., 0., 0.]]), mask))
    0.25
  """
  mean = masking.masked_mean(weights, mask, count_eps=count_eps)
  square = masking.masked_mean(
      jnp.square(masking.as_float(weights)), mask, count_eps=count_eps)
  return masking.safe_divide(jnp.square(mean + mean_eps), square)


def off_policy_sequence_mask(
    advantages: Array, log_ratios: Array, mask: Array, threshold: float
) -> Array:
  """True where A ≥ 0 or the row's mean of log μ − log π is at most threshold.

  What a stale policy did badly and the present one would hardly do is left
  alone; what it did well is learned all the same.

  Args:
    advantages: f32[B, T], or f32[B, 1].
    log_ratios: f32[B, T], x.
    mask: bool[B, T], chosen tokens.
    threshold: in nats per token.

  Returns:
    bool of the shape of `advantages`; outside the mask it means nothing.

  Source: "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models",
    DeepSeek-AI, 2025, arXiv:2512.02556.

  Example:
    >>> x, mask = jnp.full((2, 2), -1.), jnp.ones((2, 2), bool)
    >>> advantages = jnp.array([[1.], [-1.]])
    >>> off_policy_sequence_mask(advantages, x, mask, .5).tolist()
    [[True], [False]]
  """
  chex.assert_rank([advantages, mask], 2)
  chex.assert_equal_shape((log_ratios, mask))
  drift = jax.lax.stop_gradient(
      -masking.masked_mean(log_ratios, mask, axis=1)[:, None])
  return (advantages >= 0) | (drift <= threshold)
