"""D³S: how much is learned from the few rows and tokens that are kept.

    python experiments/figures/d3s.py [--fast]

32 prompts with sequences of six tokens: two tokens of which the policy is
unsure decide the answer, the other four are nearly certain, and an answer with
another token there is wrong. A token counts as learned from if its weight is
not 0. Besides D³S: rows only (D¹S), both levels without a schedule (D²S), and
as many rows and tokens as D³S keeps but at random. Every arm has the learning
rate of one grid with which it does best on other seeds.
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
from policyopt import credit, methods, ops, types
from policyopt.envs import exact

METHODS = ('d3s',)
_PROMPTS, _SAMPLES, _BRANCHES, _TOKENS = 32, 8, 3, 6
_FORKS = (0, 3)
_RATES = (20., 80., 320., 1280.)
# Rows and tokens that are kept, at first and at last: those of the recipe.
_ROWS, _KEPT = (0.25, 0.75), (0.2, 0.6)
_GOAL = 0.5


def _keep_any() -> types.CreditTransform:
  """Keeps as many rows and tokens as D³S does, whichever they are."""
  def keep(x, rollout):
    done, luck = rollout.extras['progress'][0], rollout.extras['luck']
    count = jnp.round(_between(_ROWS, done) * len(luck))
    rows = jnp.argsort(jnp.argsort(luck[:, 0])) < count
    # What decides about a row says nothing of its tokens.
    return ops.fill(x, ops.top_fraction(
        jnp.roll(luck, 1, axis=0), rows[:, None] & rollout.mask,
        _between(_KEPT, done)))
  return credit.stateless(keep, {'progress', 'luck'})


def _between(ends, done):
  return (1 - done) * ends[0] + done * ends[1]


_GRPO = functools.partial(methods.grpo, beta=0., aggregation='token_mean')
# Method, and the fractions of rows and tokens it keeps at first and at last.
_ARMS = {
    'GRPO': (_GRPO, (1., 1.), (1., 1.)),
    'random': (lambda: _GRPO()._replace(weights=credit.chain(
        _keep_any(), credit.aggregate('token_mean'))), _ROWS, _KEPT),
    'D¹S': (lambda: methods.d3s(tokens_init=1., tokens_final=1.),
            _ROWS, (1., 1.)),
    'D²S': (lambda: methods.d3s(rows_final=_ROWS[0], tokens_final=_KEPT[0]),
            (_ROWS[0],) * 2, (_KEPT[0],) * 2),
    'D³S': (methods.d3s, _ROWS, _KEPT)}


def _tokens(name, steps):
  """Tokens that an arm has learned from before step 0, 1, ..., `steps`."""
  done = np.arange(steps) / steps
  kept = np.prod([_between(ends, done) for ends in _ARMS[name][1:]], axis=0)
  return np.append(0, np.cumsum(kept)) * _PROMPTS * _SAMPLES * _TOKENS


def _cost(records, name):
  """ln of the tokens until half of the answers are right: [S].

  An arm that never gets there has cost what all tokens of all steps do.
  """
  success = records[name]['success']
  steps = success.shape[1] - 1
  there = success >= _GOAL
  return np.log(np.where(there.any(1), _tokens(name, steps)[there.argmax(1)],
                         _tokens('GRPO', steps)[-1]))


CLAIMS = (
    verdict.Claim(
        'D³S learns faster than GRPO from the same rollouts.',
        'Success rate, mean over training: D³S minus GRPO.', '',
        lambda r: (r['D³S']['success'] - r['GRPO']['success']).mean(1)),
    verdict.Claim(
        'D³S needs fewer tokens in its updates to be as good as GRPO.',
        'ln of the tokens learned from until the success rate is 0.5: GRPO '
        'minus D³S.', 'nats',
        lambda r: _cost(r, 'GRPO') - _cost(r, 'D³S')),
    verdict.Claim(
        'The schedule matters: D³S ends better than D²S, which keeps as few '
        'to the end.',
        'Success rate after the last step: D³S minus D²S.', '',
        lambda r: (r['D³S']['success'] - r['D²S']['success'])[:, -1]),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with every learning rate of the grid.

  Args:
    fast: fewer seeds, steps and arms.

  Returns:
    arm -> 'success' and 'entropy' [S, steps + 1], 'rate', 'scores'.
  """
  count, tries, steps = (2, 1, 12) if fast else (16, 4, 80)
  return {
      name: tuning.tuned(
          functools.partial(_train, make(), steps), _RATES, count, tries,
          lambda r: r['success'].mean(1))
      for name, (make, _, _) in _ARMS.items()
      if not fast or name in ('GRPO', 'D²S', 'D³S')}


def _train(method, steps, key, rate):
  """One seed of one arm: what is seen at every step."""
  world_key, key = jax.random.split(key)
  world = _world(world_key)
  return beds.learn(
      world, method, key, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=rate, watch=lambda logits: dict(
          success=beds.objective(world, logits),
          entropy=beds.entropy(world, logits)),
      extras=lambda rollout, key: dict(
          luck=jax.random.uniform(key, rollout.mask.shape)))


def _world(key) -> beds.World:
  """One choice of the forks' tokens is right, if all others are 0."""
  bed = exact.make_bed(_BRANCHES, _TOKENS)
  shape, right = jax.random.split(key)
  fork = np.isin(np.arange(_TOKENS), _FORKS)
  # Prefixes of a place are neighbours, so each has its place.
  place = np.repeat(np.arange(_TOKENS), _BRANCHES ** np.arange(_TOKENS))
  free = jax.random.normal(shape, (_PROMPTS, bed.prefixes, _BRANCHES))
  sure = jnp.where(jnp.arange(_BRANCHES) == 0, 4., 0.)
  logits = jnp.where(fork[place][:, None], free, sure + 0.3 * free)
  wanted = jnp.where(fork, jax.random.randint(
      right, (_PROMPTS, _TOKENS), 0, _BRANCHES), 0)
  reward = (bed.sequences[None] == wanted[:, None]).all(-1)
  return beds.World(bed, reward.astype(jnp.float32), logits)


def plot(records: dict):
  """Success by step and by tokens, and entropy."""
  made, axes = drawing.panels(3)
  steps = records['GRPO']['success'].shape[1] - 1
  drawing.curves(axes[0], {
      name: arm['success'] for name, arm in records.items()},
      x=np.arange(steps + 1))
  drawing.dress(axes[0], 'By step', 'step', 'success rate')
  for number, (name, arm) in enumerate(records.items()):
    axes[1].plot(
        _tokens(name, steps) / 1e3, arm['success'].mean(0), linewidth=1.6,
        color=drawing.COLORS[number])
  axes[1].set_xscale('symlog', linthresh=1)
  drawing.dress(axes[1], 'By tokens', 'tokens learned from, thousands',
                'success rate')
  drawing.curves(axes[2], {
      name: arm['entropy'] for name, arm in records.items()},
      x=np.arange(steps + 1))
  drawing.dress(axes[2], 'Entropy', 'step', 'of sequences, nats')
  drawing.legend(made, axes[0], columns=5)
  return made


if __name__ == '__main__':
  figure.main(__name__)
