"""PPO, Proximal Policy Optimization, with a value head on language models.

"Proximal Policy Optimization Algorithms", John Schulman, Filip Wolski, Prafulla
Dhariwal, Alec Radford, Oleg Klimov, 2017, arXiv:1707.06347; its advantages:
"High-Dimensional Continuous Control Using Generalized Advantage Estimation",
John Schulman, Philipp Moritz, Sergey Levine, Michael Jordan, Pieter Abbeel,
2015, arXiv:1506.02438.

  δₜ = rₜ + γ Vₜ₊₁ − Vₜ;  Aₜ = δₜ + γλ Aₜ₊₁
  L = token mean of −min(ρₜÂₜ, clip(ρₜ, 1 − ε, 1 + ε)·Âₜ)
      + c·½(vₜ − (Aₜ + Vₜ))² − c_H·Hₜ

Equals reinforce(returns='to_go') for γ = λ = 1, values 0, no whitening and a
policy that has not moved.

Differs from the paper, as is the custom with language models: γ = 1, the
advantages Â are whitened over the batch, and the value error carries ½ (the
paper's c₁ is c / 2). The paper clips no values; `value_clip` adds that.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def ppo(
    *,
    gamma: float = 1.,
    lam: float = 0.95,
    observations: str = 'bridge',
    whiten: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    value_coef: float = 1.,
    value_clip: float | None = None,
    entropy_coef: float = 0.,
    beta: float = 0.,
    kl: str = 'k1',
    kl_target: float | None = None,
    kl_horizon: int = 10_000,
    kl_measure: str = 'sequence',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """PPO: GAE over tokens, clipped surrogate, value loss.

  Args:
    gamma: discount per chosen token.
    lam: λ of the advantages.
    observations: what tokens that were not chosen do to advantages and value
      targets: 'bridge', 'decay' or 'cut' (see `ops.generalized_advantages`).
    whiten: whiten the advantages over the tokens of the batch.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    value_coef: c, weight of the value loss.
    value_clip: how far a value may move from its old one, or None.
    entropy_coef: c_H, weight of the entropy bonus; with 0 no entropy is needed.
    beta: price of the distance from the reference, in the reward; with 0 no
      reference model is needed.
    kl: estimator of that distance, 'k1', 'k2', 'k3' or 'abs'.
    kl_target: the distance in nats that β is adapted to; None keeps β.
    kl_horizon: rows after which β may have changed by about a fifth.
    kl_measure: the distance of a row: 'sequence', summed, or 'token', the mean.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'values'.

  Raises:
    ValueError: an unknown `observations`, `old`, `kl`, `kl_measure` or
      `aggregation`, or a `kl_target` with β = 0.

  Source: "Proximal Policy Optimization Algorithms", Schulman, Wolski,
    Dhariwal, Radford, Klimov, 2017, arXiv:1707.06347.

  Example:
    >>> sorted(ppo().loss.needs | ppo().advantages.needs)
    ['token_rewards', 'values']
  """
  steps = [credit.gae(gamma=gamma, lam=lam, observations=observations)]
  if whiten:
    steps.append(credit.whiten())
  terms = [
      losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      losses.value_loss(
          coef=value_coef, clip=value_clip, gamma=gamma, lam=lam,
          observations=observations)]
  if entropy_coef:
    terms.append(losses.entropy_bonus(entropy_coef))
  return Method(
      rewards=credit.kl_price(
          beta, estimator=kl, target=kl_target, horizon=kl_horizon,
          measure=kl_measure),
      advantages=credit.chain(*steps),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.add(*terms),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups())
