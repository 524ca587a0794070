"""ACE, the Asymmetric Confidence-aware Error Penalty.

"Overconfident Errors Need Stronger Correction: Asymmetric Confidence Penalties
for Reinforcement Learning", Yuanda Xu, Hejian Sang, Zhengze Zhou, Ran He,
Zhipeng Wang, 2026, arXiv:2602.21420.

A wrong response that training has made more likely than the reference model
held it is corrected more strongly; right ones are left as they are:

  A = (R − mean of the group) / std of the group
  c = mean over the response of log π − log π_ref
  A ← A·(1 + α·log(1 + exp c)) where A < 0

On the policy's own samples the additional gradient is that of the penalty
E[1_wrong·log(1 + exp c)] without the part that acts through its weight,
E[1_wrong·σ(c)·∇log π].

Equals grpo with the same clip and aggregation when α = 0.

Differs from the paper where it is not known: α is not published and 1 is ours.
The paper defines c as a sum and computes the mean; `length_normalised` chooses.
ace(clip_high=0.28, aggregation='token_mean') has the loss of DAPO, which the
paper also tries. There is no authors' code to compare with.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.credit import reports
from policyopt.types import CreditTransform, Method, read_extra


def strengthen_sure_errors(
    *, alpha: float = 1., length_normalised: bool = True) -> CreditTransform:
  """Aₜ·(1 + α·log(1 + exp c)) where Aₜ < 0.

  Args:
    alpha: α, at least 0.
    length_normalised: c is the row's mean of log π − log π_ref; False: the
      sum.

  Returns:
    A CreditTransform for advantages, after the group's comparison; needs
    'ref_log_probs'. Metrics: 'ace/confidence_shift', the mean of c over rows,
    and 'ace/multiplier', the mean factor over rows with a negative advantage.

  Raises:
    ValueError: `alpha` is negative.

  Source: "Overconfident Errors Need Stronger Correction: Asymmetric Confidence
    Penalties for Reinforcement Learning", Xu et al., 2026, arXiv:2602.21420.
  """
  if alpha < 0:
    raise ValueError(f'alpha is {alpha}; it must be at least 0')

  def shift_of(rollout):
    return ops.confidence_shift(
        rollout.log_probs,
        read_extra(rollout, 'ref_log_probs', 'strengthen_sure_errors'),
        credit.taking_part(rollout), length_normalised=length_normalised)

  def strengthen(x, rollout):
    factor = ops.error_multiplier(shift_of(rollout), alpha)
    return jnp.where(x < 0, x * factor[:, None], x)

  def metrics(x, state, rollout):
    del state
    shift = shift_of(rollout)
    wrong = jnp.any((x < 0) & credit.taking_part(rollout), axis=1)
    return {
        'ace/confidence_shift': reports.row_metric(shift, rollout),
        'ace/multiplier': reports.row_metric(
            ops.error_multiplier(shift, alpha), rollout, wrong)}

  return credit.stateless(strengthen, {'ref_log_probs'}, metrics)


def ace(
    *,
    alpha: float = 1.,
    length_normalised: bool = True,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    aggregation: str = 'sequence_mean',
    max_tokens: int | None = None,
) -> Method:
  """ACE: errors that training has made more likely count more.

  Args:
    alpha: α, strength of the penalty; no value is published.
    length_normalised: c is a mean over the row's tokens; False: the sum.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of a KL term.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'ref_log_probs'.

  Raises:
    ValueError: `alpha` is negative, or as `grpo`.

  Source: "Overconfident Errors Need Stronger Correction: Asymmetric Confidence
    Penalties for Reinforcement Learning", Xu et al., 2026, arXiv:2602.21420.

  Example:
    >>> sorted(ace().advantages.needs)
    ['ref_log_probs']
  """
  loss = losses.clipped_surrogate(
      clip_low, clip_high, dual_clip=dual_clip, old=old)
  if beta:
    loss = losses.add(
        loss, losses.kl_penalty(beta, value=kl, gradient=kl_gradient))
  return Method(
      rewards=credit.identity(),
      advantages=credit.chain(
          credit.group_standardize(std=std, eps=eps, singleton=singleton),
          strengthen_sure_errors(
              alpha=alpha, length_normalised=length_normalised)),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=loss,
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
