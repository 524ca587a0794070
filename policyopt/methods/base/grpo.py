"""GRPO, Group Relative Policy Optimization (outcome supervision).

"DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language
Models", Zhihong Shao, Peiyi Wang, Qihao Zhu, Runxin Xu, Junxiao Song, Xiao Bi,
Haowei Zhang, Mingchuan Zhang, Y. K. Li, Y. Wu, Daya Guo, 2024,
arXiv:2402.03300.

The other responses to the same prompt take the place of a value model:

  Aₜ = (R − mean of the group) / std of the group
  L = mean over rows, then tokens, of
      −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ) + β·k3(π ‖ π_ref)

The paper leaves open which standard deviation, what is added to it, and ε;
here they are arguments.
"""

from __future__ import annotations

from policyopt import credit, losses, planning, rollouts
from policyopt.types import Method


def grpo(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.04,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
) -> Method:
  """GRPO: A = (R − μ) / (σ + eps) within the group, clipped surrogate, KL.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: whose log-probabilities the ratio divides by: 'log_probs', the
      sampler's, or 'old_log_probs', the learner's before its update.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `old`, `kl`, `kl_gradient` or `aggregation`.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300.

  Example:
    >>> sorted(grpo().loss.needs), sorted(grpo(beta=0.).loss.needs)
    (['ref_log_probs'], [])
  """
  loss = losses.clipped_surrogate(
      clip_low, clip_high, dual_clip=dual_clip, old=old)
  if beta:
    loss = losses.add(
        loss, losses.kl_penalty(beta, value=kl, gradient=kl_gradient))
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=loss,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
