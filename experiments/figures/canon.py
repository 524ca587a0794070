"""CANON: whichever half of a group earns more, and shorter answers.

    python experiments/figures/canon.py [--fast]

Branches: 16 prompts are trees of two tokens. After half of the first tokens the
second one is nearly certain, after the other half it is open. In one world the
certain branches are right more often, in the other the open ones, and the
comparison by entropy is to find out which.

Lengths: 16 prompts need 0 to 3 thinking tokens before the answer; more of them
do not hurt. The comparison by length, with α < 1, against a reward that each
token costs something of.
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
from policyopt.methods.advantages.canon import compare_halves

METHODS = ('canon',)
_PROMPTS, _SAMPLES = 16, 8
_MIXES = (0., 0.25, 0.5, 0.75, 1.)
_BRANCHES, _LONGEST = 8, 6
_ALPHAS = (0.96, 0.88, 0.8, 0.7, 0.5)
_COSTS = (0.01, 0.02, 0.05, 0.1, 0.2)
# The paper's best.
_ALPHA = _ALPHAS.index(0.88)
# Of plain gradient steps; no arm divides by a standard deviation.
_RATES = {'branches': 8., 'lengths': 40.}


def _towards(records):
  """Chance of a branch of the better kind, mean over training: [S, worlds, μ].
  """
  certain, open_ = (records[f'{name} branches pay']['open'].mean(-1)
                    for name in ('certain', 'open'))
  return np.stack([1 - certain, open_], axis=1)


def _saved(records):
  tokens = records['lengths']['CANON']['tokens'][:, _ALPHA]
  return 1 - tokens / records['lengths']['Dr. GRPO']['tokens'][:, 0]


def _above_frontier(records):
  """Success of CANON minus that of costs at the same length: [S]."""
  mine, theirs = (records['lengths'][name] for name in ('CANON', 'cost'))
  plain = records['lengths']['Dr. GRPO']
  gaps = []
  for seed in range(len(mine['tokens'])):
    # Without a cost it is Dr. GRPO.
    tokens, success = (
        np.append(theirs[key][seed], plain[key][seed])
        for key in ('tokens', 'success'))
    order = np.argsort(tokens)
    gaps.append(mine['success'][seed, _ALPHA] - np.interp(
        mine['tokens'][seed, _ALPHA], tokens[order], success[order]))
  return np.array(gaps)


CLAIMS = (
    verdict.Claim(
        'Comparing the halves with each other (μ = 1) amplifies the effect of '
        'entropy whatever its direction.',
        'Chance of a branch of the kind that pays, mean over training: μ = 1 '
        'minus Dr. GRPO (μ = ½), the smaller of both worlds.', '',
        lambda r: (_towards(r)[..., -1] - _towards(r)[..., 2]).min(1)),
    verdict.Claim(
        'μ is a monotone dial between the two comparisons.',
        'The same chance: the smallest difference between neighbouring μ, in '
        'either world.', '',
        lambda r: np.diff(_towards(r), axis=2).min((1, 2))),
    verdict.Claim(
        'CANON by length answers in fewer tokens than Dr. GRPO.',
        'Share of the tokens of Dr. GRPO that α = 0.88 saves, after the last '
        'step.', '', _saved),
    verdict.Claim(
        'CANON by length lies above the frontier of success and length that '
        'a cost of tokens in the reward reaches.',
        'Success of α = 0.88 after the last step minus that of a cost at the '
        'same mean length, interpolated between costs.', '',
        _above_frontier),
)


def run(fast: bool = False) -> dict:
  """Trains every μ in both worlds, and every α and cost.

  Args:
    fast: fewer seeds and steps.

  Returns:
    The records: world -> 'open', 'entropy' and 'success' [S, μ, points];
    'lengths' -> arm -> 'tokens' and 'success' [S, settings] after the last
    step; 'step' [points].
  """
  count, steps = (3, 40) if fast else (16, 200)
  apart = steps // 20
  keys = beds.seeds(count)
  over = lambda one: jax.tree.map(
      np.asarray, jax.jit(jax.vmap(one))(keys))
  return {
      'certain branches pay': over(
          lambda key: _branches(key, False, steps, apart)),
      'open branches pay': over(
          lambda key: _branches(key, True, steps, apart)),
      'lengths': over(lambda key: _lengths(key, steps)),
      'step': np.arange(0, steps + 1, apart)}


def _branches(key, open_pays, steps, apart):
  """One seed in one world, for all μ."""
  drawn, train = jax.random.split(key)
  world = _tree(drawn, open_pays)

  def watch(logits):
    first = jax.nn.softmax(logits[:, 0])
    return dict(open=first[:, _BRANCHES // 2:].sum(1).mean(),
                entropy=beds.entropy(world, logits),
                success=beds.objective(world, logits))

  def one(mu):
    seen = beds.learn(
        world, _canon(2, mu=mu), train, steps=steps, prompts=_PROMPTS,
        samples=_SAMPLES, learning_rate=_RATES['branches'], watch=watch)
    return jax.tree.map(lambda x: x[::apart], seen)

  return jax.vmap(one)(jnp.array(_MIXES))


def _canon(longest, **settings):
  """The recipe with settings that may be traced."""
  return methods.canon(max_tokens=longest)._replace(
      advantages=compare_halves(**settings))


def _tree(key, open_pays) -> beds.World:
  """Trees of two tokens; see the top."""
  luck, noise = jax.random.split(key)
  shape = (_PROMPTS, _BRANCHES, _BRANCHES)
  is_open = jnp.arange(_BRANCHES) >= _BRANCHES // 2
  # The likeliest second token of a certain branch is the first one.
  rate = jnp.where(is_open == open_pays, 0.7, 0.3)
  reward = jax.random.bernoulli(luck, rate[:, None], shape).astype(jnp.float32)
  second = 0.3 * jax.random.normal(noise, shape) + jnp.where(
      is_open[:, None], 0., 4. * (jnp.arange(_BRANCHES) == 0))
  logits = jnp.concatenate(
      [jnp.zeros((_PROMPTS, 1, _BRANCHES)), second], axis=1)
  return beds.World(
      exact.make_bed(_BRANCHES, 2), reward.reshape(_PROMPTS, -1), logits)


def _lengths(key, steps):
  """One seed of every α and every cost."""
  def one(method, cost):
    world = _thinking(cost)

    def watch(logits):
      chance = jax.vmap(exact.probs, (None, 0))(world.bed, logits)
      return dict(tokens=(chance * world.length).sum(1).mean(),
                  success=(chance * world.reward).sum(1).mean())

    seen = beds.learn(
        world, method, key, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
        learning_rate=_RATES['lengths'], watch=watch)
    return jax.tree.map(lambda x: x[-1], seen)

  plain = methods.dr_grpo(max_tokens=_LONGEST)
  with_cost = jax.vmap(lambda cost: one(plain, cost))(
      jnp.array((0., *_COSTS)))
  return {
      'Dr. GRPO': jax.tree.map(lambda x: x[:1], with_cost),
      'CANON': jax.vmap(lambda alpha: one(
          _canon(_LONGEST, metric='length', alpha=alpha), 0.))(
              jnp.array(_ALPHAS)),
      'cost': jax.tree.map(lambda x: x[1:], with_cost)}


def _thinking(cost) -> beds.World:
  """Any number of thoughts (0), then a right (1) or a wrong (2) answer."""
  bed = exact.make_bed(3, _LONGEST)
  thinks = (jnp.cumprod(bed.sequences == 0, axis=1)).sum(1)
  length = jnp.minimum(thinks + 1, _LONGEST)
  answer = jnp.take_along_axis(bed.sequences, length[:, None] - 1, 1)[:, 0]
  needed = jnp.arange(_PROMPTS) % 4
  reward = (answer == 1) & (thinks >= needed[:, None])
  reference = jnp.tile(
      jnp.array([1.5, 0., 0.]), (_PROMPTS, bed.prefixes, 1))
  return beds.World(
      bed, reward.astype(jnp.float32), reference, length,
      {'brevity': -cost * jnp.tile(length, (_PROMPTS, 1))})


def plot(records: dict):
  """Entropy and branches for each μ, and success against length."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  for axis, name in zip(
      axes, ('certain branches pay', 'open branches pay')):
    seen = records[name]['open']
    drawing.curves(axis, {f'μ = {mu:g}': seen[:, number]
                          for number, mu in enumerate(_MIXES)},
                   x=records['step'])
    drawing.dress(axis, name.capitalize(), 'step', 'chance of an open branch')
  for number, name in enumerate(
      ('certain branches pay', 'open branches pay')):
    final = records[name]['entropy'].mean(-1)
    ends = np.array([verdict.interval(final[:, mu])
                     for mu in range(len(_MIXES))]).T
    axes[2].errorbar(
        _MIXES, ends[0], yerr=[ends[0] - ends[1], ends[2] - ends[0]],
        marker='o', capsize=3, color=drawing.COLORS[5 + number],
        label=name.split()[0] + ' branches pay')
  axes[2].legend(fontsize=8, frameon=False)
  drawing.dress(axes[2], 'Entropy', 'μ', 'nats, mean over training')
  _frontier(axes[3], records['lengths'])
  drawing.legend(made, axes[0], columns=5)
  return made


def _frontier(axis, arms):
  """Success against length, a point a setting."""
  for (name, arm), color, marker in zip(
      arms.items(), ('black', *drawing.COLORS[3:]), 'sov'):
    ends = {key: np.array([verdict.interval(x) for x in arm[key].T]).T
            for key in ('tokens', 'success')}
    mean, low, high = zip(ends['tokens'], ends['success'])
    axis.errorbar(
        *mean, xerr=(mean[0] - low[0], high[0] - mean[0]),
        yerr=(mean[1] - low[1], high[1] - mean[1]),
        marker=marker, markersize=4, color=color, label={
            'CANON': 'CANON, α from 0.96 to 0.5',
            'cost': 'cost of a token, 0.01 to 0.2'}.get(name, name))
  axis.legend(fontsize=7, frameon=False, loc='lower right')
  drawing.dress(axis, 'Length', 'tokens of a response', 'success rate')


if __name__ == '__main__':
  figure.main(__name__)
