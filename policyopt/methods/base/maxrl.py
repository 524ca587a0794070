"""MaxRL, maximum likelihood by reinforcement learning.

"Maximum Likelihood Reinforcement Learning", Fahim Tajwar, Guanning Zeng, Yueer
Zhou, Yuda Song, Daman Arora, Yiding Jiang, Jeff Schneider, Ruslan
Salakhutdinov, Haiwen Feng, Andrea Zanette, 2026, arXiv:2602.02710.

With p the probability of a right answer, reinforcement learning ascends p and
maximum likelihood would ascend log p, whose gradient is that of p divided by p.
Dividing by the group's mean reward does so to a finite order, that of the
group's size G, so that hard prompts count more (with the mean subtracted only
where something is right, the expected gradient is that of Σₖ pass@k / k up to
k = G − 1):

  A = (R − μ) / (μ + eps) within the group
  L = token mean of −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ)

Equals grpo up to a factor within each group: √(μ(1 − μ)) there is μ here, for
rewards of 0 and 1.

Where the mean is not positive nothing is divided and the advantage is 0, as in
prime-rl; `nonpositive='divide'` takes the quotient as it comes, as SkyRL does.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def maxrl(
    *,
    eps: float = 1e-6,
    singleton: str = 'zero',
    nonpositive: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """MaxRL: A = (R − μ) / μ within the group.

  Args:
    eps: added to the mean.
    singleton: what a group of one gets: 'zero' or 'raw'.
    nonpositive: what a group with a mean of at most 0 gets: 'zero' or
      'divide', the quotient as it comes.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `singleton`, `nonpositive`, `old` or `aggregation`.

  Source: "Maximum Likelihood Reinforcement Learning", Tajwar et al., 2026,
    arXiv:2602.02710.

  Example:
    >>> maxrl().min_group
    2
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.divide_by_mean(
          eps=eps, singleton=singleton, nonpositive=nonpositive),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
