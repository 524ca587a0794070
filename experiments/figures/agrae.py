"""A-GRAE: coverage of several right answers, and what keeps it.

    python experiments/figures/agrae.py [--fast]

32 prompts are bandits with 32 answers, 8 of which are right; how likely they
are at the start differs from prompt to prompt. A held-out problem is like its
prompt but takes only one of the 8, so many samples solve it only if the policy
has kept them all. Every step has the same length, so arms differ in where they
go; they are compared where each reaches the same success.
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

from experiments.figures import beds, drawing, figure, verdict
from policyopt import methods
from policyopt.envs import exact
from policyopt.training.credit import assign_credit, init_credit

METHODS = ('agrae',)
_PROMPTS, _SAMPLES, _ACTIONS, _RIGHT = 32, 8, 32, 8
# Lengths of a step, and the success at which diversity is compared.
_LENGTHS, _SUCCESS = (0.5, 1., 2.), 0.9
_TRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MANY = _TRIES.index(64)
# The two in the middle are ablations of the paper: one sign counts tenfold.
_ARMS = {
    'GRPO': lambda: methods.grpo(beta=0.),
    'positive-dominant': lambda: methods.agrae(
        focus='none', alpha=0., positive=10.),
    'negative-dominant': lambda: methods.agrae(
        focus='none', alpha=0., negative=10.),
    'A-GRAE': methods.agrae}


def _reached(records, name, key):
  """What an arm has when it reaches the success, mean over lengths: [S]."""
  return records[name][key].mean(1)


def _coverage(records, name):
  return records[name]['held_out'][..., _MANY].mean(1)


def _dominance(records):
  """By how much entropy falls at least in the order that is claimed: [S]."""
  up, none, down = (_reached(records, name, 'entropy_reached') for name in (
      'positive-dominant', 'GRPO', 'negative-dominant'))
  return np.minimum(none - up, down - none)


CLAIMS = (
    verdict.Claim(
        'A-GRAE raises pass@k at large k over GRPO.',
        'Held-out pass@64 when training success reaches 0.9, mean over '
        'lengths of a step: A-GRAE minus GRPO.', '',
        lambda r: _coverage(r, 'A-GRAE') - _coverage(r, 'GRPO')),
    verdict.Claim(
        'A-GRAE raises pass@1 over GRPO at the same time.',
        'Training success, mean over training and lengths of a step: A-GRAE '
        'minus GRPO.', '',
        lambda r: (r['A-GRAE']['success'] - r['GRPO']['success']).mean((1, 2))
    ),
    verdict.Claim(
        'Amplifying right answers loses entropy, amplifying wrong ones keeps '
        'it.',
        'Entropy when training success reaches 0.9, mean over lengths of a '
        'step: the smaller of negative-dominant minus GRPO and GRPO minus '
        'positive-dominant.', 'nats', _dominance),
    verdict.Claim(
        'Answers that nobody sampled gain under A-GRAE, and stand still under '
        'GRPO.',
        'Mean change of their logits in the first step, per unit of their '
        'probability and of the learning rate: A-GRAE minus the absolute '
        'value of GRPO.', '',
        lambda r: r['A-GRAE']['movement'].mean(1)
        - np.abs(r['GRPO']['movement']).mean(1)),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with steps of each length.

  Args:
    fast: fewer seeds, steps and lengths.

  Returns:
    The records: arm -> 'success' and 'entropy' [S, lengths, points],
    'held_out' [S, lengths, k] and 'entropy_reached' [S, lengths] where success
    reaches 0.9 (or at the end), 'movement' and 'balance' [S, prompts]; 'step'
    [points].
  """
  count, steps, lengths = (3, 60, _LENGTHS[1:2]) if fast else (
      32, 160, _LENGTHS)
  apart = steps // 20
  keys = beds.seeds(count)
  records = {}
  for name, make in _ARMS.items():
    one = lambda key, make=make: _arm(make(), key, steps, apart, lengths)
    records[name] = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))
  return records | {'step': np.arange(0, steps + 1, apart)}


