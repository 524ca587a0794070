"""SAPO, Soft Adaptive Policy Optimization.

"Soft Adaptive Policy Optimization", 2025, arXiv:2511.20347.

A gate that closes smoothly takes the place of the clip, and closes a little
sooner on tokens that are pushed down, whose gradient spreads over the whole
vocabulary:

  L = −mean over rows, then tokens, of A·(4 / τ)·sigmoid(τ(ρₜ − 1)),
  τ = τ₊ where A > 0 and τ₋ elsewhere

Its gradient equals that of grpo(beta=0) without a clip as τ → 0, and for a
policy that has not moved.

Differs from the authors' code, as verl runs it: the mean is an argument (there
it is this one, whatever is asked for). TRL does not clamp log ρ; here it is
kept within ±20, as in verl.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def sapo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    tau_positive: float = 1.,
    tau_negative: float = 1.05,
    old: str = 'log_probs',
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
) -> Method:
  """SAPO: a sigmoid of the ratio instead of its clip.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    tau_positive: temperature where A > 0; the larger, the sooner the gate
      closes.
    tau_negative: temperature elsewhere.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: a temperature that is not positive, or an unknown `old` or
      `aggregation`.

  Source: "Soft Adaptive Policy Optimization", 2025, arXiv:2511.20347.

  Example:
    >>> sorted(sapo().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.sapo_surrogate(tau_positive, tau_negative, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
