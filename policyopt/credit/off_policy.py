"""Corrections for tokens that another policy sampled than the one that learns.

π is the learner's policy before its update ('old_log_probs') and μ the
sampler's (`rollout.log_probs`). The transforms stand before the aggregator of
a weights chain, `corrected` puts them there:

  corrected(grpo(old='old_log_probs'), importance_weights('token', cap=2.))

With a loss whose ratio is π_new / π this is decoupled PPO: the weight π/μ
corrects for who sampled, and the clip bounds the step that π takes. A loss
whose ratio is π_new / μ (`old='log_probs'`) already contains π/μ: there only
`reject_tokens` makes sense.

A token of weight 0 is left out: it leaves the means too, unless the aggregator
has `count='mask'`, as in libraries that multiply such tokens by 0. The weight
is of every term of the loss, so that KL and entropy terms are expectations
under π as well; verl and TRL multiply the policy term alone.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.advantages import taking_part
from policyopt.credit.reports import batch_metric
from policyopt.ops import masking, ratios
from policyopt.ops.surrogates import mismatch, off_policy
from policyopt.types import (
    Array,
    CreditTransform,
    Method,
    Rollout,
    read_extra,
)

_NEEDS = frozenset({'old_log_probs'})


def _log_ratios(rollout: Rollout, reader: str) -> tuple[Array, Array]:
  """(log π − log μ, the tokens that take part)."""
  mask = taking_part(rollout)
  trained = read_extra(rollout, 'old_log_probs', reader)
  x = ratios.log_ratio(trained, rollout.log_probs, mask, limit=None)
  return x, mask


def _fraction(holds: Array, mask: Array) -> tuple[Array, Array]:
  ones = jnp.ones(mask.shape, jnp.float32)
  return masking.masked_sum(ones, mask & holds), masking.masked_sum(ones, mask)


def importance_weights(
    level: str = 'token',
    *,
    bound: str = 'truncate',
    cap: float = 2.,
    floor: float | None = None,
    bound_level: str | None = None,
    normalize: bool = False,
    log_ratio_limit: ratios.Limit = 20.,
) -> CreditTransform:
  """wₜ·min(π/μ, cap): expectations over μ become expectations over π.

  Needs 'old_log_probs'.

  Args:
    level: whose ratio: of the 'token', of the 'sequence' (the product, without
      bias) or 'geometric', the sequence's mean per token.
    bound: 'truncate', 'mask' (0 outside [floor, cap]) or 'none'.
    cap: largest weight.
    floor: smallest weight; None: no bound from below.
    bound_level: the level whose ratio a mask judges; as `level` when None.
    normalize: divide by the mean weight of the tokens (or rows) that count.
    log_ratio_limit: exponents are clamped to ±limit.

  Returns:
    A CreditTransform for weights. Metrics: 'importance/weight' (the mean),
    'importance/ess' (effective sample size as a fraction), 'importance/above'
    and 'importance/below' (tokens whose ratio is out of bounds, where there
    are any).

  Raises:
    ValueError: an unknown or senseless argument.

  Source: "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", Yao et al., 2025, https://fengyao.notion.site/off-policy-rl;
    with a clipped surrogate on π: "AReaL: A Large-Scale Asynchronous
    Reinforcement Learning System for Language Reasoning", Fu et al., 2025,
    arXiv:2505.24298.
  """
  off_policy.check_weights(level, bound, cap, floor, bound_level)
  limit = log_ratio_limit

  def weights_of(x, rollout):
    log_ratios, mask = _log_ratios(rollout, 'importance_weights')
    weights = off_policy.importance_weights(
        log_ratios, mask, level=level, bound=bound, cap=cap, floor=floor,
        bound_level=bound_level, limit=limit)
    counted = mask & (x != 0)
    if normalize:
      weights = off_policy.normalize_weights(weights, counted, level=level)
    return weights, counted

  def metrics(x, state, rollout):
    del state
    weights, counted = weights_of(x, rollout)
    ess = off_policy.effective_sample_size(weights, counted)
    reported = {
        'importance/weight': (masking.masked_sum(weights, counted),
                              _fraction(counted, counted)[1]),
        'importance/ess': batch_metric(ess, rollout)}
    if bound != 'none':
      judged = off_policy.importance_ratios(
          *_log_ratios(rollout, 'importance_weights'),
          level=bound_level or level, limit=limit)
      reported['importance/above'] = _fraction(judged > cap, counted)
      if floor is not None:
        reported['importance/below'] = _fraction(judged < floor, counted)
    return reported

  return base.stateless(
      lambda x, rollout: x * weights_of(x, rollout)[0], _NEEDS, metrics)


def reject_tokens(
    statistic: str = 'k1',
    level: str = 'token',
    *,
    low: float | None = None,
    high: float = 2.,
    inverse: bool = False,
    log_ratio_limit: ratios.Limit = 20.,
) -> CreditTransform:
  """Weight 0 for tokens, or rows, on which π and μ are too far apart.

  k1: kept where low ≤ π/μ ≤ high;  k2, k3: where the statistic is at most
  `high` (see `ops.rejection_mask`). Needs 'old_log_probs'.

  Args:
    statistic: 'k1', 'k2' or 'k3'.
    level: 'token', or of whole rows: 'seq_sum', 'seq_mean' or 'seq_max'.
    low: smallest ratio, for k1 only; 1 / high when None.
    high: largest ratio for k1; largest statistic in nats for k2 and k3.
    inverse: the bounds of k1 are those of μ/π, as verl reads them.
    log_ratio_limit: log π/μ is clamped to ±limit.

  Returns:
    A CreditTransform for weights. Metrics: 'rejected/LEVEL_STATISTIC' and
    'rejected/LEVEL_STATISTIC/rows', the fractions of tokens and of rows that
    lose a token.

  Raises:
    ValueError: an unknown or senseless argument.

  Source: "When Speed Kills Stability: Demystifying RL Collapse from the
    Training-Inference Mismatch", Liu, Li et al., 2025,
    https://richardli.xyz/rl-collapse.

  Example:
    >>> mask = jnp.ones((1, 3), bool)
    >>> rollout = Rollout(
    ...     tokens=jnp.zeros((1, 3), jnp.int32), mask=mask,
    ...     log_probs=jnp.zeros((1, 3)), group=jnp.zeros(1, jnp.int32),
    ...     rewards={}, extras={'old_log_probs': jnp.array([[0., -1., .5]])})
    >>> reject_tokens(high=2.).update(jnp.ones((1, 3)), (), rollout)[0].tolist()
    [[1.0, 0.0, 1.0]]
  """
  mismatch.check_statistic(statistic, level, low, high)
  name = f'rejected/{level}_{statistic}'

  def kept(rollout):
    log_ratios, mask = _log_ratios(rollout, 'reject_tokens')
    return mismatch.rejection_mask(
        log_ratios, mask, statistic=statistic, level=level, low=low, high=high,
        inverse=inverse, limit=log_ratio_limit)

  def metrics(x, state, rollout):
    del state
    counted = taking_part(rollout) & (x != 0)
    lost = counted & ~kept(rollout)
    return {name: _fraction(lost, counted),
            f'{name}/rows': _fraction(
                jnp.any(lost, axis=1), jnp.any(counted, axis=1))}

  return base.stateless(
      lambda x, rollout: jnp.where(kept(rollout), x, 0), _NEEDS, metrics)


def mask_off_policy_sequences(threshold: float) -> CreditTransform:
  """A = 0 where A < 0 and the row's mean of log μ − log π exceeds a threshold.

  Stands at the end of an ADVANTAGES chain, for it asks for the sign of A. The
  tokens stay in the means and keep their KL and entropy terms; to drop rows
  whatever their advantage there is `reject_tokens` at level 'seq_mean'. Needs
  'old_log_probs'.

  Args:
    threshold: in nats per token.

  Returns:
    A CreditTransform for advantages. Metrics: 'off_policy/masked', the
    fraction of rows that lose an advantage.

  Raises:
    ValueError: `threshold` is not a number.

  Source: "DeepSeek-V3.2: Pushing the Frontier of Open Large Language Models",
    DeepSeek-AI, 2025, arXiv:2512.02556 (there with the policy of the moment).
  """
  if not threshold == threshold:
    raise ValueError(f'threshold is {threshold}; it must be a number')

  def masked(x, rollout):
    log_ratios, mask = _log_ratios(rollout, 'mask_off_policy_sequences')
    return mask & ~off_policy.off_policy_sequence_mask(
        x, log_ratios, mask, threshold)

  def metrics(x, state, rollout):
    del state
    rows = jnp.any(taking_part(rollout), axis=1)
    return {'off_policy/masked': _fraction(
        jnp.any(masked(x, rollout), axis=1), rows)}

  return base.stateless(
      lambda x, rollout: jnp.where(masked(x, rollout), 0, x), _NEEDS, metrics)


def watch_mismatch() -> CreditTransform:
  """Changes nothing and reports how far π is from μ; needs 'old_log_probs'.

  Returns:
    A CreditTransform for weights. Metrics 'mismatch/NAME' with the names of
    `ops.off_policy_metrics`.
  """
  def metrics(x, state, rollout):
    del x, state
    trained = read_extra(rollout, 'old_log_probs', 'watch_mismatch')
    values = mismatch.off_policy_metrics(
        trained, rollout.log_probs, taking_part(rollout))
    return {f'mismatch/{name}': batch_metric(value, rollout)
            for name, value in values.items()}

  return base.stateless(lambda x, rollout: x, _NEEDS, metrics)


def corrected(method: Method, *transforms: CreditTransform) -> Method:
  """The method with transforms before its own weights chain.

  Equals the method itself when the transforms leave every weight at 1.

  Args:
    method: any recipe's result. With `importance_weights` its loss should
      divide by 'old_log_probs', or the ratio π/μ counts twice.
    *transforms: `importance_weights`, `reject_tokens`, `watch_mismatch` or
      any other for weights, first to last.

  Returns:
    A Method.

  Raises:
    ValueError: no transforms.

  Example:
    >>> from policyopt import methods
    >>> method = corrected(
    ...     methods.grpo(old='old_log_probs'), importance_weights(cap=2.))
    >>> sorted(method.weights.needs)
    ['old_log_probs']
  """
  if not transforms:
    raise ValueError('corrected got no transforms; give at least one')
  return method._replace(weights=base.chain(*transforms, method.weights))