def _arm(method, key, steps, apart, lengths):
  """One seed of one method."""
  drawn, train, probe = jax.random.split(key, 3)
  world = _world(drawn)

  def at(length):
    seen = beds.learn(
        world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
        learning_rate=length, optimizer=_steps_of_length,
        watch=lambda logits: dict(
            success=beds.objective(world, logits),
            entropy=beds.entropy(world, logits),
            held_out=_held_out(logits)))
    there = seen['success'] >= _SUCCESS
    first = jnp.where(there.any(), jnp.argmax(there), steps)
    return dict(
        success=seen['success'][::apart], entropy=seen['entropy'][::apart],
        held_out=seen['held_out'][first],
        entropy_reached=seen['entropy'][first])

  movement, balance = _first_step(world, method, probe)
  return jax.vmap(at)(jnp.array(lengths)) | dict(
      movement=movement, balance=balance)


def _steps_of_length(length):
  return optax.chain(optax.normalize_by_update_norm(), optax.sgd(length))


def _world(key) -> beds.World:
  """Bandits with 8 right answers, of 5% to 80% chance together."""
  logits = jax.random.normal(key, (_PROMPTS, _ACTIONS))
  right = jnp.arange(_ACTIONS) < _RIGHT
  total = lambda where: jax.nn.logsumexp(
      jnp.where(where, logits, -jnp.inf), axis=1, keepdims=True)
  p = jnp.linspace(0.05, 0.8, _PROMPTS)[:, None]
  logits = jnp.where(right, logits - total(right) + jnp.log(p),
                     logits - total(~right) + jnp.log1p(-p))
  reward = jnp.tile(right.astype(jnp.float32), (_PROMPTS, 1))
  return beds.World(exact.make_bed(_ACTIONS, 1), reward, logits[:, None])


def _held_out(logits):
  """pass@k where one of the 8 right answers is wanted, f32[k]."""
  chance = jax.nn.softmax(logits[:, 0])[:, :_RIGHT]
  return (1 - (1 - chance[..., None]) ** jnp.array(_TRIES)).mean((0, 1))


def _first_step(world, method, key):
  """What the first step does to answers that no row of the group is.

  Returns:
    (movement of their logits per unit of their probability, Σᵢ Aᵢ / B), both
    f32[Q].
  """
  rollout = beds.draw(
      world, world.reference, key, jnp.arange(_PROMPTS), _SAMPLES)
  state = init_credit(method)
  ascent = beds.gradient(world, method, state, world.reference, rollout)[0]
  sampled = jnp.zeros((_PROMPTS, _ACTIONS)).at[
      rollout.extras['prompt'], rollout.extras['sequence']].set(1.)
  chance = jax.nn.softmax(world.reference[:, 0])
  movement = (ascent[:, 0] * (1 - sampled)).sum(1) / (
      chance * (1 - sampled)).sum(1)
  advantages = assign_credit(method, state, rollout)[0].advantages
  balance = advantages.sum(1).reshape(_PROMPTS, _SAMPLES).sum(1)
  return movement, balance / (_PROMPTS * _SAMPLES)


def plot(records: dict):
  """Success, diversity at each success, coverage, unsampled answers."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  middle = records['GRPO']['success'].shape[1] // 2
  for axis, key, label in zip(
      axes, ('success', 'entropy'), ('success rate', 'entropy in nats')):
    drawing.curves(axis, {name: records[name][key][:, middle]
                          for name in _ARMS}, x=records['step'])
    drawing.dress(axis, key.capitalize(), 'step', label)
  drawing.curves(axes[2], {name: records[name]['held_out'].mean(1)
                           for name in _ARMS}, x=np.array(_TRIES))
  axes[2].set_xscale('log', base=2)
  drawing.dress(axes[2], f'Held out, at success {_SUCCESS}', 'samples k',
                'pass@k')
  for name, color in zip(_ARMS, drawing.COLORS):
    axes[3].plot(records[name]['balance'][0], records[name]['movement'][0],
                 '.', color=color, markersize=5)
  drawing.dress(axes[3], 'Unsampled answers', 'ΣA / B in a group',
                'movement of logits / π')
  for scale in axes[3].set_xscale, axes[3].set_yscale:
    scale('symlog', linthresh=1e-2)
  for axis in axes[3].xaxis, axes[3].yaxis:
    axis.set_ticks([-0.1, -0.01, 0, 0.01, 0.1])
  for axis in axes[:3]:
    axis.lines[-1].set_linestyle('--')  # It may lie upon GRPO's.
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
