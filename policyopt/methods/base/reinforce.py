"""REINFORCE.

"Simple Statistical Gradient-Following Algorithms for Connectionist
Reinforcement Learning", Ronald J. Williams, 1992, Machine Learning 8:229-256
(before arXiv).

The reward of a whole episode, less a baseline, makes what was done in it more
likely:

  ∇J = E[(R − b) Σₜ ∇log π(yₜ | y<ₜ)]

which the default is, with b = 0: each chosen token carries the row's reward,
token terms are summed in a row, and rows are averaged.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def reinforce(
    *,
    returns: str = 'sequence',
    gamma: float = 1.,
    baseline: str = 'none',
    whiten: bool = False,
    aggregation: str = 'sequence_sum',
    max_tokens: int | None = None,
) -> Method:
  """REINFORCE: L = −Σₜ wₜ·Aₜ·log π(yₜ).

  Args:
    returns: 'sequence' gives every token the row's whole reward, 'to_go' what
      was earned from it on.
    gamma: discount per chosen token, for 'to_go'.
    baseline: 'none', or 'batch' for the mean over the batch's tokens.
    whiten: divide by the spread over the batch's tokens too (implies 'batch').
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `returns`, `baseline` or `aggregation`.

  Source: "Simple Statistical Gradient-Following Algorithms for Connectionist
    Reinforcement Learning", Williams, 1992, Machine Learning 8:229-256.

  Example:
    >>> sorted(reinforce().loss.needs)
    []
  """
  if returns not in ('sequence', 'to_go'):
    raise ValueError(
        f"returns is {returns!r}; it must be 'sequence' or 'to_go'")
  if baseline not in ('none', 'batch'):
    raise ValueError(f"baseline is {baseline!r}; it must be 'none' or 'batch'")
  steps = [credit.sequence_return() if returns == 'sequence'
           else credit.reward_to_go(gamma)]
  if whiten:
    steps.append(credit.whiten())
  elif baseline == 'batch':
    steps.append(credit.subtract_batch_mean())
  return Method(
      rewards=credit.identity(),
      advantages=credit.chain(*steps),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.policy_gradient_loss(),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups())
