"""Roles instead of advantages: who is chosen and who is rejected.

The advantage of a row is its role, +1, −1 or 0, on each of its chosen tokens;
the losses of `losses.preference` read it from there. Every mean over pairs or
rows of the whole batch lives in the weights, as it does everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from policyopt.credit import base
from policyopt.credit.advantages import spread_rows, taking_part
from policyopt.credit.rewards import row_rewards
from policyopt.ops import masking, segments
from policyopt.ops.pairwise import pairs
from policyopt.types import Array, CreditTransform, Rollout, read_extra

Roles = Callable[[Array, Rollout], Array]


def _present(rollout: Rollout) -> Array:
  """Rows of a group that have a chosen token, bool[B]."""
  return jnp.any(taking_part(rollout), axis=1)


def _pair_roles(x: Array, rollout: Rollout) -> Array:
  return pairs.best_and_worst(
      row_rewards(x, rollout), rollout.group, where=_present(rollout))


def _verdicts(threshold: float | None) -> Roles:
  def roles(x, rollout):
    rewards, present = row_rewards(x, rollout), _present(rollout)
    ids = jnp.where(present, rollout.group, -1)
    if threshold is None:
      return jnp.sign(segments.centre(rewards, ids))
    return jnp.where(present, jnp.where(rewards > threshold, 1., -1.), 0.)

  return roles


def _mark(roles: Roles) -> CreditTransform:
  def mark(x, rollout):
    return spread_rows(roles(x, rollout).astype(x.dtype), rollout)

  return base.stateless(mark)


def mark_pairs() -> CreditTransform:
  """Aₜ = +1 on the best-rewarded row of each group, −1 on its worst, else 0.

  Of several best or worst rows the first is taken. A group whose rows all earn
  the same, or that has one row, gives no pair.

  Returns:
    A CreditTransform for advantages.
  """
  return _mark(_pair_roles)


def mark_desirable(*, threshold: float | None = None) -> CreditTransform:
  """Aₜ = +1 on desirable rows, −1 on undesirable ones, 0 on unjudged ones.

  Args:
    threshold: a row is desirable if it earns more than this, else
      undesirable; None: compared with the mean of its group, where a row that
      earns exactly the mean is not judged.

  Returns:
    A CreditTransform for advantages.
  """
  return _mark(_verdicts(threshold))


def _row_kept(x: Array, rollout: Rollout) -> Array:
  """Rows that an earlier transform has left some weight, bool[B]."""
  return jnp.any(taking_part(rollout) & (x != 0), axis=1)


def _rewards_given(rollout: Rollout, reader: str) -> Array:
  return read_extra(rollout, 'token_rewards', reader)


def weigh_pairs() -> CreditTransform:
  """wₜ / P on the rows of the P pairs of the batch, 0 on all other rows.

  The pairs are those of `mark_pairs`. One of whose rows an earlier transform
  has taken all weight is no pair, and counts in no mean.

  Returns:
    A CreditTransform for weights; needs 'token_rewards'. Metric:
    'pairs/fraction', of groups that give a pair.
  """
  def counted(x, rollout):
    roles = _pair_roles(_rewards_given(rollout, 'weigh_pairs'), rollout)
    kept = jnp.where(_row_kept(x, rollout), jnp.abs(roles), 0)
    rows = segments.gather(
        segments.segment_sum(kept, rollout.group), rollout.group)
    return (rows == 2) & (roles != 0)

  def weigh(x, rollout):
    in_pair = counted(x, rollout)
    count = jnp.maximum(jnp.sum(in_pair.astype(x.dtype)) / 2, 1)
    mask = taking_part(rollout) & in_pair[:, None]
    return masking.fill(x, mask) / count

  def metrics(x, state, rollout):
    del state
    found = jnp.sum(counted(x, rollout).astype(jnp.float32)) / 2
    rows = segments.segment_count(rollout.group, where=_present(rollout))
    return {'pairs/fraction': (found, jnp.sum((rows > 0).astype(found.dtype)))}

  return base.stateless(weigh, {'token_rewards'}, metrics)


def weigh_judged(*, threshold: float | None = None) -> CreditTransform:
  """wₜ / R on the R rows of the batch that are judged, 0 on all other rows.

  Args:
    threshold: as in `mark_desirable`.

  Returns:
    A CreditTransform for weights; needs 'token_rewards'. Metric:
    'rows/desirable', the fraction of judged rows.
  """
  verdicts = _verdicts(threshold)

  def judged(x, rollout):
    roles = verdicts(_rewards_given(rollout, 'weigh_judged'), rollout)
    return jnp.where(_row_kept(x, rollout), roles, 0)

  def weigh(x, rollout):
    counted = judged(x, rollout) != 0
    count = jnp.maximum(jnp.sum(counted.astype(x.dtype)), 1)
    return masking.fill(x, taking_part(rollout) & counted[:, None]) / count

  def metrics(x, state, rollout):
    del state
    roles = judged(x, rollout)
    return {'rows/desirable': (
        jnp.sum((roles > 0).astype(jnp.float32)),
        jnp.sum((roles != 0).astype(jnp.float32)))}

  return base.stateless(weigh, {'token_rewards'}, metrics)


def _per_row(value: Array, rollout: Rollout) -> Array:
  return jnp.broadcast_to(
      jax.lax.stop_gradient(value), rollout.group.shape)


def chosen_length() -> CreditTransform:
  """Derives 'chosen_length': the mean length of the batch's chosen rows.

  It turns the mean over pairs into the mean over the tokens of chosen rows.

  Returns:
    A CreditTransform for `Method.derived`: advantages that are roles ->
    {'chosen_length': f32[B] in tokens, the same in every row}; 1 when no row
    is chosen.
  """
  def derive(roles, rollout):
    mask = taking_part(rollout)
    chosen = mask & (roles > 0)
    rows = jnp.sum(jnp.any(chosen, axis=1).astype(roles.dtype))
    tokens = jnp.sum(chosen.astype(roles.dtype))
    length = jnp.where(rows > 0, masking.safe_divide(tokens, rows), 1)
    return {'chosen_length': _per_row(length, rollout)}

  return base.stateless(derive)


def sampled_divergence() -> CreditTransform:
  """Derives 'sampled_kl': max(0, mean of log π_old(y) − log π_ref(y)).

  The mean runs over the rows of the batch. They are drawn from the policy, so
  it estimates KL(π_old ‖ π_ref) of whole responses.

  Returns:
    A CreditTransform for `Method.derived`: advantages -> {'sampled_kl': f32[B]
    in nats, the same in every row}; needs 'ref_log_probs'. Metric:
    'kl/responses', before the max.
  """
  def parts(rollout):
    mask, present = taking_part(rollout), _present(rollout)
    ref = read_extra(rollout, 'ref_log_probs', 'sampled_divergence')
    gap = masking.fill(rollout.log_probs, mask) - masking.fill(ref, mask)
    return jnp.sum(gap), jnp.sum(present.astype(gap.dtype))

  def derive(advantages, rollout):
    del advantages
    mean = masking.safe_divide(*parts(rollout))
    return {'sampled_kl': _per_row(jnp.maximum(mean, 0), rollout)}

  def metrics(advantages, state, rollout):
    del advantages, state
    return {'kl/responses': parts(rollout)}

  return base.stateless(derive, {'ref_log_probs'}, metrics)
