"""KL-Cov: the tokens of highest covariance pay for moving.

"The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
Ganqu Cui et al., 2025, arXiv:2505.22617.

As clip_cov, but the tokens are the top of the covariance rather than drawn, and
keep their gradient at a price. Nothing is clipped:

  covₜ = (Aₜ − Ā)·(log π(yₜ) − mean log π)
  D = the max(1, ⌊r·N⌋) tokens with the largest covₜ
  L = (1 / N) Σ over all N tokens of −ρₜAₜ + [t in D]·coef·|log ρₜ|

Equals grpo(beta=0, aggregation='token_mean') without a clip for coef = 0.

Differs from the authors' code: D is chosen once of the whole batch, from the
log-probabilities at sampling, so that microbatches change nothing; they choose
in each microbatch from the current ones. log ρ is kept within ±20 in ρ. Their
configuration has coef = 0.1, their docstring says 1.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, planning, rollouts
from policyopt.ops import masking, selection
from policyopt.ops.surrogates import covariance
from policyopt.types import CreditTransform, Method

CHARGED = 'covariance_charged'


def charge_covariant_tokens(fraction: float) -> CreditTransform:
  """Marks the tokens with the largest covariance; see the module.

  Args:
    fraction: r, of all tokens of the batch; at least one is marked.

  Returns:
    A CreditTransform for `Method.derived`, of advantages: it supplies
    'covariance_charged', bool[B, T]. Metrics: 'covariance' (its mean over the
    tokens) and 'kl_cov/covariance' (over the marked ones).

  Raises:
    ValueError: `fraction` is not in [0, 1].

  Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning
    Language Models", Cui et al., 2025, arXiv:2505.22617.
  """
  if not 0 <= fraction <= 1:
    raise ValueError(f'fraction is {fraction}; it must lie in [0, 1]')

  def choose(advantages, rollout):
    mask = credit.taking_part(rollout)
    cov = covariance.token_covariance(advantages, rollout.log_probs, mask)
    count = covariance.fraction_of_tokens(mask, fraction)
    return mask, cov, selection.first_tokens(mask, -cov, count)

  def update(advantages, state, rollout):
    return {CHARGED: choose(advantages, rollout)[2]}, state

  def metrics(advantages, state, rollout):
    del state
    mask, cov, charged = choose(advantages, rollout)
    ones = jnp.ones(mask.shape, jnp.float32)
    return {'covariance': (masking.masked_sum(cov, mask),
                           masking.masked_sum(ones, mask)),
            'kl_cov/covariance': (masking.masked_sum(cov, charged),
                                  masking.masked_sum(ones, charged))}

  return CreditTransform(lambda: (), update, frozenset(), metrics)


def kl_cov(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    fraction: float = 2e-4,
    coef: float = 0.1,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """KL-Cov: a price on moving the tokens that lower the entropy most.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    fraction: r, the share of all tokens that pays; at least one token.
    coef: price of |log ρ|.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: `fraction` is not in [0, 1], or an unknown `old` or
      `aggregation`.

  Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning
    Language Models", Cui et al., 2025, arXiv:2505.22617.

  Example:
    >>> sorted(kl_cov().loss.needs)
    []
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.kl_on_tokens_surrogate(CHARGED, coef, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      derived=charge_covariant_tokens(fraction),
      min_group=2)
