"""GRPO, Dr. GRPO and DAPO: what the divisions, the clip and flat groups do.

    python experiments/figures/grpo.py [--fast]

Three grounds, all tabular. Length: 16 prompts are chains of five tokens; at
each the policy answers rightly, wrongly, or thinks on, and thinking on does
not help. Difficulty: the gradient of bandits of many success rates. Flat
groups and clip: 64 bandits of which a batch takes 16, with four updates a
batch, so that ratios leave 1; dynamic sampling draws three times as many groups
and keeps the first 16 that are not flat. Arms are compared at the same success
where it would differ otherwise.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np

from experiments.figures import (
    beds,
    drawing,
    figure,
    moments,
    theory,
    verdict,
    worlds,
)
from policyopt import methods
from policyopt.envs import exact

METHODS = ('grpo', 'dr_grpo', 'dapo')
_SAMPLES = 8
# Steps from one point of a curve that is kept to the next.
_APART = 4
# Chains.
_CHAINS, _DEPTH, _THINK = 16, 5, 0.6
_LENGTH_ARMS = {
    'GRPO': lambda: methods.grpo(beta=0.),
    'GRPO without σ': lambda: methods.grpo(beta=0., std='none'),
    'DAPO': lambda: methods.dapo(),
    'Dr. GRPO': lambda: methods.dr_grpo(max_tokens=_DEPTH)}
# Lengths of a step on chains, where aggregators differ in scale, and the
# success at which arms are compared.
_CHAIN_RATES, _MATCHED = (16., 32.), 0.7
# Success rates of the difficulty bandits; the one in the middle is compared
# with the two at the ends.
_RATES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
# Bandits for DAPO's parts.
_PROMPTS, _BATCH, _ACTIONS, _RIGHT, _REUSE = 64, 16, 16, 4, 4
_BANDIT_RATES, _LEARNED = (16., 32., 64.), 0.8
# (method, rounds of sampling)
_DAPO_ARMS = {
    'GRPO': (lambda: methods.grpo(beta=0.), 1),
    'clip-higher': (lambda: methods.grpo(beta=0., clip_high=0.28), 1),
    'dynamic sampling': (lambda: methods.dapo(clip_high=0.2), 3),
    'DAPO': (lambda: methods.dapo(), 3)}


def _extremes(records, name):
  """ln(weight of p = 0.02 and 0.98 / weight of p = 0.5): [S]."""
  scale = np.log(records['difficulty'][name])
  return scale[:, [0, -1]].mean(1) - scale[:, len(_RATES) // 2]


def _reached(records, ground, name):
  """What an arm has where success reaches a level, mean over rates: [S]."""
  return records[ground][name]['reached'].mean(1)


CLAIMS = (
    verdict.Claim(
        'Dividing by its own length lets wrong responses grow longer.',
        'E[length | wrong] where success reaches 0.7, mean over learning '
        'rates: GRPO without σ minus Dr. GRPO, which differ in that division.',
        'tokens',
        lambda r: _reached(r, 'length', 'GRPO without σ')
        - _reached(r, 'length', 'Dr. GRPO')),
    verdict.Claim(
        "GRPO's division by σ favours very easy and very hard prompts.",
        'ln of the weight w(p) of E[g] = w(p)·∇p at p = 0.02 and 0.98 over '
        'that at p = 0.5: GRPO minus Dr. GRPO.', 'nats',
        lambda r: _extremes(r, 'GRPO') - _extremes(r, 'Dr. GRPO')),
    verdict.Claim(
        'Dynamic sampling, which replaces groups that are all right or all '
        'wrong, learns in fewer steps.',
        'Success, mean over training and learning rates: with it minus '
        'without, both with the symmetric clip.', '',
        lambda r: (r['dapo']['dynamic sampling']['success']
                   - r['dapo']['GRPO']['success']).mean((1, 2))),
    verdict.Claim(
        'Clip-higher keeps entropy up.',
        'Entropy where success reaches 0.8, mean over learning rates: with '
        'ε_high = 0.28 minus with 0.2.', 'nats',
        lambda r: _reached(r, 'dapo', 'clip-higher')
        - _reached(r, 'dapo', 'GRPO')),
)


def run(fast: bool = False) -> dict:
  """Measures the three grounds.

  Args:
    fast: fewer seeds and steps.

  Returns:
    'length': arm -> 'success', 'wrong', 'right' [S, rates, points]; 'dapo':
    arm -> 'success', 'entropy', 'live' [S, rates, points]; both with 'reached'
    [S, rates], the second of these where success reaches its level;
    'difficulty': arm -> [S, success rates].
  """
  count, steps, rows = (3, 30, 30_000) if fast else (16, 160, 400_000)
  keys = beds.seeds(count)
  chains, bandits = _chains(), _bandits()
  arms = dict(list(_LENGTH_ARMS.items())[1::2]) if fast else _LENGTH_ARMS

  def each(one, key, level):
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))
    return {name: x[..., ::_APART] for name, x in seen.items()} | {
        'reached': _where(seen['success'], seen[key], level)}

  length = {name: each(lambda key, make=make: _chain_run(
      chains, make(), key, steps), 'wrong', _MATCHED)
            for name, make in arms.items()}
  dapo = {name: each(lambda key, arm=arm: _bandit_run(
      bandits, arm[0](), arm[1], key, steps), 'entropy', _LEARNED)
          for name, arm in _DAPO_ARMS.items()}
  return dict(length=length, dapo=dapo, difficulty=_difficulty(rows, count))


def _where(success, values, level):
  """The value where success first reaches a level, or at the end."""
  there = success >= level
  first = np.where(there.any(-1), there.argmax(-1), there.shape[-1] - 1)
  return np.take_along_axis(values, first[..., None], -1)[..., 0]


def _chains() -> beds.World:
  """Token 1 is the right answer, 0 a wrong one, 2 thinks on."""
  bed = exact.make_bed(3, _DEPTH)
  tokens = np.asarray(bed.sequences)
  ended = tokens != 2
  first = np.where(ended.any(1), ended.argmax(1), _DEPTH - 1)
  right = tokens[np.arange(len(tokens)), first] == 1
  p = jnp.linspace(0.2, 0.8, _CHAINS)[:, None]
  chances = jnp.concatenate([
      (1 - _THINK) * (1 - p), (1 - _THINK) * p, 0 * p + _THINK], axis=1)
  return beds.World(
      bed, jnp.tile(jnp.asarray(right, jnp.float32), (_CHAINS, 1)),
      jnp.tile(jnp.log(chances)[:, None], (1, bed.prefixes, 1)),
      length=jnp.asarray(first + 1, jnp.int32))


def _chain_run(world, method, key, steps):
  def watch(logits):
    chance = jax.vmap(exact.probs, (None, 0))(world.bed, logits)
    def of(where):
      return ((chance * where * world.length).sum(1)
              / (chance * where).sum(1)).mean()
    return dict(success=beds.objective(world, logits),
                wrong=of(1 - world.reward), right=of(world.reward))

  return jax.lax.map(lambda rate: beds.learn(
      world, method, key, steps=steps, prompts=_CHAINS, samples=_SAMPLES,
      learning_rate=rate, watch=watch), jnp.array(_CHAIN_RATES))


def _bandits() -> beds.World:
  """Success rates from very low to very high, four right answers each."""
  return worlds.bandits(
      jax.random.key(0), jax.nn.sigmoid(jnp.linspace(-5, 5, _PROMPTS)),
      _ACTIONS, _RIGHT)


def _bandit_run(world, method, rounds, key, steps):
  def watch(logits):
    p = jax.vmap(exact.expected, (None, 0, 0))(
        world.bed, logits, world.reward)
    return dict(
        success=p.mean(), entropy=beds.entropy(world, logits),
        live=(1 - p ** _SAMPLES - (1 - p) ** _SAMPLES).mean())

  return jax.lax.map(lambda rate: beds.learn(
      world, method, key, steps=steps, prompts=_BATCH, samples=_SAMPLES,
      learning_rate=rate, reuse=_REUSE, rounds=rounds, watch=watch),
                     jnp.array(_BANDIT_RATES))


def _difficulty(rows, seeds):
  """w(p) of every prompt and arm, [S, success rates]."""
  p = jnp.array(_RATES)
  logits = jnp.stack([jnp.log(p), jnp.log1p(-p)], axis=1)[:, None]
  world = beds.World(exact.make_bed(2, 1), jnp.tile(
      jnp.array([[1., 0.]]), (len(p), 1)), logits)
  arms = {'GRPO': methods.grpo(beta=0.),
          'Dr. GRPO': methods.dr_grpo(max_tokens=1)}
  found = moments.moments(
      world, arms, logits, samples=_SAMPLES, rows=rows, seeds=seeds)
  slope = theory.policy_gradient(world, logits)[:, 0, 0]
  return {name: found[name]['mean'].reshape(seeds, len(p), 2)[..., 0] / slope
          for name in arms}


def plot(records: dict):
  """Lengths, difficulty weights, and DAPO's parts."""
  made, axes = drawing.panels(6)
  length, dapo = records['length'], records['dapo']
  middle = len(_BANDIT_RATES) // 2
  for axis, key in zip(axes, ('wrong', 'right')):
    for place, (name, arm) in enumerate(length.items()):
      axis.plot(arm['success'][:, 0].mean(0), arm[key][:, 0].mean(0),
                label=name, color=drawing.COLORS[place])
    axis.axvline(_MATCHED, color='black', linewidth=0.8, linestyle=':')
    drawing.dress(axis, f'Length of {key} responses', 'success rate',
                  f'E[length | {key}], tokens')
  axes[0].legend(fontsize=7, frameon=False)
  grid = np.linspace(0.01, 0.99, 99)
  for place, (name, rule) in enumerate({
      'GRPO': theory.by_std,
      'Dr. GRPO': lambda k, count: (1 - k / count, -k / count)}.items()):
    color = drawing.COLORS[place * 3]
    axes[2].plot(grid, [theory.weight(rule, x, _SAMPLES) for x in grid],
                 color=color, linewidth=1, label=name)
    axes[2].plot(_RATES, records['difficulty'][name].mean(0), 'o',
                 color=color, markersize=4)
  axes[2].legend(fontsize=7, frameon=False)
  drawing.dress(axes[2], 'Weight of a prompt (lines: theory)',
                'success rate p', 'w of E[g] = w(p)·∇p')
  steps = _APART * np.arange(dapo['GRPO']['success'].shape[-1])
  for axis, key, title, label in zip(
      axes[3:], ('success', 'live', 'entropy'),
      ('Success', 'Groups with a signal', 'Entropy'),
      ('success rate', 'share of groups', 'nats')):
    drawing.curves(axis, {name: arm[key][:, middle]
                          for name, arm in dapo.items()}, x=steps)
    drawing.dress(axis, title, 'step', label)
  axes[3].legend(fontsize=7, frameon=False)
  return made


if __name__ == '__main__':
  figure.main(__name__)
