"""HAPO: responses of undecided forks and nearly certain fillers.

    python experiments/figures/hapo.py [--fast]

Tokens take turns: at a fork any of three branches may be likely, at a filler
one token is right and has a chance of 0.97. A response is right when its forks
are the one combination of 21 that its prompt takes and no filler is wrong;
three of the combinations make short responses. Each batch serves eight
updates, so the clips act. DAPO gets each part of HAPO by itself, and all of
them; groups that are all right or all wrong weigh nothing but are not
replaced. Every arm has the learning rate of one grid with which it does best
on other seeds.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import beds, drawing, figure, tuning, verdict
from policyopt import methods, ops
from policyopt.envs import exact

METHODS = ('hapo', 'dapo')
_PROMPTS, _SAMPLES, _BRANCHES, _TOKENS, _REUSE = 8, 16, 3, 6, 8
_RATES = (20., 80., 320.)
_FORKS = np.arange(_TOKENS) % 2 == 0
# A response whose first fork is the last branch ends here.
_SHORT = 4
_OFF = dict(tau=0., token_average=False, adv_beta=0., clip_alpha=0.)
_PARTS = {'A': ('+ A, heat', 'tau'), 'B': ('+ B, token mean', 'token_average'),
          'C': ('+ C, redistribution', 'adv_beta'),
          'D': ('+ D, clip', 'clip_alpha')}


def _with(part):
  _, switch = _PARTS[part]
  return lambda: methods.hapo(
      **{name: value for name, value in _OFF.items() if name != switch})


_ARMS = {'DAPO': methods.dapo,
         **{name: _with(part) for part, (name, _) in _PARTS.items()},
         'HAPO': methods.hapo}


def _gain(records, name):
  """Success, mean over training, minus DAPO's: [S]."""
  return (records[name]['success'] - records['DAPO']['success']).mean(1)


CLAIMS = (
    verdict.Claim(
        'HAPO learns to be right more often than DAPO.',
        'Success rate, mean over training: HAPO minus DAPO.', '',
        lambda r: _gain(r, 'HAPO')),
    verdict.Claim(
        'Each of its four parts improves on DAPO by itself.',
        'Success rate, mean over training: the lowest of the four arms with '
        'one part (by its mean over seeds) minus DAPO.', '',
        lambda r: min((_gain(r, name) for name, _ in _PARTS.values()),
                      key=np.mean)),
    verdict.Claim(
        'Its clip lets wrong tokens of low entropy become rarer faster.',
        'ln of the chance that a filler is wrong, mean over training: DAPO '
        'minus DAPO with part D.', 'nats',
        lambda r: np.log(r['DAPO']['mistakes'] / r[_PARTS['D'][0]]['mistakes']
                         ).mean(1)),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with every learning rate of the grid.

  Args:
    fast: fewer seeds, steps and rates.

  Returns:
    The records: arm -> 'success', 'forks', 'fillers' (entropies in nats) and
    'mistakes', all [S, steps + 1], and what `tuning.tuned` adds.
  """
  count, steps, rates = (3, 10, _RATES[1:2]) if fast else (16, 60, _RATES)
  return {name: tuning.tuned(
      lambda key, rate, make=make: _arm(make(), key, steps, rate), rates,
      count, 1 if fast else 6, lambda run: run['success'])
          for name, make in _ARMS.items()}


def _arm(method, key, steps, rate):
  """One seed of one method with one learning rate."""
  drawn, train = jax.random.split(key)
  world = _world(drawn)

  def heated(logits, state):
    return logits / ops.heated(
        _entropies(logits), method.heat(state[-1]))[..., None]

  return beds.learn(
      world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=rate, reuse=_REUSE,
      sampler=None if method.heat is None else heated,
      watch=lambda logits: dict(
          success=beds.objective(world, logits), **_seen(world, logits)))


def _entropies(logits):
  table = jax.nn.log_softmax(logits)
  return -(jnp.exp(table) * table).sum(-1)


def _seen(world, logits):
  """Entropy of forks and of fillers, and how often a filler is wrong."""
  bed = world.bed
  tables = jax.vmap(exact.log_probs, (None, 0))(bed, logits)
  there = jnp.arange(_TOKENS)[None] < world.length[:, None]
  # Every sequence counts, those that differ after their end as well.
  weight = jnp.exp(tables.sum(-1))[..., None] * there  # [Q, Y, T]
  mean = lambda x, where: (
      weight * x * where).sum() / (weight * where).sum()
  entropy = _entropies(logits)[:, bed.prefix]
  wrong = 1 - jax.nn.softmax(logits)[:, bed.prefix, 0]
  return dict(forks=mean(entropy, _FORKS), fillers=mean(entropy, ~_FORKS),
              mistakes=mean(wrong, ~_FORKS))


def _world(key) -> beds.World:
  """One combination of forks is right, of 18 long ones and 3 short ones."""
  bed = exact.make_bed(_BRANCHES, _TOKENS)
  forks = bed.sequences[:, _FORKS]
  short = forks[:, 0] == _BRANCHES - 1
  place, pick = jax.random.split(key)
  level = np.concatenate([
      np.full(_BRANCHES ** t, t) for t in range(_TOKENS)])
  certain = jnp.log(0.97 / 0.015) * (jnp.arange(_BRANCHES) == 0)
  logits = jnp.where(
      _FORKS[level][:, None],
      jax.random.normal(place, (_PROMPTS, bed.prefixes, _BRANCHES)), certain)
  # Combinations by number: the long ones, then those that end early.
  number = (forks[:, 0] * _BRANCHES + forks[:, 1]) * _BRANCHES + forks[:, 2]
  long = (_BRANCHES - 1) * _BRANCHES ** 2
  number = jnp.where(short, long + forks[:, 1], number)
  first, second, last = bed.sequences[:, ~_FORKS].T
  correct = (first == 0) & (second == 0) & (short | (last == 0))
  taken = jax.random.randint(pick, (_PROMPTS, 1), 0, long + _BRANCHES)
  pay = (number[None] == taken) & correct[None]
  return beds.World(bed, pay.astype(jnp.float32), logits,
                    jnp.where(short, _SHORT, _TOKENS))


def plot(records: dict):
  """Success, entropy at forks, mistakes at fillers, and each part's gain."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  steps = np.arange(records['DAPO']['success'].shape[1])
  for axis, key, title, label in zip(
      axes, ('success', 'forks', 'mistakes'),
      ('Success', 'Forks', 'Fillers'),
      ('success rate', 'entropy in nats', 'chance of a mistake')):
    drawing.curves(axis, {name: records[name][key] for name in _ARMS}, x=steps)
    drawing.dress(axis, title, 'batch', label)
  axes[2].set_yscale('log')
  drawing.points(axes[3], {name: _gain(records, name) for name in _ARMS})
  drawing.dress(axes[3], 'Gain on DAPO', 'success rate, mean over training',
                '')
  axes[3].axvline(0, color='0.5', linewidth=0.8)
  drawing.legend(made, axes[0], columns=6)
  return made


if __name__ == '__main__':
  figure.main(__name__)
