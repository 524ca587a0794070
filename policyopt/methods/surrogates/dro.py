"""DRO, Direct Reward Optimisation.

"Offline Regularised Reinforcement Learning for Large Language Models
Alignment", Pierre Harvey Richemond et al., 2024, arXiv:2405.19107.

The optimum of a reward with a KL price fulfils R − V = τ·log(π / π_old) for
every response, so its squared error can be descended on responses from
anywhere, without a ratio:

  L = (1 / N) Σ over all N tokens of −(Aₜ·log π(yₜ) − ½β·(log ρₜ)²)

whose gradient is (A − β·log ρ)·∇log π. Equals REINFORCE with the same
advantages for β = 0.

Differs from the paper, as verl and other libraries do: the group mean takes the
place of the learned value V, the square is taken token by token rather than of
the row's sum, and the distance is from who sampled.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def dro(
    *,
    std: str = 'none',
    eps: float = 1e-6,
    singleton: str = 'zero',
    beta: float = 0.05,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """DRO: the likelihood weighted by A, less the squared log-ratio.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    beta: β, the price of the distance from who sampled.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `old` or `aggregation`.

  Source: "Offline Regularised Reinforcement Learning for Large Language Models
    Alignment", Richemond et al., 2024, arXiv:2405.19107.

  Example:
    >>> sorted(dro().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.dro_loss(beta, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
