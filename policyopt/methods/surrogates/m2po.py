"""M2PO, Second-Moment Trust Policy Optimization.

"Prosperity before Collapse: How Far Can Off-Policy RL Reach with Stale Data on
LLMs?", Haizhong Zheng, Jiawei Zhao, Beidi Chen, 2025, arXiv:2510.01161.

On stale data the clip of PPO masks many tokens, most of them for nothing. What
must stay bounded is the second moment of the log-ratio over the batch; a few
outliers make it, and only they are left out:

  xₜ = log π(yₜ) − log π_behaviour(yₜ)
  M drops the largest xₜ² until the mean of the rest is < τ
  L = −(1 / N) Σ over all N tokens of Mₜ·ρₜ·Aₜ

Equals grpo(beta=0, aggregation='token_mean') without a clip for τ = ∞.

Differs from the authors' code, as AReaL runs it: the mask is made once of the
whole batch, from the learner's log-probabilities before the update, so that
microbatches change nothing; no correction for the sampler is multiplied on top.
AReaL keeps PPO's clip as well (`ppo_clip`) and leaves the dropped tokens out of
the mean (count='kept').
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from policyopt import credit, losses, planning, rollouts
from policyopt.ops import masking, ratios
from policyopt.ops.surrogates import trust_region
from policyopt.types import Array, CreditTransform, Method, Rollout, read_extra


def _moved(x: Array, rollout: Rollout) -> tuple[Array, Array]:
  """(log-ratio of the learner to who sampled, the tokens that count)."""
  mask = credit.taking_part(rollout) & (x != 0)
  now = read_extra(rollout, 'old_log_probs', 'keep_second_moment')
  return ratios.log_ratio(now, rollout.log_probs, mask, limit=None), mask


def keep_second_moment(threshold: float) -> CreditTransform:
  """Weight 0 for the largest (log ρ)² until the mean of the rest is < τ.

  ρ is of the learner before its update to who sampled.

  Args:
    threshold: τ.

  Returns:
    A CreditTransform for weights; needs 'old_log_probs'. Metrics:
    'm2po/second_moment' (the mean square before), 'm2po/kept' (share of the
    tokens).

  Raises:
    ValueError: `threshold` is not positive.

  Source: "Prosperity before Collapse: How Far Can Off-Policy RL Reach with
    Stale Data on LLMs?", Zheng, Zhao, Chen, 2025, arXiv:2510.01161.
  """
  if not threshold > 0:
    raise ValueError(f'threshold is {threshold}; it must be positive')

  def keep(x, rollout):
    log_ratio, mask = _moved(x, rollout)
    kept = trust_region.second_moment_mask(log_ratio, mask, threshold)
    return jnp.where(kept, x, 0)

  def metrics(x, state, rollout):
    del state
    log_ratio, mask = _moved(x, rollout)
    kept = trust_region.second_moment_mask(log_ratio, mask, threshold)
    count = masking.masked_sum(jnp.ones_like(x), mask)
    return {
        'm2po/second_moment': (
            masking.masked_sum(jnp.square(log_ratio), mask), count),
        'm2po/kept': (masking.masked_sum(jnp.ones_like(x), kept), count)}

  return credit.stateless(keep, {'old_log_probs'}, metrics)


def m2po(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    m2_threshold: float = 0.04,
    ppo_clip: bool = False,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
    count: str = 'mask',
) -> Method:
  """M2PO: the second moment of the log-ratio bounds who takes part.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    m2_threshold: τ, bound on the mean of (log ρ)².
    ppo_clip: clip the ratio as well.
    clip_low: with it, how far the ratio may fall below 1.
    clip_high: with it, how far the ratio may rise above 1.
    old: whose ratio the loss takes, as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.
    count: 'mask' or 'kept', whether that mean is over all tokens or over
      those that M keeps.

  Returns:
    A Method; needs 'old_log_probs'.

  Raises:
    ValueError: a threshold that is not positive, or an unknown `old`,
      `aggregation` or `count`.

  Source: "Prosperity before Collapse: How Far Can Off-Policy RL Reach with
    Stale Data on LLMs?", Zheng, Zhao, Chen, 2025, arXiv:2510.01161.

  Example:
    >>> sorted(m2po().weights.needs)
    ['old_log_probs']
  """
  if not ppo_clip:
    clip_low, clip_high = 1., math.inf
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.chain(
          keep_second_moment(m2_threshold),
          credit.aggregate(aggregation, length=max_tokens, count=count)),
      loss=losses.clipped_surrogate(clip_low, clip_high, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
