"""RLOO, REINFORCE with a leave-one-out baseline.

"Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
Feedback in LLMs", Arash Ahmadian, Chris Cremer, Matthias Gallé, Marzieh Fadaee,
Julia Kreutzer, Olivier Pietquin, Ahmet Üstün, Sara Hooker, 2024,
arXiv:2402.14740.

The whole response is one action; its baseline is the mean reward of the other
responses to the same prompt:

  R = r − β Σₜ (log π(yₜ) − log π_ref(yₜ))
  A = R − mean of the others' R
  L = −mean over rows of A·Σₜ log π(yₜ)

Equals grpo's centred reward scaled by G / (G − 1), with no clip and no
division by the spread.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def rloo(
    *,
    beta: float = 0.03,
    kl: str = 'k1',
    singleton: str = 'zero',
    aggregation: str = 'sequence_sum',
    max_tokens: int | None = None,
) -> Method:
  """RLOO: A = R − mean of the others of the group.

  Args:
    beta: β, price of the distance from the reference, in the reward; with 0 no
      reference model is needed.
    kl: estimator of that distance, 'k1', 'k2', 'k3' or 'abs'.
    singleton: what a group of one gets: 'zero' or 'raw', its reward.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `kl` or `aggregation`.

  Source: "Back to Basics: Revisiting REINFORCE Style Optimization for Learning
    from Human Feedback in LLMs", Ahmadian et al., 2024, arXiv:2402.14740.

  Example:
    >>> sorted(rloo().rewards.needs), sorted(rloo(beta=0.).rewards.needs)
    (['ref_log_probs'], [])
  """
  rewards = credit.identity()
  if beta:
    rewards = credit.kl_in_reward(beta, estimator=kl)
  return Method(
      rewards=rewards,
      advantages=credit.leave_one_out(singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.policy_gradient_loss(),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
