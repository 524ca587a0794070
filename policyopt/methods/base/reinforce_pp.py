"""REINFORCE++, a clipped policy gradient whitened over the whole batch.

"REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage
Normalization", Jian Hu, Jason Klein Liu, Haotian Xu, Wei Shen, 2025,
arXiv:2501.03262.

No critic and no group: the return to go, less the price of the distance from
the reference, is measured against the mean and spread of all tokens of the
batch, which one response per prompt suffices for:

  rₜ = reward on the last token − β·(log π(yₜ) − log π_ref(yₜ))
  Aₜ = (Gₜ − mean) / std over the tokens of the batch, Gₜ = rₜ + γ Gₜ₊₁
  L = token mean of −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ)

Equals reinforce(returns='to_go', whiten=True, aggregation='token_mean') for
β = 0 and a policy that has not moved.

Differs from the authors' code (OpenRLHF): observation tokens are bridged
instead of costing a discount each (`observations` says which), and the variance
is the sample's.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def reinforce_pp(
    *,
    gamma: float = 1.,
    observations: str = 'bridge',
    beta: float = 1e-4,
    kl: str = 'k1',
    kl_target: float | None = None,
    kl_horizon: int = 10_000,
    kl_measure: str = 'sequence',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """REINFORCE++: KL in the reward, whitened return to go, clipped surrogate.

  Args:
    gamma: discount per chosen token.
    observations: what tokens that were not chosen do to the return: 'bridge',
      'decay' or 'cut' (see `ops.discounted_returns`).
    beta: β, price of the distance from the reference, in the reward; with 0 no
      reference model is needed.
    kl: estimator of that distance, 'k1', 'k2', 'k3' or 'abs'.
    kl_target: the distance in nats that β is adapted to; None keeps β.
    kl_horizon: rows after which β may have changed by about a fifth.
    kl_measure: the distance of a row: 'sequence', summed, or 'token', the mean.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `observations`, `kl`, `kl_measure`, `old` or
      `aggregation`, or a `kl_target` with β = 0.

  Source: "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global
    Advantage Normalization", Hu et al., 2025, arXiv:2501.03262.

  Example:
    >>> sorted(reinforce_pp().rewards.needs)
    ['ref_log_probs']
  """
  return Method(
      rewards=credit.kl_price(
          beta, estimator=kl, target=kl_target, horizon=kl_horizon,
          measure=kl_measure),
      advantages=credit.chain(
          credit.reward_to_go(gamma, observations=observations),
          credit.whiten()),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups())
