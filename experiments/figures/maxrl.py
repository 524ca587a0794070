"""MaxRL and GRPO for pass@k: training for one answer or for one of many.

    python experiments/figures/maxrl.py [--fast]

64 prompts are bandits with 32 answers, 4 of which are right, with success
rates from 0.3% to 60% at the start. Every step has the same length, so arms
differ in where they go: to what is easy, or to what is hard. A held-out
problem is like its prompt but takes one of its four right answers only.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.figures import beds, drawing, figure, verdict, worlds
from policyopt import methods
from policyopt.envs import exact

METHODS = ('maxrl', 'passk_grpo')
_PROMPTS, _SAMPLES, _ACTIONS, _RIGHT = 64, 8, 32, 4
# Lengths of a step; what a prompt starts with to be called hard.
_LENGTHS, _HARD = (0.5, 1., 2.), 0.05
_ARMS = {
    'RLOO': lambda: methods.rloo(beta=0.),
    'GRPO': lambda: methods.grpo(beta=0.),
    'MaxRL': methods.maxrl,
    'pass@k GRPO': methods.passk_grpo}


def _gain(key, name, than='GRPO'):
  """Mean over training and lengths, an arm's minus another's: [S]."""
  return lambda r: (r[name][key] - r[than][key]).mean((1, 2))


_MEAN = ', mean over training and lengths of a step: {} minus GRPO.'
CLAIMS = (
    verdict.Claim(
        'MaxRL raises pass@8 on hard prompts more than GRPO does.',
        'pass@8 of prompts that start below 5%' + _MEAN.format('MaxRL'), '',
        _gain('hard8', 'MaxRL')),
    verdict.Claim(
        'Training for pass@k raises pass@8 on hard prompts more than GRPO '
        'does.',
        'pass@8 of prompts that start below 5%'
        + _MEAN.format('pass@k GRPO'), '', _gain('hard8', 'pass@k GRPO')),
    verdict.Claim(
        'MaxRL pays nothing for it in pass@1.',
        'pass@1 of all prompts' + _MEAN.format('MaxRL'), '',
        _gain('pass1', 'MaxRL')),
    verdict.Claim(
        'MaxRL keeps more right answers than GRPO.',
        'Held-out pass@8, mean over training and lengths of a step: MaxRL '
        'minus GRPO.', '', _gain('held8', 'MaxRL')),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with steps of each length.

  Args:
    fast: fewer seeds, steps and lengths.

  Returns:
    arm -> 'pass1', 'pass8', 'hard1', 'hard8', 'held8' [S, lengths, points];
    'step' [points].
  """
  count, steps, lengths = (3, 60, _LENGTHS[1:2]) if fast else (
      16, 200, _LENGTHS)
  apart = steps // 20
  records = {}
  for name, make in _ARMS.items():
    one = lambda key, make=make: _arm(make(), key, steps, lengths)
    seen = jax.jit(jax.vmap(one))(beds.seeds(count))
    records[name] = {
        key: np.asarray(x[..., ::apart]) for key, x in seen.items()}
  return records | {'step': np.arange(0, steps + 1, apart)}


def _arm(method, key, steps, lengths):
  """One seed of one method, [lengths, steps + 1]."""
  drawn, train = jax.random.split(key)
  world = _world(drawn)
  hard = _start() < _HARD

  def watch(logits):
    chance = jax.vmap(exact.probs, (None, 0))(world.bed, logits)
    p = (chance * world.reward).sum(1)
    within = lambda chance, k: 1 - (1 - jnp.minimum(chance, 1)) ** k
    only = lambda x: jnp.where(hard, x, 0).sum() / hard.sum()
    return dict(
        pass1=p.mean(), pass8=within(p, 8).mean(), hard1=only(p),
        hard8=only(within(p, 8)),
        held8=within(chance[:, :_RIGHT], 8).mean())

  return jax.vmap(lambda length: beds.learn(
      world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=length, optimizer=_steps_of_length, watch=watch))(
          jnp.array(lengths))


def _steps_of_length(length):
  return optax.chain(optax.normalize_by_update_norm(), optax.sgd(length))


def _start():
  return jnp.exp(jnp.linspace(jnp.log(0.003), jnp.log(0.6), _PROMPTS))


def _world(key) -> beds.World:
  return worlds.bandits(key, _start(), _ACTIONS, _RIGHT)


def plot(records: dict):
  """pass@1 and pass@8 of all and of hard prompts, for one length of a step."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  middle = records['GRPO']['pass1'].shape[1] // 2
  for axis, key, title, label in zip(
      axes, ('hard8', 'pass8', 'pass1', 'held8'),
      ('Hard prompts', 'All prompts', 'All prompts', 'Held-out problems'),
      ('pass@8', 'pass@8', 'pass@1', 'pass@8')):
    drawing.curves(axis, {
        name: records[name][key][:, middle] for name in _ARMS},
                   x=records['step'])
    drawing.dress(axis, title, 'step', label)
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
