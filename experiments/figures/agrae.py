"""A-GRAE: coverage of several right answers, and what keeps it.

    python experiments/figures/agrae.py [--fast]

32 prompts are bandits with 32 answers, 8 of which are right; how likely they
are at the start differs from prompt to prompt. A held-out problem is like its
prompt but takes only one of the 8, so many samples solve it only if the policy
has kept them all. Every arm trains at each rate of the same grid and is judged
at its own best, by final success.
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
from policyopt.training.credit import assign_credit, init_credit

METHODS = ('agrae',)
_PROMPTS, _SAMPLES, _ACTIONS, _RIGHT = 32, 8, 32, 8
_RATES = (1., 4., 16., 64.)
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


def _best(records, name):
  """The index of an arm's best rate."""
  return int(records[name]['success'][:, :, -1].mean(0).argmax())


def _at_best(records, name, key):
  """What an arm recorded at its best rate, [S, ...]."""
  return records[name][key][:, _best(records, name)]


def _last(records, name, key):
  return _at_best(records, name, key)[:, -1]


def _coverage(records, name):
  return _at_best(records, name, 'held_out')[:, _MANY]


def _dominance(records):
  """By how much entropy falls at least in the order that is claimed: [S]."""
  up, none, down = (_last(records, name, 'entropy') for name in (
      'positive-dominant', 'GRPO', 'negative-dominant'))
  return np.minimum(none - up, down - none)


CLAIMS = (
    verdict.Claim(
        'A-GRAE raises pass@k at large k over GRPO.',
        'Held-out pass@64 after the last step, each arm at its best learning '
        'rate: A-GRAE minus GRPO.', '',
        lambda r: _coverage(r, 'A-GRAE') - _coverage(r, 'GRPO')),
    verdict.Claim(
        'A-GRAE raises pass@1 over GRPO at the same time.',
        'Success on the training prompts after the last step, each arm at its '
        'best learning rate: A-GRAE minus GRPO.', '',
        lambda r: _last(r, 'A-GRAE', 'success') - _last(r, 'GRPO', 'success')),
    verdict.Claim(
        'Amplifying right answers loses entropy, amplifying wrong ones keeps '
        'it.',
        'Entropy after the last step, each arm at its best learning rate: the '
        'smaller of negative-dominant minus GRPO and GRPO minus '
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
  """Trains every arm at every rate.

  Args:
    fast: fewer seeds, steps and rates.

  Returns:
    The records: arm -> 'success' and 'entropy' [S, rates, points], 'held_out'
    [S, rates, k], 'movement' and 'balance' [S, prompts]; 'step' [points],
    'rate' [rates].
  """
  count, steps, rates = (3, 40, _RATES[1:3]) if fast else (32, 200, _RATES)
  apart = steps // 40
  keys = beds.seeds(count)
  records = {}
  for name, make in _ARMS.items():
    one = lambda key, make=make: _arm(make(), key, steps, apart, rates)
    records[name] = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))
  return records | {
      'step': np.arange(0, steps + 1, apart), 'rate': np.array(rates)}


def _arm(method, key, steps, apart, rates):
  """One seed of one method."""
  drawn, train, probe = jax.random.split(key, 3)
  world = _world(drawn)

  def at(rate):
    seen = beds.learn(
        world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
        learning_rate=rate, watch=lambda logits: dict(
            success=beds.objective(world, logits),
            entropy=beds.entropy(world, logits),
            held_out=_held_out(logits)))
    return seen

  seen = jax.vmap(at)(jnp.array(rates))
  movement, balance = _first_step(world, method, probe)
  return dict(
      success=seen['success'][:, ::apart], entropy=seen['entropy'][:, ::apart],
      held_out=seen['held_out'][:, -1], movement=movement, balance=balance)


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
  """Success, entropy, coverage, and where unsampled answers go."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  for axis, key, label in zip(
      axes, ('success', 'entropy'), ('success rate', 'entropy in nats')):
    drawing.curves(axis, {name: _at_best(records, name, key)
                          for name in _ARMS}, x=records['step'])
    drawing.dress(axis, key.capitalize(), 'step', label)
  drawing.curves(axes[2], {name: _at_best(records, name, 'held_out')
                           for name in _ARMS}, x=np.array(_TRIES))
  axes[2].set_xscale('log', base=2)
  drawing.dress(axes[2], 'Held out', 'samples k', 'pass@k')
  for name, color in zip(_ARMS, drawing.COLORS):
    axes[3].plot(records[name]['balance'][0], records[name]['movement'][0],
                 '.', color=color, markersize=5)
  drawing.dress(axes[3], 'Unsampled answers', 'ΣA / B in a group',
                'movement of logits / π')
  axes[3].set_xscale('symlog', linthresh=1e-3)
  axes[3].set_yscale('symlog', linthresh=1e-3)
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
