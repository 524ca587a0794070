"""How far the learner's policy π is from the sampler's μ, and what is too far.

Throughout, x = log π(y) − log μ(y) of a chosen token y, which μ drew. All of
it is constant: nothing here sends a gradient into π or μ.
"""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import divergences, masking, ratios

Array = jax.Array

STATISTICS = ('k1', 'k2', 'k3')
STATISTIC_LEVELS = ('token', 'seq_sum', 'seq_mean', 'seq_max')
EMPTY_ROWS = ('skip', 'count')


def check_choice(argument: str, value: str, allowed: tuple[str, ...]) -> None:
  """Raises ValueError for a value that is not allowed.

  Args:
    argument: its name, for the message.
    value: the value.
    allowed: those that are.

  Raises:
    ValueError: it is none of them.

  Example:
    >>> check_choice('level', 'token', ('token', 'sequence'))
  """
  if value not in allowed:
    raise ValueError(f'{argument} is {value!r}; it must be one of {allowed}')


def over_row(
    x: Array, mask: Array, how: str, *, count_eps: float = 0.) -> Array:
  """A row's sum, mean or largest entry, on each place of the row.

  Args:
    x: f32[B, T].
    mask: bool[B, T], places that count.
    how: 'sum', 'mean' or 'max'.
    count_eps: added to the number of places in means.

  Returns:
    f32[B, T]; 0 in rows without such a place.

  Example:
    >>> over_row(jnp.array([[1., 3.]]), jnp.ones((1, 2), bool), 'max').tolist()
    [[3.0, 3.0]]
  """
  check_choice('how', how, ('sum', 'mean', 'max'))
  if how == 'sum':
    row = masking.masked_sum(x, mask, axis=1)
  elif how == 'mean':
    row = masking.masked_mean(x, mask, axis=1, count_eps=count_eps)
  else:
    low = jnp.finfo(masking.as_float(x).dtype).min
    row = jnp.max(masking.fill(x, mask, low), axis=1, initial=low)
    row = jnp.where(_filled(mask), row, 0)
  return jnp.broadcast_to(row[:, None], x.shape)


def _filled(mask: Array) -> Array:
  return jnp.any(jnp.asarray(mask) != 0, axis=1)


def check_statistic(
    statistic: str, level: str, low: float | None, high: float) -> None:
  """Raises ValueError for arguments that `rejection_mask` refuses.

  Args:
    statistic: must be one of `STATISTICS`.
    level: must be one of `STATISTIC_LEVELS`, and not 'seq_max' for k1.
    low: must lie in (0, high] for k1 and be None for the others; or None.
    high: must be positive.

  Raises:
    ValueError: one of them is not.

  Example:
    >>> check_statistic('k1', 'token', 0.5, 2.)
  """
  check_choice('statistic', statistic, STATISTICS)
  check_choice('level', level, STATISTIC_LEVELS)
  if (statistic, level) == ('k1', 'seq_max'):
    raise ValueError(
        "statistic is 'k1' and level is 'seq_max'; k1 has two sides, take the "
        'maximum of k2 or k3')
  # Written so that NaN fails.
  if not high > 0:
    raise ValueError(f'high is {high}; it must be positive')
  if low is None:
    return
  if statistic != 'k1':
    raise ValueError(
        f'low is {low} and statistic is {statistic!r}; only k1 is bounded '
        'from below')
  if not 0 < low <= high:
    raise ValueError(f'low is {low}; it must lie in (0, high = {high}]')


def mismatch_statistic(
    log_ratios: Array,
    mask: Array,
    *,
    statistic: str = 'k1',
    level: str = 'token',
    limit: ratios.Limit = 20.,
    count_eps: float = 0.,
) -> Array:
  """An estimate of KL(μ ‖ π) at a token or in a row.

  k1 = −x;  k2 = ½x²;  k3 = eˣ − 1 − x.

  Args:
    log_ratios: f32[B, T], x.
    mask: bool[B, T], chosen tokens.
    statistic: 'k1', 'k2' or 'k3'.
    level: 'token', or over the row: 'seq_sum', 'seq_mean' or 'seq_max'.
    limit: x is clamped to ±limit; None: only where k3 overflows.
    count_eps: added to the number of tokens of a row in means.

  Returns:
    f32[B, T] in nats, a row's number on each of its tokens; 0 outside.

  Raises:
    ValueError: an unknown `statistic` or `level`, or 'seq_max' of k1.

  Example:
    >>> x, mask = jnp.array([[1., -3.]]), jnp.ones((1, 2), bool)
    >>> mismatch_statistic(x, mask, statistic='k2', level='seq_max').tolist()
    [[4.5, 4.5]]
  """
  check_statistic(statistic, level, None, 1.)
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((log_ratios, mask))
  x = jax.lax.stop_gradient(masking.fill(log_ratios, mask))
  x = ratios.clamp(x, limit)
  kl = divergences.kl_estimate(
      jnp.zeros_like(x), x, value=statistic, k3_input_limit=None)
  if level != 'token':
    how = level.removeprefix('seq_')
    kl = over_row(kl, mask, how, count_eps=count_eps)
  return masking.fill(kl, mask)


