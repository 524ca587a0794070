"""Rollouts out of samples, and rollouts put together; compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.rollouts.sampler import Samples
from policyopt.types import Array, Rollout


@jax.jit
def to_rollout(drawn: Samples, start: Array, rewards: dict[str, Array],
               group: Array, extras: dict[str, Array]) -> Rollout:
  """Rows and what they earned: on its last token, or where the task said."""
  place = jnp.arange(drawn.tokens.shape[1])[None, :]
  last = place == (start + drawn.length - 1)[:, None]
  part = group >= 0
  mask = drawn.mask & part[:, None]

  def chosen(x):
    if x is None:
      return None
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)

  extras = dict(
      extras, policy_log_probs=chosen(drawn.policy_log_probs),
      entropy=chosen(drawn.entropy), truncated=drawn.truncated,
      length=drawn.length)
  if drawn.kept is not None:
    extras['kept'] = chosen(drawn.kept)
  turn = None
  if drawn.spoken is None:
    placed = {name: jnp.where(last & part[:, None], value[:, None], 0)
              for name, value in rewards.items()}
  else:
    placed = {name: jnp.where(part[:, None], value, 0)
              for name, value in drawn.spoken.rewards.items()}
    turn = jnp.where(mask, drawn.spoken.turn, -1)
    extras['state_id'] = jnp.where(mask, drawn.spoken.state_id, -1)
  return Rollout(
      tokens=drawn.tokens, mask=mask, log_probs=chosen(drawn.log_probs),
      group=group, rewards=placed, turn=turn, extras=extras)


@jax.jit
def join(rollouts: list[Rollout]) -> Rollout:
  """The rows of several rollouts, one after the other."""
  return jax.tree.map(lambda *x: jnp.concatenate(x, axis=0), *rollouts)


@jax.jit
def take(old: Rollout, new: Rollout, rows: Array) -> Rollout:
  """Rows of two rollouts laid one after the other."""
  return jax.tree.map(lambda x: x[rows], join([old, new]))
