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

With `importance` the rows may come from another policy μ than the learner's π:
each token is weighted by min(π/μ, cap), and with `old='old_log_probs'` the clip
is around π (decoupled PPO, "AReaL: A Large-Scale Asynchronous Reinforcement
Learning System for Language Reasoning", Fu et al., 2025, arXiv:2505.24298).
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
    ratio_cap: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.04,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    kl_ratio: bool = False,
    entropy_coef: float = 0.,
    entropy_target: float | None = None,
    importance: str | None = None,
    importance_bound: str = 'truncate',
    importance_cap: float = 2.,
    importance_floor: float | None = None,
    off_policy_threshold: float | None = None,
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
    count: str = 'kept',
) -> Method:
  """GRPO: A = (R − μ) / (σ + eps) within the group, clipped surrogate, KL.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    ratio_cap: INTELLECT-2's δ (4 there): ratios are at most this in the
      unclipped term, which gives the other sign of the advantage a bound too
      and takes the gradient beyond it away; None: no cap.
    old: whose log-probabilities the ratio divides by: 'log_probs', the
      sampler's, or 'old_log_probs', the learner's before its update.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    kl_ratio: multiply the KL term by the ratio, gradient included, which
      makes that of k1 and k3 unbiased.
    entropy_coef: weight of the entropy bonus; with 0 no entropy is needed.
    entropy_target: nats per token below which that weight grows by 0.005 per
      batch from `entropy_coef` on, and above which there is no bonus; None:
      the weight is constant.
    importance: weights for what another policy sampled: of the 'token',
      the 'sequence' or 'geometric', its mean per token; None: no weights.
      Needs old='old_log_probs'.
    importance_bound: 'truncate', 'mask' (0 out of bounds) or 'none'.
    importance_cap: largest weight.
    importance_floor: smallest weight, or None.
    off_policy_threshold: nats per token beyond which rows with A < 0 that
      another policy sampled lose their advantage; None: none does.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.
    count: whether that mean is over the 'kept' tokens, or over all of the
      'mask', those that importance_bound='mask' drops included.

  Returns:
    A Method.

  Raises:
    ValueError: an unknown `old`, `kl`, `kl_gradient`, `aggregation` or
      `count`, or importance with old='log_probs'.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300.

  Example:
    >>> sorted(grpo().loss.needs), sorted(grpo(beta=0.).loss.needs)
    (['ref_log_probs'], [])
    >>> tis = grpo(importance='token', old='old_log_probs', beta=0.)
    >>> sorted(tis.weights.needs | tis.loss.needs)
    ['old_log_probs']
  """
  terms = [losses.clipped_surrogate(
      clip_low, clip_high, dual_clip=dual_clip, ratio_cap=ratio_cap,
      old=old)]
  if beta:
    terms.append(losses.kl_penalty(
        beta, value=kl, gradient=kl_gradient, ratio_weighted=kl_ratio,
        old=old))
  derived = None
  if entropy_target is not None:
    derived = credit.adapt_entropy_coef(entropy_target, start=entropy_coef)
  if entropy_coef or derived:
    terms.append(losses.entropy_bonus(None if derived else entropy_coef))
  advantages = credit.group_standardize(
      std=std, eps=eps, singleton=singleton)
  if off_policy_threshold is not None:
    advantages = credit.chain(
        advantages, credit.mask_off_policy_sequences(off_policy_threshold))
  method = Method(
      rewards=credit.identity(),
      advantages=advantages,
      weights=credit.aggregate(aggregation, length=max_tokens, count=count),
      loss=losses.add(*terms),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      derived=derived,
      min_group=2)
  if importance is None:
    return method
  if old == 'log_probs':
    raise ValueError(
        f"importance is {importance!r} and old is 'log_probs', whose ratio "
        "corrects for the sampler already; it must be 'old_log_probs'")
  return credit.corrected(
      method,
      credit.importance_weights(
          importance, bound=importance_bound, cap=importance_cap,
          floor=importance_floor),
      credit.watch_mismatch())
