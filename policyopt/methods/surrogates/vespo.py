"""VESPO, Variational sEquence-level Soft Policy Optimization.

"VESPO: Variational Sequence-Level Soft Policy Optimization for Stable
Off-Policy LLM Training", 2026, arXiv:2602.10693.

The ratio W of the whole response is the right weight and too wild a one; a
smooth bump around W = 1, of its own shape for each sign of A, takes its place:

  W = Πₜ ρₜ;  φ(W) = Wᵏ·exp(λ(1 − W))
  L = (1 / N) Σ over all N tokens of −sg(φ(W))·Aₜ·log π(yₜ)

Equals the policy gradient for k = λ = 0, and sequence-level importance
sampling for k = 1, λ = 0.

As in TRL and the authors' code, each log ρₜ is kept within ±20 and log W
within [log 1e-8, 20]. They also fold the correction for another sampler into W;
here old='log_probs' divides by the sampler's probabilities from the start.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def vespo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    power_positive: float = 2.,
    rate_positive: float = 3.,
    power_negative: float = 3.,
    rate_negative: float = 2.,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """VESPO: a gamma-shaped weight of the response's ratio.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    power_positive: k where A ≥ 0.
    rate_positive: λ where A ≥ 0.
    power_negative: k where A < 0.
    rate_negative: λ where A < 0.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `old` or `aggregation`.

  Source: "VESPO: Variational Sequence-Level Soft Policy Optimization for
    Stable Off-Policy LLM Training", 2026, arXiv:2602.10693.

  Example:
    >>> sorted(vespo().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.vespo_surrogate(
          (power_positive, rate_positive), (power_negative, rate_negative),
          old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
