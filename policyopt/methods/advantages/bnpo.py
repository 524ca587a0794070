"""BNPO, Beta Normalization Policy Optimization.

"BNPO: Beta Normalization Policy Optimization", Changyi Xiao, Mengdi Zhang,
Yixin Cao, 2025, arXiv:2506.02864.

A prompt's success rate p is normalised by the distribution of success rates,
which moves with the policy. On every batch a Beta distribution is fitted to
the rates of its prompts by their moments, and the one that follows from it
divides the centred reward; of all Beta distributions it gives the gradient the
smallest variance:

  c = p̄(1 − p̄) / v − 1,  α = max(1, 1 + c·p̄ / 3),  β = max(1, 1 + c(1 − p̄) / 3)
  A = (R − p) / Beta(p; α, β)

p̄ and v are the mean and the sample variance of p over the prompts, each
counted once. With several reward channels (`decompose`) every channel is
normalised by its own α and β, and A is the mean over channels.

Equals the group-mean baseline when α = β = 1 and (π / 8)·grpo with the
population's standard deviation and eps = 0 when α = β = 3/2 (`shape` fixes
them), for binary rewards.

Differs from the authors' code: success rates that are all equal give α = β = 1
instead of NaN; a group of one gets 0 and does not enter the fit, instead of up
to 10⁶·R (singleton='raw' is theirs); a KL cost in the reward is part of the
reward and no channel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyopt import credit, ops
from policyopt.credit import reports
from policyopt.methods.base.grpo import grpo
from policyopt.types import CreditTransform, Method


def normalize_by_beta(
    *,
    reward_min: float = 0.,
    reward_max: float = 1.,
    shape: float | None = None,
    singleton: str = 'zero',
    max_weight: float = 1e6,
    decompose: bool = False,
    channels: Sequence[str] | None = None,
) -> CreditTransform:
  """Aₜ = (R − p) / Beta(p; α, β) on every chosen token; see `bnpo`.

  Args:
    reward_min: the reward of a failure.
    reward_max: the reward of a success.
    shape: α and β instead of the fit.
    singleton: what a group of one gets: 'zero' or 'raw'.
    max_weight: the largest weight 1 / Beta(p; α, β).
    decompose: normalises each reward channel by itself, as the environment
      gave it, and takes the mean over channels.
    channels: the channels of the decomposition; all when None.

  Returns:
    A CreditTransform for advantages. Metrics: 'bnpo/alpha' and 'bnpo/beta',
    followed by '/' and the channel when decomposed.

  Raises:
    ValueError: as `ops.check_beta`, or `channels` that nothing reads.

  Source: "BNPO: Beta Normalization Policy Optimization", Xiao, Zhang,
    Cao, 2025, arXiv:2506.02864.
  """
  ops.check_beta(reward_min=reward_min, reward_max=reward_max, shape=shape,
                 singleton=singleton, max_weight=max_weight)
  if channels is not None and not decompose:
    raise ValueError(f'channels is {channels}; only decompose=True reads it')

  def each_channel(x, rollout):
    """Suffix of its metrics -> (advantages f32[B], BetaFit)."""
    if decompose:
      given = credit.environment_rewards(
          rollout, channels, reader='normalize_by_beta')
      rewards = {f'/{name}': channel for name, channel in given.items()}
    else:
      rewards = {'': credit.row_rewards(x, rollout)}
    return {suffix: ops.beta_normalize(
        channel, rollout.group, reward_min=reward_min, reward_max=reward_max,
        shape=shape, singleton=singleton, max_weight=max_weight)
            for suffix, channel in rewards.items()}

  def normalize(x, rollout):
    parts = [advantages for advantages, _ in each_channel(x, rollout).values()]
    return credit.spread_rows(sum(parts) / len(parts), rollout)

  def metrics(x, state, rollout):
    del state
    return {f'bnpo/{name}{suffix}': reports.batch_metric(
        getattr(fit, name), rollout)
            for suffix, (_, fit) in each_channel(x, rollout).items()
            for name in ('alpha', 'beta')}

  return credit.stateless(normalize, metrics=metrics)


def bnpo(
    *,
    reward_min: float = 0.,
    reward_max: float = 1.,
    shape: float | None = None,
    singleton: str = 'zero',
    max_weight: float = 1e6,
    decompose: bool = False,
    channels: tuple[str, ...] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 10.,
    old: str = 'log_probs',
    beta: float = 0.,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    aggregation: str = 'sequence_sum',
    max_tokens: int | None = None,
) -> Method:
  """BNPO: A = (R − p) / Beta(p; α, β) with α and β from the batch.

  Args:
    reward_min: the reward of a failure.
    reward_max: the reward of a success; rewards in between are graded.
    shape: fixes α = β at this number, at least 1, instead of fitting them: 1
      is the group-mean baseline, 1.5 is grpo over 8 / π.
    singleton: what a group of one gets: 'zero' or 'raw'.
    max_weight: the largest weight 1 / Beta(p; α, β).
    decompose: normalises each reward channel by itself.
    channels: the channels of the decomposition; all when None.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of a KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: as `normalize_by_beta` and `grpo`.

  Source: "BNPO: Beta Normalization Policy Optimization", Xiao, Zhang,
    Cao, 2025, arXiv:2506.02864.

  Example:
    >>> sorted(bnpo().loss.needs)
    []
  """
  method = grpo(
      clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, old=old,
      beta=beta, kl=kl, kl_gradient=kl_gradient, aggregation=aggregation,
      max_tokens=max_tokens)
  return method._replace(advantages=normalize_by_beta(
      reward_min=reward_min, reward_max=reward_max, shape=shape,
      singleton=singleton, max_weight=max_weight, decompose=decompose,
      channels=channels))
