"""GMPO, Geometric-Mean Policy Optimization.

"Geometric-Mean Policy Optimization", 2025, arXiv:2507.20673.

The arithmetic mean of token ratios follows its outliers; their geometric mean
does not, and so bears a much wider clip. The clip is of each token, in log
space, on the side that the advantage pushes to:

  xₜ = log ρₜ;  yₜ = min(xₜ, ε_high) where A > 0, max(xₜ, −ε_low) where A < 0
  L = −mean over rows of A·exp((1 / n) Σₜ yₜ)

Equals gspo when nothing is clipped in either.

Differs from the authors' code, as verl and TRL run it: rows without a token
take no part in the mean (there they count as rows, and TRL adds −A for each).
verl's default ε is its general 0.2; the paper's, and TRL's, is 0.4.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def gmpo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.4,
    clip_high: float = 0.4,
    old: str = 'log_probs',
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
) -> Method:
  """GMPO: the geometric mean of token ratios, clipped token by token.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far log ρ of a token may fall below 0 where A < 0.
    clip_high: how far it may rise above 0 where A > 0.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `old` or `aggregation`.

  Source: "Geometric-Mean Policy Optimization", 2025, arXiv:2507.20673.

  Example:
    >>> sorted(gmpo().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.gmpo_surrogate(clip_low, clip_high, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
