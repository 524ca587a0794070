"""From rewards to advantages."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.rewards import row_rewards
from policyopt.ops import masking, normalizers, returns
from policyopt.types import Array, CreditTransform, Rollout, read_extra

Predicate = Callable[[Rollout], Array]


def taking_part(rollout: Rollout) -> Array:
  """Chosen tokens of the rows that belong to a group.

  Args:
    rollout: the rollout.

  Returns:
    bool[B, T].
  """
  return rollout.mask & (rollout.group >= 0)[:, None]


def spread_rows(per_row: Array, rollout: Rollout) -> Array:
  """The number of a row on each of its chosen tokens, 0 elsewhere.

  Args:
    per_row: f32[B].
    rollout: the rollout.

  Returns:
    f32[B, T].
  """
  mask = taking_part(rollout)
  return masking.fill(jnp.broadcast_to(per_row[:, None], mask.shape), mask)


def sequence_return() -> CreditTransform:
  """Aₜ = R, the row's whole reward on each of its chosen tokens.

  Returns:
    A CreditTransform for advantages.
  """
  return base.stateless(
      lambda x, rollout: spread_rows(row_rewards(x, rollout), rollout))


def reward_to_go(
    gamma: float = 1., *, observations: str = 'bridge') -> CreditTransform:
  """Aₜ = rₜ + γ Aₜ₊₁ over the chosen tokens.

  Args:
    gamma: discount per chosen token.
    observations: what tokens that were not chosen do to the return that runs
      through them: 'bridge', 'decay' or 'cut' (see `ops.discounted_returns`).

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `observations`.
  """
  returns.check_observations(observations)
  return base.stateless(lambda x, rollout: returns.discounted_returns(
      x, taking_part(rollout), gamma=gamma, observations=observations))


def group_standardize(
    *,
    std: str = 'sample',
    eps: float = 1e-6,
    singleton: str = 'zero',
    where: Predicate | None = None,
) -> CreditTransform:
  """Aₜ = (R − μ) / (σ + eps) within the row's group, on every chosen token.

  Args:
    std: 'sample', 'population' or 'none' (only the mean is removed).
    eps: added to σ.
    singleton: what a group of one gets: 'zero' or 'raw'.
    where: rollout -> bool[B], the rows that are compared; others get 0.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `std` or `singleton`.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300.
  """
  normalizers.check_rules(std=std, singleton=singleton)

  def standardize(x, rollout):
    advantages = normalizers.group_standardize(
        row_rewards(x, rollout), rollout.group, std=std, eps=eps,
        singleton=singleton, where=None if where is None else where(rollout))
    return spread_rows(advantages, rollout)

  return base.stateless(standardize)


def leave_one_out(
    *,
    singleton: str = 'zero',
    where: Predicate | None = None,
) -> CreditTransform:
  """Aₜ = R − mean of the others of the group, on every chosen token.

  Args:
    singleton: what a group of one gets: 'zero' or 'raw'.
    where: rollout -> bool[B], the rows that are compared; others get 0.

  Returns:
    A CreditTransform for advantages.

  Raises:
    ValueError: an unknown `singleton`.

  Source: "Back to Basics: Revisiting REINFORCE Style Optimization for Learning
    from Human Feedback in LLMs", Ahmadian et al., 2024, arXiv:2402.14740.
  """
  normalizers.check_rules(singleton=singleton)

  def subtract(x, rollout):
    advantages = normalizers.leave_one_out(
        row_rewards(x, rollout), rollout.group, singleton=singleton,
        where=None if where is None else where(rollout))
    return spread_rows(advantages, rollout)

  return base.stateless(subtract)


def subtract_batch_mean() -> CreditTransform:
  """Aₜ minus the mean of A over all chosen tokens of the batch.

  Returns:
    A CreditTransform for advantages.
  """
  def subtract(x, rollout):
    mask = taking_part(rollout)
    return masking.fill(x - masking.masked_mean(x, mask), mask)

  return base.stateless(subtract)


def whiten(
    *, ddof: int = 1, eps: float = 1e-8, floor: float = 0.
) -> CreditTransform:
  """(A − Ā) / √(var + eps) over all chosen tokens of the batch.

  Args:
    ddof: 1 for the sample variance, 0 for the population's.
    eps: added to the variance.
    floor: the variance is at least this, with eps = 0 the other way to
      divide by nothing small.

  Returns:
    A CreditTransform for advantages.
  """
  return base.stateless(lambda x, rollout: masking.masked_whiten(
      x, taking_part(rollout), ddof=ddof, eps=eps, floor=floor))


def gae(
    *,
    gamma: float = 1.,
    lam: float = 0.95,
    observations: str = 'bridge',
) -> CreditTransform:
  """Generalised advantage estimation; observation tokens are bridged.

  Args:
    gamma: discount per chosen token.
    lam: λ; 1 gives the return to go minus the value.
    observations: what tokens that were not chosen do to what runs through
      them: 'bridge', 'decay' or 'cut' (see `ops.generalized_advantages`).

  Returns:
    A CreditTransform for advantages; needs 'values'.

  Raises:
    ValueError: an unknown `observations`.

  Source: "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation", Schulman, Moritz, Levine, Jordan, Abbeel, 2015,
    arXiv:1506.02438.
  """
  returns.check_observations(observations)

  def estimate(x, rollout):
    values = read_extra(rollout, 'values', 'gae')
    mask = taking_part(rollout)
    advantages = returns.generalized_advantages(
        x, values, mask, gamma=gamma, lam=lam, observations=observations)
    return masking.fill(advantages, mask)

  return base.stateless(estimate, {'values'})
