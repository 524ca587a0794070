"""BNPO: gradient variance while a mixture of easy and hard prompts is learned.

    python experiments/figures/bnpo.py [--fast]

64 prompts are bandits whose success rates start spread as Beta(1/2, 1/2). Each
method trains its own policies; before every few steps the gradient that it
would take is estimated from many fresh batches, and its variance is compared
with the length of its mean.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds, drawing, figure, verdict
from policyopt import methods
from policyopt.envs import exact
from policyopt.training.credit import init_credit

METHODS = ('bnpo',)
_PROMPTS, _SAMPLES, _ACTIONS, _RATE = 64, 8, 2, 4.0
# Batches whose variance stands for the variance at one moment of training.
_BATCHES = 64
_ARMS = {
    # ReMax subtracts the reward of the greedy answer.
    'ReMax': methods.remax, 'RLOO': lambda: methods.rloo(beta=0.),
    'GRPO': lambda: methods.grpo(beta=0.), 'BNPO': methods.bnpo}


def _log_noise(records, name):
  """ln(tr Var[g] / ‖E[g]‖²), mean over training: [S]."""
  return np.log(records[name]['noise']).mean(1)


def _drift(variance):
  """How far ln(tr Var[g]) moves from the first to the last quarter: [S]."""
  logs = np.log(variance)
  quarter = logs.shape[1] // 4
  return np.abs(logs[:, -quarter:].mean(1) - logs[:, :quarter].mean(1))


CLAIMS = (
    verdict.Claim(
        'BNPO has the lowest gradient variance of the REINFORCE family.',
        'Mean over training of ln(tr Var[g] / ‖E[g]‖²): the lowest of ReMax, '
        'RLOO and GRPO minus that of BNPO; each trains its own policies.',
        'nats',
        lambda r: np.min([_log_noise(r, name) for name in _ARMS
                          if name != 'BNPO'], axis=0) - _log_noise(r, 'BNPO')),
    verdict.Claim(
        "BNPO's gradient variance stays flatter than GRPO's while the policy "
        'improves.',
        'How far ln(tr Var[g]) moves from the first to the last quarter of '
        'training: GRPO minus BNPO.', 'nats',
        lambda r: _drift(r['GRPO']['variance'])
        - _drift(r['BNPO']['variance'])),
)


def run(fast: bool = False) -> dict:
  """Trains every arm; arm -> 'noise', 'variance', 'success', all [S, points].

  Args:
    fast: fewer seeds and steps.

  Returns:
    The records, and 'step' [points].
  """
  count, points, apart = (3, 8, 4) if fast else (16, 40, 5)
  keys = beds.seeds(count)
  records = {name: jax.tree.map(np.asarray, jax.jit(jax.vmap(
      lambda key, make=make: _arm(make(), key, points, apart)))(keys))
             for name, make in _ARMS.items()}
  return records | {'step': np.arange(points) * apart}


def _arm(method, key, points, apart):
  """One seed of one method: what is seen every `apart` steps."""
  rates, train, probe = jax.random.split(key, 3)
  world = _world(rates)

  def noise(key, logits):
    def one(key):
      rollout = beds.draw(
          world, logits, key, jnp.arange(_PROMPTS), _SAMPLES)
      return beds.gradient(
          world, method, init_credit(method), logits, rollout)[0]
    given = jax.lax.map(one, jax.random.split(key, _BATCHES)).reshape(
        _BATCHES, -1)
    mean = given.mean(0)
    spread = jnp.square(given - mean).sum() / (_BATCHES - 1)
    # The mean itself carries 1/n of the variance.
    signal = jnp.square(mean).sum() - spread / _BATCHES
    return dict(variance=spread, noise=spread / jnp.maximum(signal, 1e-9))

  seen = beds.learn(
      world, method, train, steps=points * apart, prompts=_PROMPTS,
      samples=_SAMPLES, learning_rate=_RATE,
      watch=lambda logits: dict(
          logits=logits, success=beds.objective(world, logits)))
  at = jax.tree.map(lambda x: x[:-1:apart], seen)
  return jax.lax.map(
      lambda given: noise(*given),
      (jax.random.split(probe, points), at['logits'])) | {
          'success': at['success']}


def _world(key) -> beds.World:
  """Bandits whose first action is right, with a chance p ~ Beta(1/2, 1/2)."""
  p = jnp.clip(jax.random.beta(key, 0.5, 0.5, (_PROMPTS,)), 0.01, 0.99)
  logits = jnp.stack([jnp.log(p), jnp.log1p(-p)], axis=1)[:, None]
  reward = jnp.tile(jnp.array([[1., 0.]]), (_PROMPTS, 1))
  return beds.World(exact.make_bed(_ACTIONS, 1), reward, logits)


def plot(records: dict):
  """Noise, variance and success while training."""
  made, axes = drawing.panels(3)
  arms = {name: records[name] for name in _ARMS}
  x = records['step']
  for axis, key, title, label in zip(
      axes, ('noise', 'variance', 'success'),
      ('Noise', 'Variance', 'Success'),
      ('tr Var[g] / ‖E[g]‖²', 'tr Var[g]', 'success rate')):
    drawing.curves(axis, {name: arm[key] for name, arm in arms.items()}, x=x)
    drawing.dress(axis, title, 'step', label)
  axes[0].set_yscale('log')
  axes[1].set_yscale('log')
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
