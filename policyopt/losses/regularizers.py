"""Terms that keep the policy near a reference, or spread out."""

from __future__ import annotations

from policyopt.losses import base
from policyopt.ops import divergences, masking
from policyopt.types import Loss, read_extra


def kl_penalty(
    beta: float,
    *,
    value: str = 'k3',
    gradient: str | None = None,
    k3_input_limit: float | None = 20.,
    k3_output_limit: float | None = None,
) -> Loss:
  """Σ wₜ·β·KLₜ(π ‖ π_ref); needs 'ref_log_probs'.

  Args:
    beta: β.
    value: the estimator, see `ops.kl_estimate`.
    gradient: the estimator to differentiate; as `value` when None.
    k3_input_limit: the log-ratio is clamped to ±limit inside k3.
    k3_output_limit: k3 is clamped to ±limit.

  Returns:
    A Loss. Metrics: 'loss/kl' and 'kl/reference' (without β).

  Raises:
    ValueError: an unknown estimator.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300.
  """
  for argument, name in (('value', value), ('gradient', gradient or value)):
    if name not in divergences.ESTIMATORS:
      raise ValueError(
          f'{argument} is {name!r}; it must be one of '
          f'{divergences.ESTIMATORS}')

  def apply(policy, advantages, weights, rollout):
    del advantages
    mask = rollout.mask
    ref = read_extra(rollout, 'ref_log_probs', 'kl_penalty')
    kl = divergences.kl_estimate(
        masking.fill(policy.log_probs, mask), masking.fill(ref, mask),
        value=value, gradient=gradient, k3_input_limit=k3_input_limit,
        k3_output_limit=k3_output_limit)
    loss = beta * base.weighted_sum(kl, weights, mask)
    metrics = {
        'loss/kl': base.loss_metric(loss, weights),
        'kl/reference': base.mean_metric(kl, mask & (weights != 0)),
    }
    return loss, metrics

  return Loss(apply, frozenset({'ref_log_probs'}))


def entropy_bonus(coef: float) -> Loss:
  """Σ −wₜ·coef·Hₜ, H the entropy of the token's distribution in nats.

  Args:
    coef: weight of the bonus; negative makes it a penalty.

  Returns:
    A Loss; needs 'entropy' of the policy. Metrics: 'loss/entropy', 'entropy'.

  Source: "Asynchronous Methods for Deep Reinforcement Learning", Mnih et al.,
    2016, arXiv:1602.01783.
  """
  def apply(policy, advantages, weights, rollout):
    del advantages
    mask = rollout.mask
    entropy = base.read_policy(policy, 'entropy', 'entropy_bonus')
    loss = -coef * base.weighted_sum(entropy, weights, mask)
    metrics = {
        'loss/entropy': base.loss_metric(loss, weights),
        'entropy': base.mean_metric(entropy, mask & (weights != 0)),
    }
    return loss, metrics

  return Loss(apply, frozenset({'entropy'}))
