"""Golden cases of other frameworks as rollouts, run through whole methods."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import methods
from policyopt.types import PolicyOutput, Rollout
from tests.golden_adapters.common import array
from tests.methods import rollouts

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def load(name):
  """The cases of a file, those that the other code gave up on left out."""
  cases = json.loads((GOLDEN / f'{name}.json').read_text())['cases']
  return [case for case in cases if 'error' not in case['outputs']]


def inputs(case):
  """The inputs as float64 arrays; None stays."""
  return {name: array(x) for name, x in case['inputs'].items()}


def padded(x, shape=None):
  """With rows and columns of 0 up to multiples of 16, so that shapes repeat."""
  x = np.asarray(x, np.float64)
  return np.pad(x, [(0, -size % 16) for size in x.shape])


def ids_of(x):
  """The groups of a case as ids from 0, i32[B]."""
  return np.unique(x['group_ids'], return_inverse=True)[1].reshape(-1)


def last_chosen(mask, rewards):
  """Rewards f[B] on the last chosen token; in column 0 where there is none."""
  placed = np.zeros(mask.shape)
  for row, chosen in enumerate(np.asarray(mask) != 0):
    places = np.flatnonzero(chosen)
    placed[row, places[-1] if len(places) else 0] = rewards[row]
  return placed


def make(mask, *, group=None, rewards=None, sampled=None, **extras):
  """A rollout of float64 arrays, padded with rows that take no part.

  Args:
    mask: [B, T].
    group: [B] ids, those below 0 of no group; all in one group when None.
    rewards: [B] or [B, T]; none when None.
    sampled: [B, T] log-probabilities of the sampler; 0 when None.
    **extras: [B, T].

  Returns:
    A Rollout.
  """
  mask = np.asarray(mask)
  group = np.zeros(len(mask)) if group is None else np.asarray(group)
  rewards = np.zeros(len(mask)) if rewards is None else np.asarray(rewards)
  rewards = np.where(np.isnan(rewards), 0, rewards)
  if rewards.ndim == 1:
    rewards = last_chosen(mask, rewards)
  ids = np.full(-(-len(mask) // 16) * 16, -1, np.int32)
  ids[:len(mask)] = group
  mask = padded(mask) != 0
  sampled = np.zeros(mask.shape) if sampled is None else padded(sampled)
  return Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=jnp.asarray(mask),
      log_probs=jnp.asarray(sampled), group=jnp.asarray(ids),
      rewards={'outcome': jnp.asarray(padded(rewards))},
      extras={name: jnp.asarray(padded(x)) for name, x in extras.items()
              if x is not None})


@functools.cache
def _compiled(framework, algorithm, changes, given):
  method = methods.in_framework(framework, algorithm, **dict(changes))

  def run(rollout, policy, advantages):
    rollout, own, weights, _ = rollouts.assign(
        method, rollouts.initial_state(method), rollout)
    advantages = advantages if given else own
    (loss, _), gradient = rollouts.loss_and_gradient(
        method, policy, advantages, weights, rollout)
    return dict(advantages=own, weights=weights, loss=loss,
                grad_log_probs=gradient[0], grad_values=gradient[1],
                token_rewards=rollout.extras['token_rewards'])

  return jax.jit(
      run, compiler_options={'xla_backend_optimization_level': 0})


def run(framework, algorithm, changes, rollout, *, log_probs=None,
        values=None, advantages=None):
  """Everything that the framework's method makes of a rollout.

  Args:
    framework: as in `methods.in_framework`.
    algorithm: likewise.
    changes: likewise.
    rollout: from `make`.
    log_probs: [B, T] of the policy; those of the sampler when None.
    values: [B, T] of the policy; 0 when None.
    advantages: [B] or [B, T], in the place of the method's own; or None.

  Returns:
    {name: array}, with the padding.
  """
  shape = rollout.mask.shape
  log_probs = rollout.log_probs if log_probs is None else jnp.asarray(
      padded(log_probs))
  values = jnp.zeros(shape) if values is None else jnp.asarray(padded(values))
  given = advantages is not None
  if given:
    advantages = padded(advantages)
    advantages = advantages if advantages.ndim == 2 else advantages[:, None]
    advantages = jnp.asarray(np.broadcast_to(advantages, shape))
  policy = PolicyOutput(log_probs=log_probs, values=values)
  return _compiled(
      framework, algorithm, tuple(sorted(changes.items())), given)(
          rollout, policy, advantages)


def close(ours, expected, mask=None, *, tolerance=1e-9):
  """Equal where the expected numbers are finite, inside the mask."""
  expected = np.asarray(expected)
  ours = np.asarray(ours)[tuple(slice(0, size) for size in expected.shape)]
  wanted = np.isfinite(expected)
  if mask is not None:
    wanted &= np.asarray(mask) != 0
  scale = max(1., np.abs(expected[wanted]).max(initial=0.))
  np.testing.assert_allclose(
      ours[wanted], expected[wanted], rtol=tolerance, atol=tolerance * scale)


def differing(framework, algorithm, changes):
  """The changes that are changes: those that are not the default."""
  default = methods.dialect(framework, algorithm)
  return {name: value for name, value in changes.items()
          if getattr(default, name) != value}


def values_for(advantages, mask, *, gamma=1., lam=1.):
  """Old values with which GAE of no reward gives these advantages."""
  values = np.zeros(advantages.shape)
  for row in range(len(values)):
    after, carried = 0., 0.
    for t in reversed(np.flatnonzero(np.asarray(mask)[row])):
      values[row, t] = (
          gamma * after + gamma * lam * carried - advantages[row, t])
      after, carried = values[row, t], advantages[row, t]
  return values


def rewards_for(returns, mask):
  """Token rewards whose undiscounted sums to the end are these returns."""
  rewards = np.zeros(returns.shape)
  for row in range(len(rewards)):
    after = 0.
    for t in reversed(np.flatnonzero(np.asarray(mask)[row])):
      rewards[row, t], after = returns[row, t] - after, returns[row, t]
  return rewards
