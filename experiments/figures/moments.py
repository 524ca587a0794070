"""Means and variances of many estimators over the same batches."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds
from policyopt import types
from policyopt.training.credit import init_credit

# Batches whose gradients exist at a time.
_AT_ONCE = 128


def moments(world: beds.World, made: Mapping[str, types.Method], logits, *,
            samples: int, rows: int, seeds: int) -> dict:
  """What each method takes for the gradient, over many batches of all prompts.

  Args:
    world: Q prompts, each once in a batch.
    made: name -> method; all see the same batches, their chains start anew.
    logits: f32[Q, prefixes, V], of the policies.
    samples: G.
    rows: responses to sample for each seed, at least.
    seeds: S.

  Returns:
    name -> {'mean' f64[S, D], 'error' f64[S, D], its standard error,
    'variance' f64[S], of one batch's estimate, summed over D}.
  """
  pieces = -(-rows // (len(world.reward) * samples * _AT_ONCE))

  def one(key):
    rollout = beds.draw(
        world, logits, key, jnp.arange(len(world.reward)), samples)
    return {name: beds.gradient(
        world, method, init_credit(method), logits, rollout)[0].reshape(-1)
            for name, method in made.items()}

  def piece(key):
    given = jax.vmap(one)(jax.random.split(key, _AT_ONCE))
    return jax.tree.map(lambda x: (x.sum(0), jnp.square(x).sum(0)), given)

  keys = jax.vmap(lambda key: jax.random.split(key, pieces))(beds.seeds(seeds))
  sums = jax.jit(lambda keys: jax.lax.map(piece, keys))(keys.reshape(-1))
  return {name: _summary(*sums[name], seeds, pieces * _AT_ONCE)
          for name in made}


def _summary(total, squares, seeds, count):
  add = lambda x: np.asarray(x, np.float64).reshape(
      seeds, -1, x.shape[-1]).sum(1)
  mean = add(total) / count
  variance = np.maximum(add(squares) / count - mean ** 2, 0)
  variance *= count / (count - 1)
  return dict(mean=mean, error=np.sqrt(variance / count),
              variance=variance.sum(1))


def pooled(found: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard error over the samples of all seeds, f64[D] each."""
  seeds = len(found['mean'])
  return (found['mean'].mean(0),
          np.sqrt(np.square(found['error']).sum(0)) / seeds)


def largest_z(mean, error, target) -> np.ndarray:
  """The largest |mean − target| over the last axis, in standard errors."""
  # What cannot vary is compared as it is, up to rounding.
  floor = 1e-6 * np.abs(target).max() + 1e-9
  return (np.abs(mean - target) / np.maximum(error, floor)).max(-1)
