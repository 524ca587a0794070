"""A coefficient of the entropy bonus that keeps the entropy near a target."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from policyopt.credit.advantages import taking_part
from policyopt.credit.reports import batch_metric
from policyopt.ops import masking
from policyopt.types import Array, CreditTransform, read_extra


class EntropyCoefState(NamedTuple):
  """State of `adapt_entropy_coef`.

  Attributes:
    coef: f32[], c.
  """
  coef: Array


def adapt_entropy_coef(
    target: float = 0.2,
    *,
    start: float = 0.,
    step: float = 0.005,
    most: float = 1.,
) -> CreditTransform:
  """α = c where H̄ ≤ target and 0 elsewhere; then c rises there, else it falls.

  H̄ is the mean entropy of the batch's tokens while they were sampled. For
  `Method.derived`: it hands α to `losses.entropy_bonus(None)` as
  'entropy_coef'. Needs 'entropy'.

  Differs from TRL, which compares the entropy of the step before.

  Args:
    target: in nats per token.
    start: c of the first batch.
    step: by how much c moves per batch.
    most: c stays in [0, most].

  Returns:
    A CreditTransform whose update returns ({'entropy_coef': f32[B]}, state).
    Metrics: 'entropy/coef', α.

  Raises:
    ValueError: `step` is not positive, or `start` not in [0, most].

  Source: "Skywork Open Reasoner 1 Technical Report", He et al., 2025,
    arXiv:2505.22312.

  Example:
    >>> adapt_entropy_coef(start=0.5).init().coef.tolist()
    0.5
  """
  # Written so that NaN fails.
  if not step > 0:
    raise ValueError(f'step is {step}; it must be positive')
  if not 0 <= start <= most:
    raise ValueError(f'start is {start}; it must lie in [0, most = {most}]')

  def measure(state, rollout):
    mask = taking_part(rollout)
    entropy = read_extra(rollout, 'entropy', 'adapt_entropy_coef')
    low = masking.masked_mean(entropy, mask) <= target
    return jnp.where(low, state.coef, 0), low, jnp.any(mask)

  def update(x, state, rollout):
    del x
    applied, low, known = measure(state, rollout)
    moved = jnp.clip(state.coef + jnp.where(low, step, -step), 0, most)
    coef = jnp.where(known, moved, state.coef)
    spread = jnp.full(rollout.group.shape, applied, jnp.float32)
    return {'entropy_coef': spread}, EntropyCoefState(coef)

  def metrics(x, state, rollout):
    del x
    return {'entropy/coef': batch_metric(
        measure(state, rollout)[0], rollout)}

  return CreditTransform(
      lambda: EntropyCoefState(jnp.float32(start)), update,
      frozenset({'entropy'}), metrics)
