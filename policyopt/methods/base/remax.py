"""ReMax, REINFORCE with the greedy response as its baseline.

"ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for
Aligning Large Language Models", Ziniu Li, Tian Xu, Yushun Zhang, Zhihang Lin,
Yang Yu, Ruoyu Sun, Zhi-Quan Luo, 2023, arXiv:2310.10505.

What the most likely response earns is subtracted; it costs one response more
per prompt and no value model:

  Aₜ = Σ_{s ≥ t} r_s − b,  b = reward of the greedy response
  L = −mean over rows of Σₜ Aₜ·log π(yₜ)

Equals reinforce(returns='to_go') when the greedy response earns nothing.

Differs from the authors' code: the price of the distance from the reference,
which depends on the task, is 0 unless `beta` says otherwise.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def remax(
    *,
    beta: float = 0.,
    kl: str = 'k1',
    aggregation: str = 'sequence_sum',
    max_tokens: int | None = None,
) -> Method:
  """ReMax: A = return to go − reward of the greedy response.

  Args:
    beta: β, price of the distance from the reference, in the reward; with 0 no
      reference model is needed.
    kl: estimator of that distance, 'k1', 'k2', 'k3' or 'abs'.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'greedy_reward'.

  Raises:
    ValueError: an unknown `kl` or `aggregation`.

  Source: "ReMax: A Simple, Effective, and Efficient Reinforcement Learning
    Method for Aligning Large Language Models", Li et al., 2023,
    arXiv:2310.10505.

  Example:
    >>> sorted(remax().advantages.needs)
    ['greedy_reward']
  """
  return Method(
      rewards=credit.kl_price(beta, estimator=kl),
      advantages=credit.subtract_greedy_reward(),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.policy_gradient_loss(),
      plan=planning.uniform_prompts(),
      rollout=rollouts.with_greedy(rollouts.sample_groups()))
