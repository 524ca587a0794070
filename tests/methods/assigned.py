"""A rollout through a method's credit assignment, as plain numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tests.methods import rollouts

GROUP4 = np.array([0, 1, 2, 3] * 4)  # Four even groups, interleaved.


# One small program is sooner compiled than its many operations.
@functools.cache
def _running(method):
  return jax.jit(functools.partial(rollouts.run, method))


@functools.cache
def _assigning(method):
  def everything(rollout):
    state = rollouts.initial_state(method)
    reported = rollouts.credit_metrics(method, state, rollout)
    return reported, rollouts.assign(method, state, rollout)

  return jax.jit(everything)


def run(method, rollout, policy, *state):
  """`rollouts.run`, compiled once for a method."""
  return _running(method)(rollout, policy, *state)


def assign(method, rollout):
  """What credit assignment makes of a rollout, and what it reports."""
  reported, (filled, advantages, weights, _) = _assigning(method)(rollout)
  return dict(
      extras=filled.extras, advantages=np.asarray(advantages),
      weights=np.asarray(weights), metrics={
          name: float(total) / float(weight)
          for name, (total, weight) in reported.items() if weight})


def of_rows(tokens, rollout):
  """The number of each row, from its chosen tokens."""
  tokens, mask = np.asarray(tokens), np.asarray(rollout.mask)
  values = np.where(mask, tokens, 0).sum(1) / np.maximum(mask.sum(1), 1)
  np.testing.assert_allclose(
      tokens, np.where(mask, values[:, None], 0), atol=1e-5)
  return values


def with_extras(rollout, **extras):
  """The rollout with these extras."""
  return rollout._replace(extras=rollout.extras | {
      name: jnp.asarray(x) for name, x in extras.items()})
