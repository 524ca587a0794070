"""Clip-Cov: a few tokens of high covariance sit an update out.

"The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
Ganqu Cui et al., 2025, arXiv:2505.22617.

A policy gradient lowers the entropy by the covariance of log-probability and
advantage, and very few tokens make most of it. A small random share of those
whose covariance lies in a range gets no gradient:

  covₜ = (Aₜ − Ā)·(log π(yₜ) − mean log π)
  D = max(1, ⌊r·N⌋) tokens, drawn from those with c_low < covₜ < c_high
  L = (1 / N) Σ over all N tokens not in D of
      −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ)

Equals grpo(beta=0, aggregation='token_mean') when no covariance is in range.

Differs from the authors' code: D is drawn once of the whole batch, from the
log-probabilities at sampling, so that microbatches change nothing; they draw in
each microbatch from the current ones, and leave out what PPO clips there. The
draw hangs on what the rows say and not on where they stand.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt import credit, losses, planning, rollouts
from policyopt.ops import masking, selection
from policyopt.ops.surrogates import covariance
from policyopt.types import Array, CreditTransform, Method, Rollout

DROPPED = 'covariance_dropped'


class DrawState(NamedTuple):
  """State of `drop_covariant_tokens`.

  Attributes:
    seed: u32[], of the draws.
    count: i32[], draws made.
  """
  seed: Array
  count: Array


def drop_covariant_tokens(
    fraction: float,
    cov_low: float,
    cov_high: float,
    *,
    seed: int = 0,
) -> CreditTransform:
  """Draws tokens whose covariance is in a range; see the module.

  Args:
    fraction: r, of all tokens of the batch; at least one is drawn.
    cov_low: lower end of the range, exclusive.
    cov_high: upper end, exclusive.
    seed: of the draws.

  Returns:
    A CreditTransform for `Method.derived`, of advantages: it supplies
    'covariance_dropped', bool[B, T]. Metrics: 'covariance' (its mean over the
    tokens), 'clip_cov/candidates' and 'clip_cov/dropped' (shares of them).

  Raises:
    ValueError: `fraction` is not in [0, 1].

  Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning
    Language Models", Cui et al., 2025, arXiv:2505.22617.
  """
  if not 0 <= fraction <= 1:
    raise ValueError(f'fraction is {fraction}; it must lie in [0, 1]')

  def init():
    return DrawState(jnp.asarray(seed, jnp.uint32), jnp.zeros((), jnp.int32))

  def draw(advantages: Array, state: DrawState, rollout: Rollout):
    mask = credit.taking_part(rollout)
    cov = covariance.token_covariance(advantages, rollout.log_probs, mask)
    candidates = mask & (cov > cov_low) & (cov < cov_high)
    key = jax.random.fold_in(jax.random.key(state.seed), state.count)
    words = covariance.token_words(
        key, rollout.tokens, rollout.log_probs, mask)
    count = covariance.fraction_of_tokens(mask, fraction)
    dropped = selection.first_tokens(candidates, words, count)
    return mask, cov, candidates, dropped

  def update(advantages, state, rollout):
    *_, dropped = draw(advantages, state, rollout)
    return {DROPPED: dropped}, state._replace(count=state.count + 1)

  def metrics(advantages, state, rollout):
    mask, cov, candidates, dropped = draw(advantages, state, rollout)
    ones = jnp.ones(mask.shape, jnp.float32)
    total = masking.masked_sum(ones, mask)
    return {
        'covariance': (masking.masked_sum(cov, mask), total),
        'clip_cov/candidates': (masking.masked_sum(ones, candidates), total),
        'clip_cov/dropped': (masking.masked_sum(ones, dropped), total)}

  return CreditTransform(init, update, frozenset(), metrics)


def clip_cov(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    fraction: float = 2e-4,
    cov_low: float = 1.,
    cov_high: float = 5.,
    seed: int = 0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """Clip-Cov: no gradient for a few tokens that would lower the entropy most.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    fraction: r, the share of all tokens that is drawn; at least one token.
    cov_low: lower end of the range of covariances they are drawn from.
    cov_high: upper end.
    seed: of the draws.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far it may rise above 1.
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
    >>> int(clip_cov(seed=7).derived.init().seed)
    7
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.without_tokens_surrogate(
          DROPPED, clip_low, clip_high, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      derived=drop_covariant_tokens(
          fraction, cov_low, cov_high, seed=seed),
      min_group=2)
