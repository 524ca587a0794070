"""OPO, on-policy learning with the baseline of least variance.

"On-Policy RL with Optimal Reward Baseline", Yaru Hao, Li Dong, Xun Wu, Shaohan
Huang, Zewen Chi, Furu Wei, 2025, arXiv:2505.23585.

The baseline that makes the gradient's variance least weighs each reward by the
squared norm of its gradient. If tokens contribute alike and independently, that
norm grows with the length n of the response:

  A = R − Σ n·R / Σ n over the group, the response itself included
  L = −token mean of A·log π(yₜ)

with exact on-policy updates, so nothing to clip, and neither a KL nor an
entropy term.

Equals dr_grpo's advantage when the responses of a group are equally long.

Differs from the authors' code (in verl): a group of one gets 0 instead of its
reward, unless `singleton` says otherwise.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def opo(
    *,
    singleton: str = 'zero',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """OPO: A = R − mean of the group's rewards weighted by length.

  Args:
    singleton: what a group of one gets: 'zero' or 'raw', its reward.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `singleton` or `aggregation`.

  Source: "On-Policy RL with Optimal Reward Baseline", Hao et al., 2025,
    arXiv:2505.23585.

  Example:
    >>> opo().min_group
    2
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.subtract_length_weighted_mean(singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.policy_gradient_loss(),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
