"""Terms that keep the policy near a reference, or spread out."""

from __future__ import annotations

from policyopt.losses import base
from policyopt.ops import divergences, masking, ratios
from policyopt.types import Loss, read_extra


def kl_penalty(
    beta: float,
    *,
    value: str = 'k3',
    gradient: str | None = None,
    ratio_weighted: bool = False,
    score: bool = False,
    old: str = 'log_probs',
    log_ratio_limit: ratios.Limit = 20.,
    k3_input_limit: ratios.Limit = 20.,
    k3_output_limit: ratios.Limit = None,
    input_limit: ratios.Limit = None,
    output_limit: ratios.Limit = None,
) -> Loss:
  """Σ wₜ·β·KLₜ(π ‖ π_ref); needs 'ref_log_probs'.

  The gradient that pulls π towards the reference by KL(π ‖ π_ref) is that of
  k2, or of ρ·k3 (`ratio_weighted`, or `score` on-policy); k3 alone descends
  KL(π_ref ‖ π), and k1 alone does nothing but add noise (see
  `ops.kl_estimate`).

  Args:
    beta: β.
    value: the estimator: 'k1', 'k2', 'k3' or 'abs'.
    gradient: the estimator to differentiate; as `value` when None.
    ratio_weighted: multiply by ρ = π / π_old and differentiate it too.
    score: differentiate ρ as if it were 1, and leave the value alone.
    old: π_old, who sampled: 'log_probs', the sampler's, or 'old_log_probs',
      the learner's before its update.
    log_ratio_limit: log ρ is clamped to ±limit; None: only where its
      exponential would overflow.
    k3_input_limit: the log-ratio is clamped to ±limit inside k3.
    k3_output_limit: k3 is clamped to ±limit.
    input_limit: the log-ratio is clamped to ±limit for every estimator.
    output_limit: every estimate is clamped to ±limit.

  Returns:
    A Loss. Metrics: 'loss/kl' and 'kl/reference' (without β and ρ).

  Raises:
    ValueError: an unknown estimator or `old`.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300; ρ: "DeepSeek-V3.2:
    Pushing the Frontier of Open Large Language Models", DeepSeek-AI, 2025,
    arXiv:2512.02556.
  """
  divergences.check_estimators(value=value, gradient=gradient or value)
  if old not in ('log_probs', 'old_log_probs'):
    raise ValueError(
        f"old is {old!r}; it must be 'log_probs' or 'old_log_probs'")
  needs = {'ref_log_probs'}
  if ratio_weighted:
    needs |= {old} - {'log_probs'}

  def apply(policy, advantages, weights, rollout):
    del advantages
    mask = rollout.mask
    ref = read_extra(rollout, 'ref_log_probs', 'kl_penalty')
    kl = divergences.kl_estimate(
        masking.fill(policy.log_probs, mask), masking.fill(ref, mask),
        value=value, gradient=gradient, score=score,
        k3_input_limit=k3_input_limit, k3_output_limit=k3_output_limit,
        input_limit=input_limit, output_limit=output_limit)
    per_token = kl
    if ratio_weighted:
      sampled = rollout.log_probs
      if old != 'log_probs':
        sampled = read_extra(rollout, old, 'kl_penalty')
      per_token = kl * divergences.bounded_exp(ratios.log_ratio(
          policy.log_probs, sampled, mask, limit=log_ratio_limit))
    loss = beta * base.weighted_sum(per_token, weights, mask)
    metrics = {
        'loss/kl': base.loss_metric(loss, weights),
        'kl/reference': base.mean_metric(kl, mask & (weights != 0)),
    }
    return loss, metrics

  return Loss(apply, frozenset(needs))


def entropy_bonus(coef: float | None) -> Loss:
  """Σ −wₜ·coef·Hₜ, H the entropy of the token's distribution in nats.

  Args:
    coef: weight of the bonus; negative makes it a penalty. None: the number
      of each row that `credit.adapt_entropy_coef` derives.

  Returns:
    A Loss; needs 'entropy' of the policy. Metrics: 'loss/entropy', 'entropy'.

  Source: "Asynchronous Methods for Deep Reinforcement Learning", Mnih et al.,
    2016, arXiv:1602.01783.
  """
  def apply(policy, advantages, weights, rollout):
    del advantages
    mask = rollout.mask
    entropy = base.read_policy(policy, 'entropy', 'entropy_bonus')
    factor = coef
    if coef is None:
      if 'entropy_coef' not in rollout.extras:
        raise ValueError(
            "entropy_bonus(None) needs rollout.extras['entropy_coef'], which "
            'is missing; it is supplied by a Method whose `derived` is '
            'credit.adapt_entropy_coef(...)')
      factor = rollout.extras['entropy_coef'][:, None]
    loss = -base.weighted_sum(factor * entropy, weights, mask)
    metrics = {
        'loss/entropy': base.loss_metric(loss, weights),
        'entropy': base.mean_metric(entropy, mask & (weights != 0)),
    }
    return loss, metrics

  return Loss(apply, frozenset({'entropy'}))
