"""DVAO: two rewards that conflict, from all for one to all for the other.

    python experiments/figures/dvao.py [--fast]

16 prompts, sequences of one to five tokens. Each prompt has its own right
answers, the rarer the shorter; 'brevity' falls from 1 to 0 with the length.
Every way to join the two rewards is trained with five mixes of weights, and
what the policies reach together is the area that accuracy and brevity
dominate. Every arm has the learning rate of one grid with which this area is
the largest on other seeds.
"""

from __future__ import annotations

import functools
import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds, drawing, figure, tuning, verdict
from policyopt import credit, methods, types
from policyopt.envs import exact
from policyopt.training.credit import assign_credit, init_credit

METHODS = ('dvao', 'gdpo')
_PROMPTS, _SAMPLES, _BRANCHES, _TOKENS = 16, 16, 3, 5
_RATES = (10., 40., 160.)
# Of accuracy; brevity weighs the rest.
_MIXES = (0.1, 0.3, 0.5, 0.7, 0.9)
_CHANNELS = ('accuracy', 'brevity')
_DVAO = functools.partial(methods.dvao, channels=_CHANNELS)
_ARMS = {
    'sum, then standardised': functools.partial(_DVAO, combine='rewards'),
    'standardised, then sum': functools.partial(_DVAO, combine='advantages'),
    'GDPO': functools.partial(methods.gdpo, channels=_CHANNELS),
    'DVAO': _DVAO}


def _dominated(accuracy, brevity):
  """Area of what some of the points excel in both: [..., mixes] -> [...]."""
  points = np.stack([accuracy, brevity], axis=-1).astype(np.float64)
  points = np.take_along_axis(
      points, np.argsort(-points[..., :1], axis=-2), axis=-2)
  height = np.maximum.accumulate(points[..., 1], axis=-1)
  width = points[..., 0] - np.append(
      points[..., 1:, 0], np.zeros_like(points[..., :1, 0]), axis=-1)
  return (height * width).sum(-1)


def _area(run):
  """Dominated area after the last step: [S]."""
  return _dominated(run['accuracy'][..., -1], run['brevity'][..., -1])


CLAIMS = (
    verdict.Claim(
        'DVAO has a better Pareto front than summing rewards, summing '
        'advantages and GDPO.',
        'Area that accuracy and brevity dominate after the last step over '
        'five mixes of weights: DVAO minus the best of the others.', '',
        lambda r: _area(r['DVAO']) - np.max(
            [_area(r[name]) for name in _ARMS if name != 'DVAO'], axis=0)),
    verdict.Claim(
        'Its advantages stay smaller than those of the summed rewards.',
        'Largest A² of a batch, mean over training and mixes: summed rewards '
        'minus DVAO.', '',
        lambda r: (r['sum, then standardised']['largest']
                   - r['DVAO']['largest']).mean((1, 2))),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with every mix and every learning rate of the grid.

  Args:
    fast: fewer seeds and steps.

  Returns:
    arm -> 'accuracy', 'brevity' and 'largest' [S, mixes, points], 'rate',
    'scores'; and 'step' [points].
  """
  count, tries, points, apart = (2, 2, 4, 2) if fast else (16, 4, 13, 10)
  steps = (points - 1) * apart
  records = {
      name: tuning.tuned(
          functools.partial(_train, make, steps, apart), _RATES, count, tries,
          _area)
      for name, make in _ARMS.items()}
  return records | {'step': np.arange(points) * apart}


def _train(make, steps, apart, key, rate):
  """One seed of one arm, all mixes: what is seen every `apart` steps."""
  world_key, key, probe = jax.random.split(key, 3)
  world = _world(world_key)

  def mean(logits, reward):
    return jax.vmap(exact.expected, (None, 0, 0))(
        world.bed, logits, reward).mean()

  def one(mix):
    method = _mixed(make, mix)

    def look(logits):
      rollout = beds.draw(
          world, logits, probe, jnp.arange(_PROMPTS), _SAMPLES)
      credited, _ = assign_credit(method, init_credit(method), rollout)
      return dict(
          accuracy=mean(logits, world.reward),
          brevity=mean(logits, world.channels['brevity']),
          largest=jnp.square(credited.advantages).max())

    logits = beds.learn(
        world, method, key, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
        learning_rate=rate, watch=lambda logits: logits)
    return jax.lax.map(look, logits[::apart])

  return jax.vmap(one)(jnp.arange(len(_MIXES)))


def _mixed(make, mix) -> types.Method:
  """The arm with the mix of this number, which may be traced.

  So one program serves all mixes; recipes check their weights, and cannot
  take traced ones.
  """
  parts = [make(channel_weights=(share, 1 - share)).advantages
           for share in _MIXES]
  return make()._replace(advantages=credit.stateless(
      lambda x, rollout: jnp.stack([
          part.update(x, part.init(), rollout)[0] for part in parts])[mix]))


def _world(key) -> beds.World:
  """Token 0 ends an answer; the longer it is, the likelier it is right."""
  bed = exact.make_bed(_BRANCHES, _TOKENS)
  ends = bed.sequences == 0
  length = jnp.where(ends.any(1), jnp.argmax(ends, axis=1) + 1, _TOKENS)
  last = jnp.arange(len(length)), length - 1
  # Sequences that differ after their end only are the same answer.
  answer = bed.prefix[last] * _BRANCHES + bed.sequences[last]
  luck, shape = jax.random.split(key)
  luck = jax.random.uniform(luck, (_PROMPTS, bed.prefixes * _BRANCHES))
  right = luck[:, answer] < 0.05 * length
  brevity = jnp.broadcast_to(
      1 - (length - 1) / (_TOKENS - 1), right.shape).astype(jnp.float32)
  logits = jax.random.normal(shape, (_PROMPTS, bed.prefixes, _BRANCHES))
  # At first answers are long.
  logits = logits.at[..., 0].add(-1.)
  return beds.World(bed, right.astype(jnp.float32), logits, length,
                    {'brevity': brevity})


def plot(records: dict):
  """The front at the end, its area, and the largest advantage."""
  made, axes = drawing.panels(3)
  arms = {name: records[name] for name in _ARMS}
  for number, (name, arm) in enumerate(arms.items()):
    axes[0].plot(arm['accuracy'][..., -1].mean(0),
                 arm['brevity'][..., -1].mean(0), 'o-', markersize=4,
                 color=drawing.COLORS[number], label=name)
  drawing.dress(axes[0], 'Five mixes after training', 'accuracy', 'brevity')
  x = records['step']
  drawing.curves(axes[1], {
      name: _dominated(*(np.moveaxis(arm[channel], 1, -1)
                         for channel in _CHANNELS))
      for name, arm in arms.items()}, x=x)
  drawing.dress(axes[1], 'Front', 'step', 'dominated area')
  drawing.curves(axes[2], {
      name: arm['largest'].mean(1) for name, arm in arms.items()}, x=x)
  drawing.dress(axes[2], 'Advantages', 'step', 'largest A² of a batch')
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
