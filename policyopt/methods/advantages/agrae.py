"""A-GRAE, asymmetric group-relative advantage estimation.

"Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with Exploration and
Difficulty Adaptation", 2026, arXiv:2602.05548.

GRPO gives the right and the wrong answers of a group the same total weight,
and prompts of medium difficulty the most of it. Here ω, the mean success of
the batch, decides instead. Hard prompts count more the more able the policy
is, and as long as it is not, right answers are held back so that it explores:

  Âₜ = γ·(ω / √p + (1 − ω) / √(1 − p))·A of grpo, γ = 1/2
  Aₜ = Âₜ·min(1, ω / α) where Âₜ > 0, else Âₜ

p is the success rate of the prompt. Rewards are right or wrong, 1 or 0.

Equals grpo when focus='none' and alpha=0; at p = 1/2 Â is grpo's over √2
whatever ω is, and from ω ≥ α on A = Â. focus='hard' or 'easy' and the factors
`positive` and `negative` (10 for one of them) are the paper's ablations.

Differs from the authors' code: there the second root is 1 − √p, and ω the mean
of the prompts' rates (reading='release'); and its trainer never reaches this
branch. A group of one gets 0 here. It composes with any base: see
`refocus_on_difficulty`.
"""

from __future__ import annotations

import jax.numpy as jnp

from policyopt import credit, ops
from policyopt.credit import reports
from policyopt.methods.base.grpo import grpo
from policyopt.names import check_name
from policyopt.ops.estimators import difficulty
from policyopt.types import CreditTransform, Method


def refocus_on_difficulty(
    *,
    alpha: float = 1.,
    focus: str = 'both',
    gamma: float = 0.5,
    positive: float = 1.,
    negative: float = 1.,
    reading: str = 'paper',
    eps: float = 1e-6,
    channel: str | None = None,
) -> CreditTransform:
  """Aₜ by the difficulty of its prompt and its sign; see `agrae`.

  Args:
    alpha: α, the ω from which right answers count in full; 0: always.
    focus: 'both', 'hard', 'easy' or 'none' (see `ops.difficulty_weights`).
    gamma: γ.
    positive: further factor where A > 0.
    negative: further factor where A < 0.
    reading: 'paper', or 'release' for the authors' code.
    eps: of the reading 'release' alone.
    channel: the reward channel that says what is right; their sum when None.

  Returns:
    A CreditTransform for advantages, to follow a base such as
    `group_standardize`. Metrics: 'agrae/omega' and 'agrae/damping',
    min(1, ω / α).

  Raises:
    ValueError: a negative `alpha`, or an unknown `focus` or `reading`.

  Source: "Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with
    Exploration and Difficulty Adaptation", 2026, arXiv:2602.05548.
  """
  if not alpha >= 0:
    raise ValueError(f'alpha is {alpha}; it must be 0 or more')
  check_name('focus', focus, difficulty.FOCUSES)
  check_name('reading', reading, difficulty.READINGS)
  release = reading == 'release'

  def able(rollout):
    """(success f32[B], ω f32[], min(1, ω / α) f32[])."""
    success = credit.row_success(
        rollout, channel, reader='refocus_on_difficulty')
    omega = ops.competence(
        success, rollout.group, over='prompts' if release else 'rows')
    damping = jnp.minimum(1, omega / alpha) if alpha else jnp.ones_like(omega)
    return success, omega, damping

  def refocus(x, rollout):
    success, omega, damping = able(rollout)
    rates, _ = ops.success_rates(
        success, rollout.group, singleton='raw' if release else 'zero')
    weights = ops.difficulty_weights(
        rates, omega, focus=focus, gamma=gamma, reading=reading, eps=eps)
    x = x * ops.gather(weights, rollout.group)[:, None]
    return x * jnp.where(x > 0, positive * damping, negative)

  def metrics(x, state, rollout):
    del x, state
    _, omega, damping = able(rollout)
    return {'agrae/omega': reports.batch_metric(omega, rollout),
            'agrae/damping': reports.batch_metric(damping, rollout)}

  return credit.stateless(refocus, metrics=metrics)


def agrae(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    alpha: float = 1.,
    focus: str = 'both',
    gamma: float = 0.5,
    positive: float = 1.,
    negative: float = 1.,
    reading: str = 'paper',
    channel: str | None = None,
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
  """A-GRAE: grpo's advantage by difficulty, right answers held back at first.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to the standard deviation.
    singleton: what a group of one gets: 'zero' or 'raw'.
    alpha: α, the ω from which right answers count in full; 0: always.
    focus: 'both', 'hard', 'easy' or 'none', which prompts count more.
    gamma: γ, the factor of both difficulty terms.
    positive: further factor where A > 0.
    negative: further factor where A < 0.
    reading: 'paper', or 'release' for the authors' code.
    channel: the reward channel that says what is right; their sum when None.
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
    ValueError: as `refocus_on_difficulty` and `grpo`.

  Source: "Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with
    Exploration and Difficulty Adaptation", 2026, arXiv:2602.05548.

  Example:
    >>> sorted(agrae().loss.needs)
    []
  """
  method = grpo(
      std=std, eps=eps, singleton=singleton, clip_low=clip_low,
      clip_high=clip_high, dual_clip=dual_clip, old=old, beta=beta, kl=kl,
      kl_gradient=kl_gradient, aggregation=aggregation, max_tokens=max_tokens)
  return method._replace(advantages=credit.chain(
      method.advantages,
      refocus_on_difficulty(
          alpha=alpha, focus=focus, gamma=gamma, positive=positive,
          negative=negative, reading=reading, eps=eps, channel=channel)))
