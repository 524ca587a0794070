"""One advantage per row of a small rollout, and sums of them per group."""

import functools

import jax
import numpy as np

from tests.methods import rollouts

GROUP = np.array([4, 0, 0, 7, 4, 0, 7, 4, 0, 7, 0, 4, 7, 7, 2, -1])
IDS = [0, 4, 7]  # 2 is a group of one


def binary(seed):
  """Rewards 0 or 1, f32[B], with at least one mixed group."""
  rewards = np.random.default_rng(seed).integers(0, 2, 16).astype(np.float32)
  rewards[1], rewards[2] = 0, 1
  return rewards


def rollout_of(rewards, **channels):
  rollout, _ = rollouts.make(group=GROUP, rewards=np.zeros(16))
  rewards = {'accuracy': rewards} | channels
  return rollout._replace(rewards={
      name: rollouts.outcome(np.asarray(rollout.mask), x)
      for name, x in rewards.items()})


@functools.cache
def _compiled(factory, kw):
  transform = factory(**dict(kw))

  def run(rollout):
    x = sum(rollout.rewards.values())
    return transform.update(x, transform.init(), rollout)[0]

  return jax.jit(run)


def per_row(factory, rollout, **kw):
  """The advantage of each row that has a chosen token, f64[B]."""
  run = _compiled(factory, tuple(kw.items()))
  x = np.asarray(run(rollout), np.float64)
  mask = np.asarray(rollout.mask)
  out = np.where(mask, x, 0).sum(1) / np.maximum(mask.sum(1), 1)
  assert np.allclose(x[mask], np.broadcast_to(out[:, None], x.shape)[mask],
                     rtol=1e-5, atol=1e-6)
  return out


def sums(advantages):
  return np.array([advantages[GROUP == name].sum() for name in IDS])


def same(a, b, atol=1e-5, rtol=1e-4):
  np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
