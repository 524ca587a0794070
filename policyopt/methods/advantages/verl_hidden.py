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

import jax
import jax.numpy as jnp

from policyopt import credit, losses, ops, planning, rollouts
from policyopt.types import CreditTransform, Method, read_extra

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
  """Aₜ + min(max(Φ, 0), |Aₜ| / κ); see `verl_hidden` for the arguments.

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

  def measure(state, rollout):
    """(rows bool[B], indicators f32[B, 3], their mean, μ, Φ f32[B])."""
    hidden = read_extra(rollout, 'hidden_states', 'add_rank_bonus')
    mask = credit.taking_part(rollout)
    rows = jnp.any(mask, axis=1)
    indicators = jnp.stack(ops.rank_dynamics(
        hidden, mask, stride=stride, last=last_tokens,
        rank_of_all=rank_of_all), axis=1)
    batch_mean = ops.masked_mean(
        indicators, jnp.broadcast_to(rows[:, None], indicators.shape), axis=0)
    mean, ready = ops.current_mean(state, batch_mean, start=start)
    signal = ops.rank_signal(
        indicators, mean, gain=gain, explore=explore, exploit=exploit, mix=mix,
        limit=max_deviation)
    factor = scale if fixed_scale else scale * (1 - (state.score + 1) / 2)
    signal = jnp.where(rows & ready, factor * signal, 0)
    return rows, indicators, batch_mean, mean, signal

  def bonus(x, signal, rollout):
    added = ops.bounded_bonus(jnp.broadcast_to(signal[:, None], x.shape), x,
                      kappa=kappa)
    mask = credit.taking_part(rollout)
    return ops.fill(
        added, mask if place == 'sequence' else credit.last_chosen(mask))

  def update(x, state, rollout):
    rows, _, batch_mean, mean, signal = measure(state, rollout)
    score = jnp.zeros(())
    if not fixed_scale:
      rewards = read_extra(rollout, 'token_rewards', 'add_rank_bonus')
      score = ops.masked_mean(credit.row_rewards(rewards, rollout), rows)
    after = ops.next_baseline(state, mean, batch_mean, score, rate=rate)
    # A batch without rows is none.
    state = jax.tree.map(
        lambda new, old: jnp.where(
            jnp.any(rows), new, old).astype(old.dtype), after, state)
    return x + bonus(x, signal, rollout), state

  def metrics(x, state, rollout):
    rows, indicators, _, _, signal = measure(state, rollout)
    count = jnp.sum(rows, dtype=jnp.float32)
    names = ('acceleration', 'velocity', 'rank', 'signal')
    columns = (*indicators.T, signal)
    added = bonus(x, signal, rollout)
    mask = credit.taking_part(rollout)
    return {
        **{f'verl_hidden/{name}': (ops.masked_sum(column, rows), count)
           for name, column in zip(names, columns, strict=True)},
        'verl_hidden/bonus': (
            jnp.sum(added), ops.masked_sum(jnp.ones_like(added), mask))}

  return CreditTransform(
      ops.empty_baseline, update, frozenset(needs), metrics)


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