def rejection_mask(
    log_ratios: Array,
    mask: Array,
    *,
    statistic: str = 'k1',
    level: str = 'token',
    low: float | None = None,
    high: float = 2.,
    inverse: bool = False,
    limit: ratios.Limit = 20.,
    count_eps: float = 0.,
) -> Array:
  """Chosen tokens that are kept: those whose statistic is within bounds.

  k1: low ≤ π/μ ≤ high, of the token, its product over the row ('seq_sum') or
  its geometric mean ('seq_mean');  k2, k3: the statistic is at most `high`.

  Args:
    log_ratios: f32[B, T], x.
    mask: bool[B, T], chosen tokens.
    statistic: 'k1', 'k2' or 'k3', see `mismatch_statistic`.
    level: 'token', or of whole rows: 'seq_sum', 'seq_mean' or 'seq_max'.
    low: smallest ratio, for k1 only; 1 / high when None.
    high: largest ratio for k1; largest statistic in nats for k2 and k3.
    inverse: the bounds of k1 are those of μ/π, as verl reads them.
    limit: x is clamped to ±limit; None: only where k3 overflows.
    count_eps: added to the number of tokens of a row in means.

  Returns:
    bool[B, T], True where a chosen token is kept.

  Raises:
    ValueError: an unknown or senseless argument, see `check_statistic`.

  Source: "When Speed Kills Stability: Demystifying RL Collapse from the
    Training-Inference Mismatch", Liu, Li et al., 2025,
    https://richardli.xyz/rl-collapse.

  Example:
    >>> x, mask = jnp.log(jnp.array([[.4, 1., 3.]])), jnp.ones((1, 3), bool)
    >>> rejection_mask(x, mask, low=.5, high=4.).tolist()
    [[False, True, True]]
    >>> rejection_mask(x, mask, low=.5, high=4., inverse=True).tolist()
    [[True, True, False]]
  """
  check_statistic(statistic, level, low, high)
  kl = mismatch_statistic(
      log_ratios, mask, statistic=statistic, level=level, limit=limit,
      count_eps=count_eps)
  if statistic == 'k1':
    # k1 is the logarithm of μ/π.
    kl = kl if inverse else -kl
    least = -math.log(high) if low is None else math.log(low)
    kept = (kl >= least) & (kl <= math.log(high))
  else:
    kept = kl <= high
  return kept & (jnp.asarray(mask) != 0)


def off_policy_metrics(
    log_probs: Array,
    sampler_log_probs: Array,
    mask: Array,
    *,
    empty_rows: str = 'skip',
    limit: ratios.Limit = 20.,
    count_eps: float = 0.,
) -> dict[str, Array]:
  """What tells how far π is from μ, each a number of the whole batch.

  Args:
    log_probs: f32[B, T], of π.
    sampler_log_probs: f32[B, T], of μ.
    mask: bool[B, T], chosen tokens.
    empty_rows: 'skip' leaves rows without a chosen token out of means over
      rows; 'count' takes them as rows on which both agree, with perplexity 1.
    limit: exponents of χ² are clamped to ±limit.
    count_eps: added to token counts in means.

  Returns:
    name -> f32[]. Over tokens: 'k1' and 'k3' estimate KL(μ ‖ π), 'chi2_token'
    is E ρ² − 1. Over rows: 'chi2_sequence' with ρ of the row,
    'log_perplexity' −mean log π, 'sampler_log_perplexity', their difference
    'log_perplexity_gap' and its '_abs', '_max' and '_min', the means of their
    exponentials 'perplexity', 'sampler_perplexity' and 'perplexity_ratio'.

  Raises:
    ValueError: an unknown `empty_rows`.

  Example:
    >>> mask, log_probs = jnp.ones((1, 2), bool), jnp.full((1, 2), -1.)
    >>> float(off_policy_metrics(log_probs, log_probs + .5, mask)['k1'])
    0.5
  """
  check_choice('empty_rows', empty_rows, EMPTY_ROWS)
  chex.assert_equal_shape((log_probs, sampler_log_probs, mask))
  stop = jax.lax.stop_gradient
  ours, theirs = (
      stop(masking.fill(x, mask)) for x in (log_probs, sampler_log_probs))
  x, exp = ours - theirs, divergences.bounded_exp
  rows = _filled(mask) | (empty_rows == 'count')

  def tokens(values):
    return masking.masked_mean(values, mask, count_eps=count_eps)

  def per_row(values):
    return masking.masked_mean(values, mask, axis=1, count_eps=count_eps)

  def mean(values):
    return masking.masked_mean(values, rows)

  def most(values):
    low = jnp.finfo(values.dtype).min
    top = jnp.max(masking.fill(values, rows, low), initial=low)
    return jnp.where(jnp.any(rows), top, 0)

  # No token, no distance: E ρ² − 1 of nothing is 0.
  one = jnp.any(rows).astype(x.dtype)
  surprise, sampler_surprise = -per_row(ours), -per_row(theirs)
  gap = surprise - sampler_surprise
  row_ratio = exp(masking.masked_sum(x, mask, axis=1), limit)
  kl = divergences.kl_estimate(theirs, ours, value='k3', k3_input_limit=None)
  return {
      'k1': tokens(-x),
      'k3': tokens(kl),
      'chi2_token': tokens(jnp.square(exp(x, limit))) - one,
      'chi2_sequence': mean(jnp.square(row_ratio)) - one,
      'log_perplexity': mean(surprise),
      'sampler_log_perplexity': mean(sampler_surprise),
      'log_perplexity_gap': mean(gap),
      'log_perplexity_gap_abs': mean(jnp.abs(gap)),
      'log_perplexity_gap_max': most(gap),
      'log_perplexity_gap_min': -most(-gap),
      'perplexity': mean(exp(surprise)),
      'sampler_perplexity': mean(exp(sampler_surprise)),
      'perplexity_ratio': mean(exp(gap)),
  }
