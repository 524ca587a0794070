"""How losses add, what they read, and how they report."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.ops import masking
from policyopt.types import NEEDS, Array, Loss, PolicyOutput


def read_policy(policy: PolicyOutput, name: str, reader: str) -> Array:
  """A part of the policy's output, or an error that says who wants it.

  Args:
    policy: what the policy says of the tokens.
    name: 'entropy', 'values', 'logits' or 'hidden'.
    reader: name of the loss that reads it.

  Returns:
    The array.

  Raises:
    ValueError: the output does not carry it.
  """
  array = getattr(policy, name)
  if array is None:
    raise ValueError(
        f'{reader} needs the policy output {name!r}, which is missing; it is '
        f"supplied by {NEEDS.get(name, 'the forward pass')}")
  return array


def weighted_sum(per_token: Array, weights: Array, mask: Array) -> Array:
  """Σ wₜ·lₜ over the chosen tokens.

  Args:
    per_token: f32[B, T]; what lies outside the mask is ignored.
    weights: f32[B, T].
    mask: bool[B, T].

  Returns:
    f32[].

  Example:
    >>> one = jnp.ones((1, 2))
    >>> float(weighted_sum(3 * one, one / 2, jnp.array([[True, False]])))
    1.5
  """
  return jnp.sum(masking.fill(per_token, mask) * masking.fill(weights, mask))


def mean_metric(
    per_token: Array, mask: Array) -> tuple[Array, Array]:
  """The (sum, weight) pair of a mean over the places of a mask.

  Args:
    per_token: f32[B, T].
    mask: bool[B, T].

  Returns:
    (f32[], f32[]), with no gradient.

  Example:
    >>> pair = mean_metric(jnp.ones((1, 2)), jnp.array([[True, False]]))
    >>> [float(part) for part in pair]
    [1.0, 1.0]
  """
  per_token = jax.lax.stop_gradient(masking.as_float(per_token))
  return (masking.masked_sum(per_token, mask),
          masking.masked_sum(jnp.ones_like(per_token), mask))


def loss_metric(loss: Array, weights: Array) -> tuple[Array, Array]:
  """The (sum, weight) pair of a loss: their quotient is its weighted mean.

  Args:
    loss: f32[], a weighted sum.
    weights: f32[B, T], its weights.

  Returns:
    (f32[], f32[]), with no gradient.
  """
  stop = jax.lax.stop_gradient
  return stop(loss), stop(jnp.sum(masking.as_float(weights)))


def add(*losses: Loss) -> Loss:
  """The sum of several losses over the same weights.

  Args:
    *losses: at least one, whose metrics have different names.

  Returns:
    A Loss that needs what any of them needs.

  Raises:
    ValueError: no losses; at apply, two of them report the same metric.
  """
  if not losses:
    raise ValueError('add got no losses; give at least one')

  def apply(policy, advantages, weights, rollout):
    total, metrics = 0., {}
    for loss in losses:
      value, reported = loss.apply(policy, advantages, weights, rollout)
      total = total + value
      repeated = sorted(metrics.keys() & reported.keys())
      if repeated:
        raise ValueError(f'add: two losses report the metrics {repeated}')
      metrics.update(reported)
    return total, metrics

  return Loss(apply, frozenset().union(*(loss.needs for loss in losses)))
