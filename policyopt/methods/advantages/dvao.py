"""DVAO, Dynamic Variance-adaptive Advantage Optimization.

"DVAO: Dynamic Variance-adaptive Advantage Optimization for Multi-reward
Reinforcement Learning", 2026, arXiv:2605.25604.

Several rewards are standardised within the group one by one, and weigh by how
much each tells the group's rows apart there:

  A = Σₖ w̃ₖ·(Rₖ − μₖ) / σₖ,  w̃ₖ = wₖσₖ / Σₗ wₗσₗ
    = Σₖ wₖ(Rₖ − μₖ) / (Σₗ wₗσₗ + eps)

A reward that is the same for the whole group drops out, and A is never larger
in size than what standardising the weighted sum would give.

Equals grpo with the population's standard deviation for one channel.
combine='rewards' and 'advantages' are the paper's baselines: the standardised
weighted sum, and the sum of standardised channels with fixed weights wₖ / Σ w.

There is no code by the authors. Whether w̃ goes by the standard deviation or by
the variance is not quite clear; the stated bounds hold for the former, and for
the population's. The loss is not known either: plain clip, token mean, no KL.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from policyopt import credit, ops
from policyopt.credit import reports
from policyopt.methods.base.grpo import grpo
from policyopt.names import check_name
from policyopt.types import CreditTransform, Method

COMBINATIONS = ('adaptive', 'rewards', 'advantages')


def combine_channels(
    *,
    channels: Sequence[str] | None = None,
    channel_weights: Sequence[float] | None = None,
    combine: str = 'adaptive',
    std: str = 'population',
    eps: float = 1e-8,
) -> CreditTransform:
  """Aₜ from several reward channels on every chosen token; see `dvao`.

  It reads the channels as the environment gave them: what transforms of the
  reward change is not seen.

  Args:
    channels: names of reward channels; all, in alphabetical order, when None.
    channel_weights: one w ≥ 0 for each; all 1 when None.
    combine: 'adaptive', 'rewards' or 'advantages'.
    std: 'population' or 'sample'.
    eps: added to the denominator.

  Returns:
    A CreditTransform for advantages. Metrics: 'dvao/weight/NAME', the mean of
    w̃ over prompts whose rows differ in some channel.

  Raises:
    ValueError: an unknown `combine` or `std`, or weights that are negative,
      all 0 or not as many as the channels; at update, an unknown channel.

  Source: "DVAO: Dynamic Variance-adaptive Advantage Optimization for
    Multi-reward Reinforcement Learning", 2026, arXiv:2605.25604.
  """
  check_name('combine', combine, COMBINATIONS)
  check_name('std', std, ('population', 'sample'))
  if channels is not None:
    _check_weights(len(channels), channel_weights)
  elif channel_weights is not None:
    _check_weights(len(channel_weights), channel_weights)

  def read(rollout):
    """(names, rewards f32[K, B], weights f32[K])."""
    rewards = credit.environment_rewards(
        rollout, channels, reader='combine_channels')
    _check_weights(len(rewards), channel_weights)
    weights = [1.] * len(rewards) if channel_weights is None else (
        list(channel_weights))
    stacked = jnp.stack(list(rewards.values()))
    return list(rewards), stacked, jnp.asarray(weights, stacked.dtype)

  def combined(x, rollout):
    del x
    _, rewards, weights = read(rollout)

    def standardized(one_channel):
      return ops.group_standardize(one_channel, rollout.group, std=std, eps=eps)

    if combine == 'adaptive':
      advantages = ops.spread_weighted(
          rewards, rollout.group, weights, std=std, eps=eps)
    elif combine == 'rewards':
      advantages = standardized(weights @ rewards)
    else:
      advantages = weights / weights.sum() @ jax.vmap(standardized)(rewards)
    return credit.spread_rows(advantages, rollout)

  def metrics(x, state, rollout):
    del x, state
    names, rewards, weights = read(rollout)
    shares = ops.spread_weights(
        rewards, rollout.group, weights, std=std, eps=eps)
    differ = jnp.any(shares > 0, axis=1)
    return {f'dvao/weight/{name}': reports.prompt_metric(
        shares[:, k], rollout, differ) for k, name in enumerate(names)}

  return credit.stateless(combined, metrics=metrics)


def _check_weights(count, weights):
  if weights is None:
    return
  if len(weights) != count:
    raise ValueError(
        f'channel_weights has {len(weights)} numbers for {count} channels')
  if min(weights, default=0) < 0 or not max(weights, default=0) > 0:
    raise ValueError(
        f'channel_weights is {tuple(weights)}; none may be negative and one '
        'must be positive')


def dvao(
    *,
    channels: tuple[str, ...] | None = None,
    channel_weights: tuple[float, ...] | None = None,
    combine: str = 'adaptive',
    std: str = 'population',
    eps: float = 1e-8,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    old: str = 'log_probs',
    beta: float = 0.,
    kl: str = 'k3',
    kl_gradient: str | None = None,
    aggregation: str = 'token_mean',
    max_tokens: int | None = None,
) -> Method:
  """DVAO: A = Σ wₖ(Rₖ − μₖ) / Σ wₖσₖ over the reward channels.

  Args:
    channels: names of reward channels; all, in alphabetical order, when None.
    channel_weights: one w ≥ 0 for each; all 1 when None.
    combine: 'adaptive', or 'rewards' or 'advantages' for the baselines.
    std: 'population' or 'sample'.
    eps: added to the denominator.
    clip_low: how far the ratio may fall below 1.
    clip_high: how far the ratio may rise above 1.
    dual_clip: bound c on the ratio where the advantage is negative, or None.
    old: 'log_probs' or 'old_log_probs', as in `grpo`.
    beta: β of a KL term; with 0 no reference model is needed.
    kl: estimator of its value, 'k1', 'k2', 'k3' or 'abs'.
    kl_gradient: estimator of its gradient; as `kl` when None.
    aggregation: which mean the loss is (see `credit.aggregate`).
    max_tokens: length of the aggregation 'constant_length'.

  Returns:
    A Method.

  Raises:
    ValueError: as `combine_channels` and `grpo`.

  Source: "DVAO: Dynamic Variance-adaptive Advantage Optimization for
    Multi-reward Reinforcement Learning", 2026, arXiv:2605.25604.

  Example:
    >>> sorted(dvao(channels=('accuracy', 'brevity')).loss.needs)
    []
  """
  method = grpo(
      clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, old=old,
      beta=beta, kl=kl, kl_gradient=kl_gradient, aggregation=aggregation,
      max_tokens=max_tokens)
  return method._replace(advantages=combine_channels(
      channels=channels, channel_weights=channel_weights, combine=combine,
      std=std, eps=eps))
