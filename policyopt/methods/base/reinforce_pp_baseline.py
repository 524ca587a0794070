"""REINFORCE++ with the group's mean as a baseline.

"REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage
Normalization", Jian Hu, Jason Klein Liu, Haotian Xu, Wei Shen, 2025,
arXiv:2501.03262.

For several responses per prompt: their mean is removed from the reward, and the
spread that is divided by is that of the whole batch, not of the group; the
distance from the reference moves from the reward into the loss:

  Aₜ = (R − μ − mean) / std, mean and std over the tokens of the batch
  L = token mean of −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ) + β·½(log π/π_ref)²

Equals grpo with one spread for all groups, up to the mean over tokens, which
long responses pull towards themselves.

Differs from the authors' code (OpenRLHF): the variance is the sample's, and a
group of one gets 0 unless `singleton` says otherwise.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def reinforce_pp_baseline(
    *,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 1e-5,
    kl: str = 'k2',
    kl_gradient: str | None = None,
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """REINFORCE++-baseline: A = R − μ of the group, whitened over the batch.

  Args:
    singleton: what a group of one gets before whitening: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `singleton`, `old`, `kl`, `kl_gradient` or
      `aggregation`.

  Source: "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global
    Advantage Normalization", Hu et al., 2025, arXiv:2501.03262.

  Example:
    >>> sorted(reinforce_pp_baseline().loss.needs)
    ['ref_log_probs']
  """
  loss = losses.clipped_surrogate(
      clip_low, clip_high, dual_clip=dual_clip, old=old)
  if beta:
    loss = losses.add(
        loss, losses.kl_penalty(beta, value=kl, gradient=kl_gradient))
  return Method(
      rewards=credit.identity(),
      advantages=credit.chain(
          credit.group_standardize(std='none', singleton=singleton),
          credit.whiten()),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=loss,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
