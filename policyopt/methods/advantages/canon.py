"""CANON, Conditional advANtage estimatiON.

"Conditional Advantage Estimation for Reinforcement Learning in Large Reasoning
Models", Guanxu Chen, Yafu Li, Yuxian Jiang, Chen Qian, Qihan Ren, Jingyi Yang,
Yu Cheng, Dongrui Liu, Jing Shao, 2025, arXiv:2509.23962.

A group is cut in two by a property of its responses, their entropy or their
length, and each response is compared with the other half and with its own. So
the property's effect on the reward is amplified, whatever its direction:

  A = μ·(R − mean of the other half) + (1 − μ)·(R − mean of the own half)
  L = mean over rows of Σₜ −min(ρₜAₜ, clip(ρₜ, 1 − ε, 1 + ε)·Aₜ) / max_tokens

A direction can be given: α < 1 scales the rewards of one half in the first
term, the longer responses or those of lower entropy, and `offset` moves both
halves apart. μ is constant, follows the batch's mean reward, or a cosine that
restarts after each of several cycles.

Equals dr_grpo when μ = ½, α = 1, offset = 0 and all groups are even.

Differs from the authors' code: a group of one gets 0 (singleton='raw' is
theirs); the mean reward that μ follows is kept within [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from policyopt import credit, ops
from policyopt.credit import reports
from policyopt.methods.base.dr_grpo import dr_grpo
from policyopt.names import check_name
from policyopt.types import Array, CreditTransform, Method, Rollout, read_extra

# Which half α scales: it is there to hold back long and certain responses.
_SCALED = {'entropy': 'low', 'length': 'high'}
_FIRST = ('inter', 'intra')


def cosine_restarts(
    *,
    total_steps: int = 150,
    warmup_steps: int = 30,
    cycles: int = 3,
    first: str = 'intra',
) -> Callable[[Array], Array]:
  """μ as a function of the step: a linear warm-up, then cosines that restart.

  c = top·(step + 1) / warmup_steps, later bottom + ½(top − bottom)(1 + cos πx)
  with x in [0, 1) the place within the cycle; μ = c between 1 and 0.4 with
  first='inter' and μ = 1 − c with c between 0.6 and 0 with first='intra'.

  Args:
    total_steps: warm-up and all cycles.
    warmup_steps: of the warm-up.
    cycles: after the warm-up.
    first: the comparison that each cycle begins with, 'inter' or 'intra'.

  Returns:
    i32[] step -> f32[].

  Raises:
    ValueError: a cycle shorter than a step, or an unknown `first`.

  Source: "Conditional Advantage Estimation for Reinforcement Learning in Large
    Reasoning Models", Chen et al., 2025, arXiv:2509.23962.

  Example:
    >>> mu = cosine_restarts(first='inter')
    >>> [round(float(mu(jnp.asarray(step))), 3) for step in (0, 29, 50, 70)]
    [0.033, 1.0, 0.7, 1.0]
  """
  check_name('first comparison', first, _FIRST)
  if warmup_steps < 0 or cycles < 1 or total_steps - warmup_steps < cycles:
    raise ValueError(
        f'total_steps is {total_steps}, warmup_steps {warmup_steps} and cycles '
        f'{cycles}; every cycle needs at least one step after the warm-up')
  length = (total_steps - warmup_steps) // cycles
  top, bottom = (1., 0.4) if first == 'inter' else (0.6, 0.)

  def mu(step):
    place = jnp.maximum(step - warmup_steps, 0) % length / length
    cosine = bottom + 0.5 * (top - bottom) * (1 + jnp.cos(jnp.pi * place))
    rising = top * (step + 1) / max(warmup_steps, 1)
    value = jnp.where(step < warmup_steps, rising, cosine)
    return value if first == 'inter' else 1 - value

  return mu


def mean_reward(x: Array, rollout: Rollout, *, first: str = 'intra') -> Array:
  """μ from the batch: its mean reward, so that success moves it.

  Args:
    x: f32[B, T], token rewards.
    rollout: the rollout.
    first: 'intra' gives the mean reward itself, kept within [0, 1]; 'inter'
      gives 1 minus that.

  Returns:
    f32[].

  Raises:
    ValueError: an unknown `first`.
  """
  check_name('first comparison', first, _FIRST)
  rows = rollout.group >= 0
  mean = ops.masked_mean(credit.row_rewards(x, rollout), rows)
  mean = jnp.clip(mean, 0, 1)
  return mean if first == 'intra' else 1 - mean


def compare_halves(
    *,
    metric: str = 'entropy',
    mu: float | Array | Callable[[Array, Rollout], Array] = 1.,
    alpha: float = 1.,
    offset: float = 0.,
    singleton: str = 'zero',
) -> CreditTransform:
  """Aₜ = μ·(R − mean of the other half) + (1 − μ)·(R − mean of the own half).

  Args:
    metric: 'entropy', the row's mean token entropy, or 'length', its number of
      chosen tokens; of equal rows the earlier ones count as lower.
    mu: μ in [0, 1], or (token rewards, rollout) -> μ.
    alpha: scales, in the first term, the rewards of the half with the lower
      entropy or the longer rows.
    offset: what the upper half gains, in the first term, on the lower one.
    singleton: what a group of one gets: 'zero' or 'raw'.

  Returns:
    A CreditTransform for advantages; needs 'entropy' if that is the metric.
    Metrics: 'canon/mu', and means over the prompts with two halves of
    'canon/high_minus_low', by how much the upper half earned more, and
    'canon/gap', its absolute value.

  Raises:
    ValueError: an unknown `metric` or `singleton`.

  Source: "Conditional Advantage Estimation for Reinforcement Learning in Large
    Reasoning Models", Chen et al., 2025, arXiv:2509.23962.
  """
  check_name('metric', metric, _SCALED)
  ops.check_rules(singleton=singleton)

  def upper(rollout):
    mask = credit.taking_part(rollout)
    if metric == 'length':
      measured = jnp.sum(mask, axis=1)
    else:
      measured = ops.masked_mean(
          read_extra(rollout, 'entropy', 'compare_halves'), mask, axis=1)
    return ops.upper_half(measured, rollout.group)

  def mixture(x, rollout):
    return mu(x, rollout) if callable(mu) else jnp.asarray(mu, jnp.float32)

  def compare(x, rollout):
    advantages = ops.conditional_advantages(
        credit.row_rewards(x, rollout), upper(rollout), rollout.group,
        mu(x, rollout) if callable(mu) else mu, alpha=alpha, offset=offset,
        scaled=_SCALED[metric], singleton=singleton)
    return credit.spread_rows(advantages, rollout)

  def metrics(x, state, rollout):
    del state
    high, group = upper(rollout), rollout.group
    low_mean, high_mean = (
        ops.segment_level(mean, group) for mean in ops.half_means(
            credit.row_rewards(x, rollout), high, group))
    gap, two = high_mean - low_mean, ops.segment_count(group) > 1
    return {
        'canon/mu': reports.batch_metric(mixture(x, rollout), rollout),
        'canon/gap': reports.prompt_metric(jnp.abs(gap), rollout, two),
        'canon/high_minus_low': reports.prompt_metric(gap, rollout, two)}

  needs = {'entropy'} if metric == 'entropy' else ()
  return credit.stateless(compare, needs, metrics)


def canon(
    *,
    max_tokens: int,
    metric: str = 'entropy',
    mu: float = 1.,
    schedule: str = 'constant',
    first: str = 'intra',
    total_steps: int = 150,
    warmup_steps: int = 30,
    cycles: int = 3,
    alpha: float = 1.,
    offset: float = 0.,
    singleton: str = 'zero',
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
) -> Method:
  """CANON: each half of a group compared with the other and with itself.

  Args:
    max_tokens: the constant of the mean, the longest response allowed.
    metric: what cuts the group, 'entropy' or 'length'.
    mu: μ of the schedule 'constant': 1 compares with the other half only, 0
      with the own half only.
    schedule: of μ: 'constant', 'accuracy' (the batch's mean reward) or
      'cosine' (see `cosine_restarts`).
    first: what the other schedules begin with, 'inter' or 'intra'.
    total_steps: of the schedule 'cosine'.
    warmup_steps: of the schedule 'cosine'.
    cycles: of the schedule 'cosine'.
    alpha: scales, in the first term, the rewards of the half with the lower
      entropy or the longer rows; the paper's best for length is 0.88.
    offset: what the upper half gains, in the first term, on the lower one.
    singleton: what a group of one gets: 'zero' or 'raw'.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.

  Returns:
    A Method; needs 'entropy' if that is the metric.

  Raises:
    ValueError: an unknown `metric`, `schedule` or `first`, `mu` outside
      [0, 1], cycles without a step, or as `dr_grpo`.

  Source: "Conditional Advantage Estimation for Reinforcement Learning in Large
    Reasoning Models", Chen et al., 2025, arXiv:2509.23962.

  Example:
    >>> sorted(canon(max_tokens=64).advantages.needs)
    ['entropy']
  """
  check_name('schedule', schedule, ('constant', 'accuracy', 'cosine'))
  check_name('first comparison', first, _FIRST)
  if not 0 <= mu <= 1:
    raise ValueError(f'mu is {mu}; it must lie in [0, 1]')

  def halves(mu):
    return compare_halves(
        metric=metric, mu=mu, alpha=alpha, offset=offset, singleton=singleton)

  if schedule == 'cosine':
    advantages = credit.scheduled(halves, mu=cosine_restarts(
        total_steps=total_steps, warmup_steps=warmup_steps, cycles=cycles,
        first=first))
  elif schedule == 'accuracy':
    advantages = halves(
        lambda x, rollout: mean_reward(x, rollout, first=first))
  else:
    advantages = halves(mu)
  method = dr_grpo(
      max_tokens=max_tokens, clip_low=clip_low, clip_high=clip_high,
      dual_clip=dual_clip, old=old)
  return method._replace(advantages=advantages)
