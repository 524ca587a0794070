"""TOPR, Tapered Off-Policy REINFORCE.

"Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for
LLMs", Nicolas Le Roux, Marc G. Bellemare, Jonathan Lebensold, Arnaud Bergeron,
Joshua Greaves, Alex Fréchette, Carolyne Pelletier, Eric Thibodeau-Laufer,
Sándor Toth, Sam Work, 2025, arXiv:2503.14286.

On rows that an older policy sampled, what was good may be imitated at full
speed; what was bad must be left alone once the policy no longer says it, or
the loss has no bottom. So the ratio W of the whole response is clipped to a
range of its own for each sign of the reward:

  W = Πₜ ρₜ;  A = R − baseline − offset
  L = −mean over rows of sg(clip(W, a, b))·A·Σₜ log π(yₜ),
  [a, b] = [1, 1] where A ≥ 0, [0, 1] where A < 0

Equals reinforce for both ranges [1, 1], and for a policy that has not moved;
truncated importance sampling for both [0, 1].

The paper rewards right and wrong answers with 1 and −1 and shows that the
baseline decides what share of the data counts as positive. A task that rewards
with 1 and 0 has no negative rows unless `offset` or `baseline` makes them.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, planning, rollouts
from policyopt.types import CreditTransform, Method


def _returns(baseline: str, offset: float) -> CreditTransform:
  steps = [credit.sequence_return() if baseline == 'none' else
           credit.group_standardize(std='none')]
  if offset:
    steps.append(credit.stateless(lambda x, rollout: jnp.where(
        credit.taking_part(rollout), x - offset, 0)))
  return credit.chain(*steps)


def topr(
    *,
    baseline: str = 'none',
    offset: float = 0.,
    positive_low: float = 1.,
    positive_high: float = 1.,
    negative_low: float = 0.,
    negative_high: float = 1.,
    old: str = 'log_probs',
    aggregation: str = 'sequence_sum',
    max_tokens: int | None = None,
) -> Method:
  """TOPR: REINFORCE with the response's ratio clipped by the sign of A.

  Args:
    baseline: 'none', or 'group' to subtract the mean of the group.
    offset: subtracted from every row's reward besides.
    positive_low: a, smallest weight where A ≥ 0.
    positive_high: b, largest weight there.
    negative_low: a where A < 0.
    negative_high: b where A < 0.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `baseline`, `old` or `aggregation`, or a range that
      is negative or upside down.

  Source: "Tapered Off-Policy REINFORCE: Stable and efficient reinforcement
    learning for LLMs", Le Roux et al., 2025, arXiv:2503.14286.

  Example:
    >>> topr().min_group, topr(baseline='group').min_group
    (1, 2)
  """
  if baseline not in ('none', 'group'):
    raise ValueError(f"baseline is {baseline!r}; it must be 'none' or 'group'")
  return Method(
      rewards=credit.identity(),
      advantages=_returns(baseline, offset),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.tapered_loss(
          (positive_low, positive_high), (negative_low, negative_high),
          old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2 if baseline == 'group' else 1)
