"""D³S, Dynamic Dual-Level Down-Sampling.

"Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for
Efficient Policy Optimization", Chao Wang, Tao Yang, Hongtao Tian, Yunsheng Shi,
Qiyao Ma, Xiaotao Liu, Ting Yao, Wenbo Ding, 2025, arXiv:2509.22115.

Only what teaches most is learnt from: the responses whose advantages differ
most from each other, and of those the tokens that the policy was unsure of:

  A = (R − mean of the group) / std of the group
  rows: the n rows of the batch with the largest variance of A
  tokens: of their tokens the fraction K with the largest |Aₜ|·Hₜ
  L = mean over the kept tokens of
      −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ)

n and K grow linearly with the progress of the run, so that less and less is
left out. Advantages are those of the whole batch and stay as they are.

Equals grpo with the same clip, aggregation 'token_mean' and beta=0 when
everything is kept.

Differs from the paper where it is not known: the fractions of rows, 0.25 to
0.75, and of tokens, 0.2 to 0.6, are ours. There is no authors' code to compare
with.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.credit import reports
from policyopt.names import check_name
from policyopt.types import CreditTransform, Method, read_extra


def keep_informative(
    *,
    rows_init: float = 0.25,
    rows_final: float = 0.75,
    tokens_init: float = 0.2,
    tokens_final: float = 0.6,
    scope: str = 'batch',
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
) -> CreditTransform:
  """Weight 0 outside the rows that differ most and their |Aₜ|·Hₜ's top.

  A fraction is `init` when the run begins and `final` when it ends. It stands
  before the aggregator; what an earlier transform left out is no candidate.

  Args:
    rows_init: fraction of the rows that is kept at first; at least one row is.
    rows_final: fraction of them at last.
    tokens_init: fraction of those rows' tokens at first; at least one is kept.
    tokens_final: fraction of them at last.
    scope: rows compete within the 'batch' or with their own 'prompt'.
    std: of A, 'sample', 'population' or 'none'.
    eps: added to that standard deviation.
    singleton: A of a group of one: 'zero' or 'raw'.

  Returns:
    A CreditTransform for weights; needs 'entropy', 'progress' and
    'token_rewards'. Metrics: 'd3s/rows' and 'd3s/tokens', the fractions of
    rows and tokens that are kept, and 'd3s/variance', that of A over the kept
    rows.

  Raises:
    ValueError: a fraction outside [0, 1], or an unknown `scope`, `std` or
      `singleton`.

  Source: "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework
    for Efficient Policy Optimization", Wang et al., 2025, arXiv:2509.22115.
  """
  fractions = dict(rows_init=rows_init, rows_final=rows_final,
                   tokens_init=tokens_init, tokens_final=tokens_final)
  for name, value in fractions.items():
    if not 0 <= value <= 1:
      raise ValueError(f'{name} is {value}; it must lie in [0, 1]')
  check_name('scope', scope, ('batch', 'prompt'))
  ops.check_rules(std=std, singleton=singleton)

  def fraction_now(level, rollout):
    progress = read_extra(rollout, 'progress', 'keep_informative')
    done = jnp.clip(jnp.max(progress), 0, 1)
    return ((1 - done) * fractions[f'{level}_init']
            + done * fractions[f'{level}_final'])

  def choose(x, rollout):
    """(A f32[B], candidate tokens, those of kept rows, kept tokens)."""
    earned = read_extra(rollout, 'token_rewards', 'keep_informative')
    entropy = read_extra(rollout, 'entropy', 'keep_informative')
    advantages = ops.group_standardize(
        credit.row_rewards(earned, rollout), rollout.group, std=std, eps=eps,
        singleton=singleton)
    tokens = credit.taking_part(rollout) & (x != 0)
    pool = jnp.zeros_like(rollout.group) if scope == 'batch' else rollout.group
    pool = jnp.where(jnp.any(tokens, axis=1), pool, -1)
    count = jnp.round(
        fraction_now('rows', rollout) * ops.segment_count(pool))
    rows = ops.max_variance_rows(advantages, pool, count)
    left = tokens & rows[:, None]
    score = jnp.abs(advantages)[:, None] * ops.fill(entropy, tokens)
    kept = ops.top_fraction(score, left, fraction_now('tokens', rollout))
    return advantages, tokens, left, kept

  def keep(x, rollout):
    return ops.fill(x, choose(x, rollout)[-1])

  def metrics(x, state, rollout):
    del state
    advantages, tokens, left, kept = choose(x, rollout)
    candidates, rows = jnp.any(tokens, axis=1), jnp.any(left, axis=1)
    return {
        'd3s/rows': reports.row_metric(rows, rollout, candidates),
        'd3s/tokens': (ops.masked_sum(kept, tokens),
                       ops.masked_sum(jnp.ones_like(kept), tokens)),
        'd3s/variance': reports.batch_metric(
            ops.masked_variance(advantages, rows, ddof=0), rollout)}

  return credit.stateless(
      keep, {'entropy', 'progress', 'token_rewards'}, metrics)


def d3s(
    *,
    rows_init: float = 0.25,
    rows_final: float = 0.75,
    tokens_init: float = 0.2,
    tokens_final: float = 0.6,
    scope: str = 'batch',
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    level: str = 'token',
    gradient: str = 'sequence',
    old: str = 'log_probs',
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """D³S: rows whose advantages differ most, and their uncertain tokens.

  Args:
    rows_init: fraction of the rows that is kept when the run begins; at least
      one row is.
    rows_final: fraction of them when it ends.
    tokens_init: fraction of those rows' tokens when the run begins; at least
      one is kept.
    tokens_final: fraction of them when it ends.
    scope: rows compete within the 'batch' or with their own 'prompt'.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    level: of the ratio, 'token', or 'sequence' as in `gspo`, whose clip range
      is far smaller.
    gradient: for level 'sequence', 'sequence' or 'token', as in `gspo`.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    aggregation: which mean of the kept tokens the loss is (see
      `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'entropy' and 'progress'.

  Raises:
    ValueError: a fraction outside [0, 1], or an unknown `scope`, `std`,
      `singleton`, `level`, `gradient`, `old` or `aggregation`.

  Source: "Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework
    for Efficient Policy Optimization", Wang et al., 2025, arXiv:2509.22115.

  Example:
    >>> sorted(d3s().weights.needs)
    ['entropy', 'progress', 'token_rewards']
  """
  return Method(
      rewards=credit.identity(),
      advantages=credit.group_standardize(
          std=std, eps=eps, singleton=singleton),
      weights=credit.chain(
          keep_informative(
              rows_init=rows_init, rows_final=rows_final,
              tokens_init=tokens_init, tokens_final=tokens_final, scope=scope,
              std=std, eps=eps, singleton=singleton),
          credit.aggregate(aggregation, length=max_tokens)),
      loss=losses.clipped_surrogate(
          clip_low, clip_high, dual_clip=dual_clip, level=level,
          gradient=gradient, old=old),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
