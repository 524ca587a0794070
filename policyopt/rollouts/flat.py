"""Which groups would teach nothing, seen after scoring.

The rules take arrays of numpy on the host, and of JAX inside a program.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# (total reward f32[N, G], rows that were scored bool[N, G]) -> the groups that
# would teach nothing, bool[N].
FlatRule = Callable[[np.ndarray, np.ndarray], np.ndarray]


def all_equal(total: np.ndarray, scored: np.ndarray) -> np.ndarray:
  """The groups whose scored rows do not differ in total reward.

  Args:
    total: f32[N, G], the sum of a row's channels.
    scored: bool[N, G].

  Returns:
    bool[N]; True for groups with fewer than two scored rows.

  Example:
    >>> reward = np.array([[0., 0.], [0., 1.], [0., 1.]])
    >>> all_equal(reward, np.array([[1, 1], [1, 1], [0, 1]]) > 0).tolist()
    [True, False, True]
  """
  where = jnp.where if isinstance(total, jax.Array) else np.where
  lowest = where(scored, total, np.inf).min(axis=1)
  highest = where(scored, total, -np.inf).max(axis=1)
  return ~(highest > lowest)


def all_at(reward: float) -> FlatRule:
  """Only groups whose scored rows all earned `reward` are flat.

  Args:
    reward: total reward of a row.

  Returns:
    A rule for `refill_flat_groups`; True also where no row was scored.

  Example:
    >>> all_at(1.)(np.array([[1., 1.], [0., 0.]]), np.ones((2, 2), bool))
    array([ True, False])
  """
  return lambda total, scored: ~(scored & (total != reward)).any(axis=1)
