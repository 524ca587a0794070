"""NGRPO, Negative-enhanced Group Relative Policy Optimization.

"NGRPO: Negative-enhanced Group Relative Policy Optimization", Gongrui Nan,
Siye Chen, Jing Huang, Mengyu Lu, Dexun Wang, Chunmei Xie, Weiqi Xiong, Xianzhou
Zeng, Qixuan Zhou, Yadong Li, Xingzhong Xu, 2025, arXiv:2509.18851.

Every group is joined by a virtual rollout with the highest reward, so that a
group that is all wrong also learns: to move away from what it does.

  Aₜ = (R − μ⁺) / (σ⁺ + eps), the statistics of rewards and virtual rewards
  L = (1 / N) Σ over all N tokens of
      −min(ρₜAₜ, clip(ρₜ, 1 − 0.16, 1 + 0.24)·Aₜ)

Only groups that are all correct are dropped and replaced by new ones. The
clip is tighter downwards to hold the negative push, and wider upwards.

Equals grpo's advantage when virtual=0.

Differs from the authors' code: a group of one also gets its virtual rollout
(singleton='raw' is theirs), and resampling is bounded as in `dapo`.
"""

from __future__ import annotations

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.credit import reports
from policyopt.types import CreditTransform, Method


def standardize_with_virtual(
    *,
    virtual: int = 1,
    reward_max: float = 1.,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'virtual',
) -> CreditTransform:
  """Aₜ = (R − μ⁺) / (σ⁺ + eps) on every chosen token; see `ngrpo`.

  Args:
    virtual: number of virtual rollouts in each group.
    reward_max: what each of them earned.
    std: 'sample' or 'population', both of real and virtual rewards.
    eps: added to σ⁺.
    singleton: what a group of one gets: 'virtual', 'zero' or 'raw'.

  Returns:
    A CreditTransform for advantages. Metrics: 'ngrpo/negative_push', the mean
    over prompts of −Σ A, which is what their virtual rollouts took.

  Raises:
    ValueError: an unknown `std` or `singleton`, or a negative `virtual`.

  Source: "NGRPO: Negative-enhanced Group Relative Policy Optimization", Nan et
    al., 2025, arXiv:2509.18851.
  """
  ops.check_virtual(std=std, virtual=virtual, singleton=singleton)

  def per_row(x, rollout):
    return ops.virtual_standardize(
        credit.row_rewards(x, rollout), rollout.group, virtual=virtual,
        reward_max=reward_max, std=std, eps=eps, singleton=singleton)

  def standardize(x, rollout):
    return credit.spread_rows(per_row(x, rollout), rollout)

  def metrics(x, state, rollout):
    del state
    push = -ops.segment_sum(per_row(x, rollout), rollout.group)
    return {'ngrpo/negative_push': reports.prompt_metric(push, rollout)}

  return credit.stateless(standardize, metrics=metrics)


def ngrpo(
    *,
    virtual: int = 1,
    reward_max: float = 1.,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'virtual',
    clip_low: float = 0.16,
    clip_high: float = 0.24,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
    rounds: int = 3,
) -> Method:
  """NGRPO: virtual perfect rollouts, asymmetric clip, no all-correct groups.

  Args:
    virtual: number of virtual rollouts in each group.
    reward_max: what each of them earned; groups whose rows all earned it are
      dropped.
    std: 'sample' or 'population'.
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'virtual', 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.
    rounds: rounds of sampling at most, until enough groups are not all
      correct; 1 samples once.

  Returns:
    A Method.

  Raises:
    ValueError: as `standardize_with_virtual` and `dapo`.

  Source: "NGRPO: Negative-enhanced Group Relative Policy Optimization", Nan et
    al., 2025, arXiv:2509.18851.

  Example:
    >>> sorted(ngrpo().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=standardize_with_virtual(
          virtual=virtual, reward_max=reward_max, std=std, eps=eps,
          singleton=singleton),
      weights=credit.chain(
          credit.drop_flat_groups(at=reward_max),
          credit.aggregate(aggregation, length=max_tokens)),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.oversample(planning.uniform_prompts(), rounds),
      rollout=rollouts.refill_flat_groups(
          rounds, flat=rollouts.all_at(reward_max)))
