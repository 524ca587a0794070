"""Combinators of credit transforms; they serve rewards, advantages, weights.

The complete list: `chain`, `add`, `from_channel`, `where`, `scheduled`. What
they cannot say is a hand-written `CreditTransform`, which sees the whole
rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp

from policyopt.types import (
    Array,
    CreditTransform,
    Metrics,
    Rollout,
    State,
    no_metrics,
)


class ScheduledState(NamedTuple):
  """State of `scheduled`.

  Attributes:
    count: i32[], updates done.
    inner: state of the transform that is being scheduled.
  """
  count: Array
  inner: Any


def union_of_needs(transforms: Iterable[Any]) -> frozenset[str]:
  """Everything that some of the transforms needs.

  Args:
    transforms: anything with a `needs`.

  Returns:
    The union.

  Example:
    >>> union_of_needs([identity(), stateless(lambda x, r: x, {'values'})])
    frozenset({'values'})
  """
  return frozenset().union(*(t.needs for t in transforms))


def join_metrics(reported: Iterable[Metrics]) -> Metrics:
  """The metrics of several parts in one mapping.

  Args:
    reported: one mapping per part.

  Returns:
    Their union.

  Raises:
    ValueError: two parts report the same name.

  Example:
    >>> join_metrics([{'a': (1., 2.)}, {'b': (0., 1.)}])
    {'a': (1.0, 2.0), 'b': (0.0, 1.0)}
  """
  joined = {}
  for metrics in reported:
    for name in sorted(joined.keys() & metrics.keys()):
      raise ValueError(f'two parts of the method report {name!r}')
    joined.update(metrics)
  return joined


def stateless(
    fn: Callable[[Array, Rollout], Array],
    needs: Iterable[str] = (),
    metrics: Callable[[Array, State, Rollout], Metrics] = no_metrics,
) -> CreditTransform:
  """A transform from a plain function.

  Args:
    fn: (x f32[B, T], rollout) -> f32[B, T].
    needs: names that it reads from `rollout.extras`.
    metrics: what it reports, as in `CreditTransform`.

  Returns:
    A CreditTransform with an empty state.

  Example:
    >>> half = stateless(lambda x, rollout: x / 2)
    >>> x, _ = half.update(jnp.ones((1, 2)), half.init(), None)
    >>> x.tolist()
    [[0.5, 0.5]]
  """
  def update(x, state, rollout):
    return fn(x, rollout), state

  return CreditTransform(lambda: (), update, frozenset(needs), metrics)


def identity() -> CreditTransform:
  """Leaves everything as it is.

  Returns:
    A CreditTransform.

  Example:
    >>> identity().update(1., (), None)
    (1.0, ())
  """
  return stateless(lambda x, rollout: x)


def chain(*transforms: CreditTransform) -> CreditTransform:
  """Applies one transform after the other.

  Args:
    *transforms: first to last.

  Returns:
    A CreditTransform whose state is the tuple of theirs.

  Example:
    >>> double = stateless(lambda x, rollout: 2 * x)
    >>> chain(double, double).update(1., ((), ()), None)[0]
    4.0
  """
  def init():
    return tuple(t.init() for t in transforms)

  def update(x, state, rollout):
    states = []
    for t, s in zip(transforms, state, strict=True):
      x, s = t.update(x, s, rollout)
      states.append(s)
    return x, tuple(states)

  def metrics(x, state, rollout):
    reported = []
    for t, s in zip(transforms, state, strict=True):
      reported.append(t.metrics(x, s, rollout))
      x, _ = t.update(x, s, rollout)
    return join_metrics(reported)

  return CreditTransform(init, update, union_of_needs(transforms), metrics)


def add(
    *transforms: CreditTransform,
    weights: Iterable[float] | None = None,
) -> CreditTransform:
  """Applies the transforms side by side to the same x and sums the results.

  Args:
    *transforms: the branches.
    weights: one factor per branch; all 1 when None.

  Returns:
    A CreditTransform whose state is the tuple of theirs.

  Raises:
    ValueError: no transforms, or not as many weights as transforms.

  Example:
    >>> double = stateless(lambda x, rollout: 2 * x)
    >>> add(identity(), double, weights=(1., .5)).update(3., ((), ()), None)[0]
    6.0
  """
  factors = [1.] * len(transforms) if weights is None else list(weights)
  if not transforms or len(factors) != len(transforms):
    raise ValueError(
        f'add got {len(transforms)} transforms and {len(factors)} weights; '
        'give at least one transform and one weight for each')

  def init():
    return tuple(t.init() for t in transforms)

  def update(x, state, rollout):
    total, states = 0., []
    for t, s, factor in zip(transforms, state, factors, strict=True):
      branch, s = t.update(x, s, rollout)
      total = total + factor * branch
      states.append(s)
    return total, tuple(states)

  def metrics(x, state, rollout):
    return join_metrics(t.metrics(x, s, rollout)
                        for t, s in zip(transforms, state, strict=True))

  return CreditTransform(init, update, union_of_needs(transforms), metrics)


def from_channel(name: str) -> CreditTransform:
  """Replaces x by one reward channel, as the environment gave it.

  Args:
    name: key of `Rollout.rewards`.

  Returns:
    A CreditTransform; its update raises ValueError for an unknown channel.
  """
  def pick(x, rollout):
    if name not in rollout.rewards:
      raise ValueError(
          f'from_channel: no reward channel {name!r}; this environment gives '
          f'{sorted(rollout.rewards)}')
    return jnp.asarray(rollout.rewards[name], x.dtype)

  return stateless(pick)


def where(
    predicate: Callable[[Rollout], Array],
    transform: CreditTransform,
    otherwise: CreditTransform | None = None,
) -> CreditTransform:
  """One transform where a predicate holds and another one elsewhere.

  Both see every row; only the results are selected. To restrict WHO a row is
  compared with, use the `where` argument of the transform itself.

  Args:
    predicate: rollout -> bool[B] or bool[B, T].
    transform: applied where it holds.
    otherwise: applied elsewhere; x itself when None.

  Returns:
    A CreditTransform whose state is the pair of theirs.
  """
  other = identity() if otherwise is None else otherwise

  def init():
    return transform.init(), other.init()

  def update(x, state, rollout):
    yes, state_yes = transform.update(x, state[0], rollout)
    no, state_no = other.update(x, state[1], rollout)
    holds = predicate(rollout)
    if holds.ndim == 1:
      holds = jnp.broadcast_to(holds[:, None], x.shape)
    return jnp.where(holds, yes, no), (state_yes, state_no)

  def metrics(x, state, rollout):
    return join_metrics((transform.metrics(x, state[0], rollout),
                         other.metrics(x, state[1], rollout)))

  return CreditTransform(
      init, update, union_of_needs((transform, other)), metrics)


def scheduled(
    factory: Callable[..., CreditTransform],
    **schedules: Callable[[Array], Array],
) -> CreditTransform:
  """A transform whose keyword arguments follow schedules of the step count.

  Args:
    factory: builds the transform; the scheduled arguments reach it as scalar
      arrays, so they must be numbers that it only computes with.
    **schedules: argument name -> (i32[] count -> f32[] value), as in optax.

  Returns:
    A CreditTransform whose state is a `ScheduledState`.

  Example:
    >>> scale = lambda by: stateless(lambda x, rollout: x * by)
    >>> t = scheduled(scale, by=lambda count: count + 1)
    >>> x, state = t.update(jnp.ones(()), t.init(), None)
    >>> x, state = t.update(jnp.ones(()), state, None)
    >>> float(x), int(state.count)
    (2.0, 2)
  """
  def build(count):
    return factory(**{name: fn(count) for name, fn in schedules.items()})

  first = build(jnp.zeros((), jnp.int32))

  def init():
    return ScheduledState(jnp.zeros((), jnp.int32), first.init())

  def update(x, state, rollout):
    x, inner = build(state.count).update(x, state.inner, rollout)
    return x, ScheduledState(state.count + 1, inner)

  def metrics(x, state, rollout):
    return build(state.count).metrics(x, state.inner, rollout)

  return CreditTransform(init, update, first.needs, metrics)
