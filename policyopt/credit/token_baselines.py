"""Advantages against a baseline that differs from token to token."""

from __future__ import annotations

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.advantages import taking_part
from policyopt.names import check_name
from policyopt.ops import masking, normalizers, returns, segments
from policyopt.ops.estimators import token_baselines
from policyopt.types import CreditTransform, read_extra


def subtract_token_baseline(
    *,
    variant: str = 'position',
    tail: str = 'alone',
    eps: float = 1e-8,
    singleton: str = 'zero',
    old: str = 'log_probs',
) -> CreditTransform:
  """Aₜ = Gₜ − Bₜ, Bₜ the mean return at t weighted by gradient energy so far.

  B = Σ GW / (Σ W + eps) over the tokens of the group at the same position, W
  the sum of 1 − 2π(y) + Σ_v π(v)² over a row's tokens up to there.

  Args:
    variant: which tokens are compared: 'position' those equally far from the
      first chosen token of their row, 'valid' those with as many chosen
      tokens before them, for rows with observations.
    tail: where B is 0: 'alone', 'length' or 'none' (see
      `ops.optimal_token_baseline`).
    eps: added to the sum of W.
    singleton: what a group of one gets: 'zero', or 'raw' for its return.
    old: whose probabilities π are: 'log_probs', the sampler's, or
      'old_log_probs', the learner's before its update.

  Returns:
    A CreditTransform for advantages; needs 'sum_squared_probs'.

  Raises:
    ValueError: an unknown `variant`, `tail`, `singleton` or `old`.

  Source: "The Optimal Token Baseline: Variance Reduction for Long-Horizon
    LLM-RL", Li et al., 2026, arXiv:2602.07078.
  """
  check_name('variant', variant, token_baselines.VARIANTS)
  check_name('tail', tail, token_baselines.TAILS)
  normalizers.check_rules(singleton=singleton)
  check_name('old', old, ('log_probs', 'old_log_probs'))
  reader = 'subtract_token_baseline'

  def subtract(x, rollout):
    squares = read_extra(rollout, 'sum_squared_probs', reader)
    log_probs = rollout.log_probs if old == 'log_probs' else read_extra(
        rollout, old, reader)
    mask = taking_part(rollout)
    # Of two passes that round apart the energy could fall below 0.
    energy = jnp.maximum(token_baselines.gradient_energy(
        masking.fill(log_probs, mask), masking.fill(squares, mask)), 0)
    to_go = returns.discounted_returns(x, mask)
    baseline = token_baselines.optimal_token_baseline(
        to_go, energy, mask, rollout.group,
        token_baselines.token_positions(mask, variant), tail=tail, eps=eps)
    advantages = to_go - baseline
    if singleton == 'raw':
      return advantages
    members = segments.gather(
        segments.segment_count(rollout.group), rollout.group)
    return jnp.where((members == 1)[:, None], 0, advantages)

  return base.stateless(
      subtract, {'sum_squared_probs'} | ({old} - {'log_probs'}))
