"""COPO, Consistency-Aware Policy Optimization.

"COPO: Consistency-Aware Policy Optimization", Jinghang Han, Jiawei Chen, Hang
Shao, Hao Ma, Mingcheng Li, Xintian Shen, Lihao Zheng, Wei Chen, Tao Wei, Lihua
Zhang, 2025, arXiv:2508.04138.

A group whose answers all agree teaches GRPO nothing, whether they are right or
wrong. COPO also compares the prompts of the batch with each other, and lets
that comparison count the more, the more a group's answers agree:

  A = (R − mean of the group) / std of the group
  G = (R̄ − mean over prompts) / std over prompts,  R̄ the group's mean reward
  H = −Σ_c f_c·log₂ f_c,  f_c the share of the group that answered c
  w = σ(k·(H − b)), and 0 where R = 0
  L = mean over rows, then tokens, of −(w·clip(ρ, A) + (1 − w)·clip(ρ, G))

With `consistency_coef` R̄ is multiplied by 1 − κ·H, which rewards agreement.

Equals grpo with the same clip when mode is 'no_global'.

Differs from the authors' code: with one prompt in the batch G is 0 instead of
NaN, and κ of a group of one is 0 instead of 0 / 0. Their mode
'only-soft-with-coef' is mode 'only_soft' with a `global_coef`.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.credit import reports
from policyopt.types import CreditTransform, Method, read_extra


def blend_with_prompts(
    *,
    mode: str = 'soft_with_zero',
    steepness: float = 5.,
    centre: float = 1.,
    consistency_coef: bool = False,
    std: str = 'sample',
    eps: float = 1e-6,
) -> CreditTransform:
  """Gₜ and wₜ of COPO from the batch's answers, for `blended_surrogate`.

  Args:
    mode: which rows listen to the whole batch, see `ops.blend_weight`.
    steepness: k, how fast w changes with the entropy of the answers.
    centre: b, the entropy in bits at which w = ½.
    consistency_coef: whether prompts whose answers agree earn more.
    std: 'sample', 'population' or 'none', over prompts.
    eps: added to that standard deviation.

  Returns:
    A CreditTransform for `Method.derived`; needs 'answer_id'. It supplies
    'global_advantages' and 'local_weight', f32[B, T]. Metrics:
    'copo/consistency_entropy' in bits and 'copo/local_weight', means over
    rows.

  Raises:
    ValueError: an unknown `mode` or `std`.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.
  """
  ops.check_rules(std=std)
  if mode not in ops.BLENDS:
    raise ValueError(f'mode is {mode!r}; it must be one of {ops.BLENDS}')

  def entropy_and_weight(advantages, rollout):
    answer = read_extra(rollout, 'answer_id', 'blend_with_prompts')
    entropy = ops.consistency_entropy(answer, rollout.group)
    own = ops.fill(advantages, credit.taking_part(rollout))
    return entropy, ops.blend_weight(
        entropy, rewards(rollout), jnp.max(jnp.abs(own), axis=1),
        mode=mode, steepness=steepness, centre=centre)

  def rewards(rollout):
    return credit.row_rewards(
        read_extra(rollout, 'token_rewards', 'blend_with_prompts'), rollout)

  def derive(advantages, rollout):
    entropy, weight = entropy_and_weight(advantages, rollout)
    earned = rewards(rollout)
    if consistency_coef:
      earned = earned * ops.consistency_coefficient(entropy, rollout.group)
    scores = ops.prompt_standardize(earned, rollout.group, std=std, eps=eps)
    return {'global_advantages': credit.spread_rows(scores, rollout),
            'local_weight': credit.spread_rows(weight, rollout)}

  def metrics(advantages, state, rollout):
    del state
    entropy, weight = entropy_and_weight(advantages, rollout)
    return {
        'copo/consistency_entropy': reports.row_metric(entropy, rollout),
        'copo/local_weight': reports.row_metric(weight, rollout)}

  return credit.stateless(derive, {'answer_id', 'token_rewards'}, metrics)


def copo(
    *,
    mode: str = 'soft_with_zero',
    steepness: float = 5.,
    centre: float = 1.,
    consistency_coef: bool = False,
    global_coef: float = 1.,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.,
    old: str = 'log_probs',
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
) -> Method:
  """COPO: the group's comparison blended with that of the prompts.

  Args:
    mode: 'soft_with_zero', 'soft_with_forced', 'only_soft', 'only_zero',
      'only_forced', 'only_global' or 'no_global', see `ops.blend_weight`.
    steepness: k, how fast w changes with the entropy of the answers; the
      paper's ablation prefers 20.
    centre: b, the entropy in bits at which w = ½; there, 1.5.
    consistency_coef: whether prompts whose answers agree earn more; part of
      the paper's text, off in the authors' script.
    global_coef: weight of the comparison of the prompts.
    std: 'sample', 'population' or 'none' (only the means are removed).
    eps: added to the standard deviations.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where an advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'answer_id'.

  Raises:
    ValueError: an unknown `mode`, `std`, `singleton`, `old` or `aggregation`.

  Source: "COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
    arXiv:2508.04138.

  Example:
    >>> sorted(copo().derived.needs)
    ['answer_id', 'token_rewards']
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      derived=blend_with_prompts(
          mode=mode, steepness=steepness, centre=centre,
          consistency_coef=consistency_coef, std=std, eps=eps),
      loss=losses.blended_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, global_coef=global_coef,
          old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
