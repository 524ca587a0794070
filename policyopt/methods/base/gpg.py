"""GPG, Group Policy Gradient.

"GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning",
Xiangxiang Chu, Hailang Huang, Xiao Zhang, Fei Wei, Yong Wang, 2025,
arXiv:2504.02546.

The plain policy gradient with the group's mean as baseline: no clip, no
reference, no critic. Groups that are all right or all wrong have no gradient
but stay in the mean over the batch; α gives the others their weight back:

  A = α·(R − μ) / F,  α = B / (B − rows of flat groups)
  L = −token mean of A·log π(yₜ)

Equals dr_grpo's advantage for α = F = 1.

verl takes for α the rows of the batch over those whose reward is not 0, which
is another number: `scale_by='nonzero'`.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def gpg(
    *,
    scale_by: str = 'valid',
    f_norm: float = 1.,
    std: str = 'none',
    eps: float = 1e-6,
    singleton: str = 'zero',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """GPG: A = α·(R − μ) / F within the group, policy gradient.

  Args:
    scale_by: the rows that α divides by: 'valid', those of groups that are not
      flat; 'nonzero', those whose reward is not 0; 'none' for α = 1.
    f_norm: F, a constant.
    std: 'none', or divide by the group's spread too: 'sample', 'population'.
    eps: added to that spread.
    singleton: what a group of one gets: 'zero' or 'raw'.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `scale_by`, `std`, `singleton` or `aggregation`, or
      F is not positive.

  Source: "GPG: A Simple and Strong Reinforcement Learning Baseline for Model
    Reasoning", Chu et al., 2025, arXiv:2504.02546.

  Example:
    >>> sorted(gpg().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.centre_and_rescale(
          scale_by=scale_by, f_norm=f_norm, std=std, eps=eps,
          singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.policy_gradient_loss(),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
