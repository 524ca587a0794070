"""COPO: learning where the answers of most prompts agree.

    python experiments/figures/copo.py [--fast]

64 prompts are bandits with 16 answers. Half of them are nearly hopeless (0.1%
to 5%), with one wrong answer that comes nearly always, a quarter is nearly
solved, and the rest lies between, so most groups agree on their answer when
training starts. Every arm trains at each rate of the same grid and is judged at
its own best.
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

METHODS = ('copo',)
_PROMPTS, _SAMPLES, _ACTIONS = 64, 8, 16
_RATES = (4., 16., 64., 256.)
# Votes that stand for a majority's success at one moment.
_VOTES = 32
_ARMS = {
    'GRPO': lambda: methods.grpo(beta=0.),
    'COPO': methods.copo,
    # What the paper's ablation prefers.
    'COPO, k = 20, b = 1.5': lambda: methods.copo(steepness=20., centre=1.5),
    'global only': lambda: methods.copo(mode='only_global')}


def _at_best(records, name, key):
  """What an arm recorded at the rate with its best mean@8: [S, points]."""
  best = records[name]['mean'].mean((0, 2)).argmax()
  return records[name][key][:, best]


def _more(key):
  """COPO minus GRPO over training, each at its best rate: records -> [S]."""
  return lambda records: (_at_best(records, 'COPO', key)
                          - _at_best(records, 'GRPO', key)).mean(1)


CLAIMS = (
    verdict.Claim(
        'COPO reaches a higher mean@8 than GRPO.',
        'Success rate of the prompts, mean over training, each arm at its '
        'best learning rate: COPO minus GRPO.', '', _more('mean')),
    verdict.Claim(
        'COPO reaches a higher maj@8 than GRPO.',
        'Success rate of the most frequent of 8 answers, mean over training, '
        'at the same learning rates: COPO minus GRPO.', '',
        _more('majority')),
    verdict.Claim(
        'COPO learns from groups whose answers agree, where GRPO has no '
        'gradient.',
        'Share of prompts with a gradient that is not zero, mean over '
        'training, at the same learning rates: COPO minus GRPO.', '',
        _more('moving')),
)


def run(fast: bool = False) -> dict:
  """Trains every arm at every rate.

  Args:
    fast: fewer seeds, steps and rates.

  Returns:
    The records: arm -> 'mean', 'majority', 'moving' and 'hard' (mean@8 of the
    half that starts hopeless), all [S, rates, points]; 'step' [points].
  """
  count, steps, rates = (3, 40, _RATES[1:2]) if fast else (16, 200, _RATES)
  apart = steps // 20
  keys = beds.seeds(count)
  records = {}
  for name, make in _ARMS.items():
    one = lambda key, make=make: _arm(make(), key, steps, apart, rates)
    records[name] = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))
  return records | {'step': np.arange(0, steps + 1, apart)}


def _arm(method, key, steps, apart, rates):
  """One seed of one method."""
  drawn, train, probe = jax.random.split(key, 3)
  world = _world(drawn)

  def look(key, logits):
    chance = jax.nn.softmax(logits[:, 0])[:, 0]
    batch, votes = jax.random.split(key)
    return dict(
        mean=chance.mean(), hard=chance[:_PROMPTS // 2].mean(),
        majority=_majority(votes, logits[:, 0]),
        moving=_moving(world, method, batch, logits))

  def at(rate):
    logits = beds.learn(
        world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
        learning_rate=rate, watch=lambda logits: logits)[::apart]
    return jax.lax.map(
        lambda given: look(*given),
        (jax.random.split(probe, len(logits)), logits))

  return jax.vmap(at)(jnp.array(rates))


def _world(key) -> beds.World:
  """Bandits whose first answer is right; see the top."""
  half, quarter = _PROMPTS // 2, _PROMPTS // 4
  right = jnp.concatenate([
      jnp.geomspace(0.001, 0.05, half), jnp.full(quarter, 0.97),
      jnp.linspace(0.2, 0.8, quarter)])
  # The second answer takes nearly all that is left, the others what remains.
  rest = jax.random.dirichlet(
      key, jnp.ones(_ACTIONS - 2), (_PROMPTS,)) * 0.06
  chance = jnp.concatenate([
      right[:, None], (1 - right)[:, None] * 0.94,
      (1 - right)[:, None] * rest], axis=1)
  reward = jnp.zeros((_PROMPTS, _ACTIONS)).at[:, 0].set(1.)
  return beds.World(
      exact.make_bed(_ACTIONS, 1), reward,
      jnp.log(jnp.maximum(chance, 1e-6))[:, None])


def _majority(key, logits):
  """How often the most frequent of 8 answers is right; ties by lot."""
  drawn, lot = jax.random.split(key)
  answers = jax.random.categorical(
      drawn, logits, shape=(_VOTES, _SAMPLES, _PROMPTS))
  counts = jax.nn.one_hot(answers, _ACTIONS).sum(1)
  counts += jax.random.uniform(lot, counts.shape) / 2
  return (counts.argmax(-1) == 0).mean()


def _moving(world, method, key, logits):
  """Share of prompts that a batch moves."""
  rollout = beds.draw(world, logits, key, jnp.arange(_PROMPTS), _SAMPLES)
  ascent = beds.gradient(
      world, method, init_credit(method), logits, rollout)[0]
  return (jnp.abs(ascent).max((1, 2)) > 1e-7).mean()


def plot(records: dict):
  """mean@8, maj@8, mean@8 of the hopeless half, and who moves."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  for axis, key, title, label in zip(
      axes, ('mean', 'majority', 'hard', 'moving'),
      ('All prompts', 'Majority', 'The hopeless half', 'Gradients'),
      ('mean@8', 'maj@8', 'mean@8', 'share of prompts with a gradient')):
    drawing.curves(axis, {name: _at_best(records, name, key)
                          for name in _ARMS}, x=records['step'])
    drawing.dress(axis, title, 'step', label)
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
