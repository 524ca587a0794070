"""Who is compared with whom: the best and the worst row of each group."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, segments

Array = jax.Array


def best_and_worst(
    scores: Array, ids: Array, *, where: Array | None = None) -> Array:
  """+1 on the best row of each group, −1 on the worst one, 0 on all others.

  Of several best (or worst) rows the first one is taken. A group whose rows
  all score the same gives no pair, nor does a single row.

  Args:
    scores: f32[B].
    ids: i32[B] in [0, B); rows with any other id get 0.
    where: bool[B], rows that may be chosen; all when None.

  Returns:
    f32[B] of +1, −1 and 0; each group has one of each sign, or neither.

  Example:
    >>> scores = jnp.array([1., 0., 2., 2., 5., 5.])
    >>> best_and_worst(scores, jnp.array([0, 0, 0, 0, 1, 1])).tolist()
    [0.0, -1.0, 1.0, 0.0, 0.0, 0.0]
  """
  scores, ids = masking.as_float(scores), jnp.asarray(ids)
  chex.assert_rank([scores, ids], 1)
  chex.assert_equal_shape((scores, ids))
  if where is not None:
    ids = jnp.where(where, ids, -1)
  member = (ids >= 0) & (ids < ids.shape[0])
  scores = jnp.where(member, jax.lax.stop_gradient(scores), 0)
  best = segments.gather(segments.segment_max(scores, ids), ids)
  worst = segments.gather(segments.segment_min(scores, ids), ids)
  member &= best > worst
  return (_first(member & (scores == best), ids)
          - _first(member & (scores == worst), ids)).astype(scores.dtype)


def _first(candidates: Array, ids: Array) -> Array:
  """Marks the first candidate of each group."""
  rows = jnp.arange(ids.shape[0], dtype=jnp.int32)
  last = ids.shape[0]
  place = segments.segment_min(jnp.where(candidates, rows, last), ids)
  first = segments.gather(place, ids).astype(jnp.int32)
  return (candidates & (rows == first)).astype(jnp.int32)


def split_pairs(
    x: Array, roles: Array, ids: Array) -> tuple[Array, Array]:
  """What x is on the chosen and on the rejected row of each group.

  Args:
    x: f32[B].
    roles: f32[B], +1, −1 or 0 as `best_and_worst` gives them.
    ids: i32[B] in [0, B).

  Returns:
    (f32[B], f32[B]) by group id; 0 for a group without a pair.

  Example:
    >>> x, roles = jnp.array([5., 7., 9.]), jnp.array([-1., 0., 1.])
    >>> chosen, rejected = split_pairs(x, roles, jnp.array([0, 0, 0]))
    >>> float(chosen[0]), float(rejected[0])
    (9.0, 5.0)
  """
  chex.assert_rank([x, roles, ids], 1)
  chex.assert_equal_shape((x, roles, ids))
  return (segments.segment_sum(masking.fill(x, roles > 0), ids),
          segments.segment_sum(masking.fill(x, roles < 0), ids))
