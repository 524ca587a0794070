"""VERL, Velocity-Exploiting Rank-Learning (not the framework of that name).

"Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for LLM
Reasoning in RLVR", Fanding Huang, Guanbo Huang, Xiao Fan, Yi He, Xiao Liang,
Xiao Chen, Qinting Jiang, Faisal Nadeem Khan, Jingyan Jiang, Zhi Wang, 2025,
arXiv:2509.23808.

GRPO with a bonus for responses whose hidden states spread over more directions
than usual. ER, the effective rank of a response's last hidden states, stands
for exploration; ERV, how it grows from window to window, for exploitation; and
ERA, how that growth changes, decides which of the two is rewarded:

  d_k = clip((x_k − μ_k) / |μ_k|, ±5),  u = sigmoid(gain·d_ERA)
  Φ = u·tanh(d_ER) + (1 − u)·tanh(d_ERV)
  A ← A + min(max(Φ, 0), |A| / κ)

μ_k is a running mean of the batches' means, two batches behind. The bonus is
never negative and for κ > 1 never changes a sign.

Equals grpo with the same loss when `scale` is 0.

Differs from the authors' code: μ begins as the mean of the first batch, which
so has a bonus already; theirs begins at 0, and the first batches saturate
(`start='zero'`). The bonus is on every chosen token, as in the paper; theirs is
on the last one (`place='last'`), and their published script switches it off.
ER too is of the last 512 tokens, theirs of all (`rank_of_all=True`). Singular
values, not their fast path through the Gram matrix.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.types import Array, CreditTransform, Method, read_extra

PLACES = ('sequence', 'last')


def add_rank_bonus(
    *,
    stride: int = 40,
    last_tokens: int = 512,
    rank_of_all: bool = False,
    gain: float = 2.,
    explore: tuple = (0., 0., 1.),
    exploit: tuple = (0., 1., 0.),
    mix: str = 'tendency',
    kappa: float = 2.,
    scale: float = 1.,
    fixed_scale: bool = True,
    rate: float = 0.3,
    start: str = 'batch',
    place: str = 'sequence',
    max_deviation: float = 5.,
) -> CreditTransform:
  """Aₜ + min(max(Φ, 0), |Aₜ| / κ).

  Args:
    stride: tokens between two windows of a response.
    last_tokens: only so many tokens of a response are looked at, its last.
    rank_of_all: ER, but not its growth, is of the whole response.
    gain: how sharply the acceleration decides between ER and ERV.
    explore: weights of ERA, ERV and ER where the rank accelerates.
    exploit: weights where it slows down.
    mix: 'tendency', 'even' or 'sum', as in `ops.rank_signal`.
    kappa: κ.
    scale: λ of Φ.
    fixed_scale: False multiplies it by 1 − (r + 1) / 2, r the running mean of
      rewards.
    rate: a of the running means.
    start: 'batch' or 'zero', as in `ops.current_mean`.
    place: 'sequence', or 'last' for the last chosen token alone.
    max_deviation: limit of the relative deviations.

  Returns:
    A CreditTransform for advantages whose state is a `RankBaseline`; needs
    'hidden_states', and 'token_rewards' unless the scale is fixed. Metrics:
    the means over rows 'verl_hidden/rank', 'verl_hidden/velocity',
    'verl_hidden/acceleration' and 'verl_hidden/signal' (Φ), and over tokens
    'verl_hidden/bonus'.

  Raises:
    ValueError: an unknown `mix`, `start` or `place`, or a `stride`,
      `last_tokens`, `kappa` or `rate` out of range.

  Source: "Beyond the Exploration-Exploitation Trade-off: A Hidden State
    Approach for LLM Reasoning in RLVR", Huang et al., 2025, arXiv:2509.23808.
  """
  _check(place, kappa, rate)
  ops.check_windows(stride=stride, last=last_tokens)
  ops.check_controller(start=start, mix=mix, explore=explore, exploit=exploit)
  needs = {'hidden_states'} | (set() if fixed_scale else {'token_rewards'})
  dynamics = functools.partial(
      ops.rank_dynamics, stride=stride, last=last_tokens,
      rank_of_all=rank_of_all)
  controller = functools.partial(
      ops.rank_signal, gain=gain, explore=explore, exploit=exploit, mix=mix,
      limit=max_deviation)

  def measure(state, rollout):
    """What the rows have, what μ is, and Φ f32[B]."""
    seen = _measure(rollout, dynamics)
    mean, ready = ops.current_mean(state, seen.mean, start=start)
    factor = scale if fixed_scale else scale * (1 - (state.score + 1) / 2)
    signal = factor * controller(seen.indicators, mean)
    return seen, mean, jnp.where(seen.rows & ready, signal, 0)

  def bonus(x, signal, rollout):
    mask = credit.taking_part(rollout)
    added = ops.bounded_bonus(
        jnp.broadcast_to(signal[:, None], x.shape), x, kappa=kappa)
    return ops.fill(
        added, mask if place == 'sequence' else credit.last_chosen(mask))

  def update(x, state, rollout):
    seen, mean, signal = measure(state, rollout)
    score = 0. if fixed_scale else _mean_reward(seen.rows, rollout)
    after = ops.next_baseline(state, mean, seen.mean, score, rate=rate)
    # A batch without rows is none.
    state = jax.tree.map(
        lambda new, old: jnp.where(
            jnp.any(seen.rows), new, old).astype(old.dtype), after, state)
    return x + bonus(x, signal, rollout), state

  def metrics(x, state, rollout):
    seen, _, signal = measure(state, rollout)
    count = jnp.sum(seen.rows, dtype=jnp.float32)
    names = ('acceleration', 'velocity', 'rank', 'signal')
    columns = (*seen.indicators.T, signal)
    mask = credit.taking_part(rollout)
    return {
        **{f'verl_hidden/{name}': (ops.masked_sum(column, seen.rows), count)
           for name, column in zip(names, columns, strict=True)},
        'verl_hidden/bonus': (
            jnp.sum(bonus(x, signal, rollout)),
            ops.masked_sum(jnp.ones_like(x), mask))}

  return CreditTransform(
      ops.empty_baseline, update, frozenset(needs), metrics)


class _Seen(NamedTuple):
  """Indicators f32[B, 3] of a batch, their mean, and the rows that have any."""
  rows: Array
  indicators: Array
  mean: Array


def _measure(rollout, dynamics) -> _Seen:
  hidden = read_extra(rollout, 'hidden_states', 'add_rank_bonus')
  mask = credit.taking_part(rollout)
  rows = jnp.any(mask, axis=1)
  indicators = jnp.stack(dynamics(hidden, mask), axis=1)
  return _Seen(rows, indicators, ops.masked_mean(
      indicators, jnp.broadcast_to(rows[:, None], indicators.shape), axis=0))


def _mean_reward(rows, rollout):
  rewards = read_extra(rollout, 'token_rewards', 'add_rank_bonus')
  return ops.masked_mean(credit.row_rewards(rewards, rollout), rows)


def _check(place, kappa, rate):
  if place not in PLACES:
    raise ValueError(f'place is {place!r}; it must be one of {PLACES}')
  if kappa <= 0:
    raise ValueError(f'kappa is {kappa}; it must be more than 0')
  if not 0 <= rate <= 1:
    raise ValueError(f'rate is {rate}; it must lie in [0, 1]')


def verl_hidden(
    *,
    stride: int = 40,
    last_tokens: int = 512,
    rank_of_all: bool = False,
    gain: float = 2.,
    explore: tuple = (0., 0., 1.),
    exploit: tuple = (0., 1., 0.),
    mix: str = 'tendency',
    kappa: float = 2.,
    scale: float = 1.,
    fixed_scale: bool = True,
    rate: float = 0.3,
    start: str = 'batch',
    place: str = 'sequence',
    max_deviation: float = 5.,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.001,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    entropy_coef: float = 0.001,
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """VERL: GRPO with a bonus for hidden states of a growing effective rank.

  Args:
    stride: tokens between two windows of a response.
    last_tokens: only so many tokens of a response are looked at, its last.
    rank_of_all: ER, but not its growth, is of the whole response.
    gain: how sharply the acceleration decides between ER and ERV.
    explore: weights of ERA, ERV and ER where the rank accelerates.
    exploit: weights where it slows down.
    mix: 'tendency'; 'even' for the mean of both; 'sum' for their sum.
    kappa: κ: the bonus is at most |A| / κ.
    scale: λ of Φ; 0 switches the bonus off.
    fixed_scale: False multiplies it by 1 − (r + 1) / 2 with r the running mean
      of rewards in [−1, 1].
    rate: a of the running means.
    start: 'batch': μ begins as the first batch's mean; 'zero': as 0, and the
      first batch has no bonus.
    place: 'sequence', or 'last' for the last chosen token alone.
    max_deviation: limit of the relative deviations d.
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of the KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    entropy_coef: weight of the entropy bonus; with 0 no entropy is needed.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method; needs 'hidden_states'.

  Raises:
    ValueError: as `grpo` and `add_rank_bonus`.

  Source: "Beyond the Exploration-Exploitation Trade-off: A Hidden State
    Approach for LLM Reasoning in RLVR", Huang et al., 2025, arXiv:2509.23808.

  Example:
    >>> sorted(verl_hidden(beta=0.).advantages.needs)
    ['hidden_states']
  """
  terms = [losses.clipped_surrogate(
      clip_low, clip_high, dual_clip=dual_clip, old=old)]
  if beta:
    terms.append(losses.kl_penalty(beta, value=kl, gradient=kl_gradient))
  if entropy_coef:
    terms.append(losses.entropy_bonus(entropy_coef))
  return Method(
      rewards=credit.identity(),
      advantages=credit.chain(
          credit.group_standardize(std=std, eps=eps, singleton=singleton),
          add_rank_bonus(
              stride=stride, last_tokens=last_tokens, rank_of_all=rank_of_all,
              gain=gain, explore=explore, exploit=exploit, mix=mix,
              kappa=kappa, scale=scale, fixed_scale=fixed_scale, rate=rate,
              start=start, place=place, max_deviation=max_deviation)),
      weights=credit.aggregate(aggregation, length=max_tokens),
      loss=losses.add(*terms),
      plan=planning.uniform_prompts(),
      rollout=rollouts.sample_groups(),
      min_group=2)
