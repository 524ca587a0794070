"""VERL: the effective rank of hidden states as a bonus for responses.

    python experiments/figures/verl_hidden.py [--fast]

A small transformer that can reverse and copy six digits learns by reward which
of the two a flag asks for. GRPO and VERL have the same loss, KL term and
entropy bonus. Windows of hidden states grow by one token, for responses have
seven, fewer than the states are wide; in the paper it is the other way round.
In GRPO's run it is watched how the rank of a response's hidden states, how
that rank grows, the entropy of its tokens and its reward hang together.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax.numpy as jnp
import numpy as np

from experiments.figures import drawing, figure, runs, verdict
from policyopt import credit, ops
from policyopt.envs.synthetic import rules

METHODS = ('verl_hidden',)
_DIGITS, _STRIDE = 6, 1
_SAME = {'method_kw.beta': 1e-3, 'method_kw.entropy_coef': 1e-3}
_ARMS = {
    'GRPO': {'method': 'grpo', 'method_kw.aggregation': 'token_mean', **_SAME},
    'VERL': {'method': 'verl_hidden', 'method_kw.stride': _STRIDE, **_SAME}}
# Pairs of which the correlation over the responses of a batch is watched.
_PAIRS = {'rank and its growth': ('rank', 'velocity'),
          'entropy and reward': ('entropy', 'reward')}


def _pass_at_most(records, name):
  """Problems that one of all samples solved: [S]."""
  return records[name]['solved'].any(-1).mean(-1)


def _correlation(records, pair):
  """Size of a correlation, mean over training: [S]."""
  values = records['GRPO'][pair]
  # Batches that are all right or all wrong have none.
  there = np.isfinite(values)
  return np.abs(np.where(there, values, 0).sum(1)) / np.maximum(
      there.sum(1), 1)


CLAIMS = (
    verdict.Claim(
        'VERL ends with a higher pass@1 than GRPO.',
        'Held-out pass@1 after the last step: VERL minus GRPO.', '',
        lambda r: r['VERL']['pass1'] - r['GRPO']['pass1']),
    verdict.Claim(
        'VERL ends with a higher pass@k than GRPO.',
        'Held-out problems that at least one of 8 samples solves after the '
        'last step: VERL minus GRPO.', '',
        lambda r: _pass_at_most(r, 'VERL') - _pass_at_most(r, 'GRPO')),
    verdict.Claim(
        'In hidden states exploration and exploitation are decoupled: the '
        'rank of a response and its growth hang together less than the '
        'entropy of its tokens and its reward.',
        "Correlation over the responses of a batch, mean over GRPO's "
        'training, absolute value: of entropy and reward minus of rank and '
        'growth.', '',
        lambda r: _correlation(r, 'entropy and reward')
        - _correlation(r, 'rank and its growth')),
)


def run(fast: bool = False) -> dict:
  """Trains both arms from one warm start.

  Args:
    fast: fewer seeds and steps.

  Returns:
    The records: arm -> 'reward' [S, steps], and for GRPO the correlations of
    `_PAIRS`; VERL's 'verl_hidden/rank' and '/bonus'; 'pass1',
    'pass1_before' [S] and 'solved' [S, problems, samples].
  """
  seeds, steps, warm = (2, 4, 10) if fast else (runs.SEEDS, 80, 260)
  settings = runs.config(
      'rules', rules.ALPHABET, max_tokens=_DIGITS + 1, steps=steps,
      warm_steps=warm, digits=_DIGITS, rules=2, prompts=16, samples=4,
      layers=1 if fast else 2, learning_rate=5e-4)

  return runs.train(
      settings, _ARMS, seeds, keep=('reward', 'verl_hidden/rank',
                                    'verl_hidden/bonus', *_PAIRS),
      finish=lambda name, method: _watched(method) if name == 'GRPO'
      else method)


def _watched(method):
  """The method, which reports correlations over the responses of a batch."""
  def metrics(x, state, rollout):
    del x, state
    mask = rollout.mask
    moved = ops.rank_dynamics(
        rollout.extras['hidden_states'], mask, stride=_STRIDE)
    seen = dict(
        rank=moved.rank, velocity=moved.velocity,
        entropy=ops.masked_mean(rollout.extras['entropy'], mask, axis=1),
        reward=rollout.extras['token_rewards'].sum(1))
    return {name: _correlated(seen[one], seen[other])
            for name, (one, other) in _PAIRS.items()}

  watch = credit.stateless(
      lambda x, rollout: x, {'hidden_states', 'entropy'}, metrics)
  return method._replace(weights=credit.chain(watch, method.weights))


def _correlated(x, y):
  """(correlation, 1), or (0, 0) where one of them is the same in all rows."""
  x, y = x - x.mean(), y - y.mean()
  size = jnp.sqrt(jnp.square(x).sum() * jnp.square(y).sum())
  there = size > 1e-6
  return (jnp.where(there, (x * y).sum() / jnp.where(there, size, 1), 0),
          there.astype(jnp.float32))


def plot(records: dict):
  """Reward, what VERL looks at, correlations, and the end."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  drawing.curves(axes[0], {name: records[name]['reward'] for name in _ARMS})
  drawing.dress(axes[0], 'Reward', 'step', 'mean reward')
  drawing.curves(axes[1], {name: records['GRPO'][name] for name in _PAIRS})
  drawing.dress(axes[1], 'Over the responses of a batch', 'step',
                'correlation')
  axes[1].axhline(0, color='0.5', linewidth=0.8)
  axes[1].legend(frameon=False, fontsize=8)
  drawing.curves(axes[2], {'VERL': records['VERL']['verl_hidden/bonus']})
  drawing.dress(axes[2], "VERL's bonus", 'step', 'advantage added')
  drawing.points(axes[3], {
      'GRPO, pass@1': records['GRPO']['pass1'],
      'VERL, pass@1': records['VERL']['pass1'],
      'GRPO, pass@8': _pass_at_most(records, 'GRPO'),
      'VERL, pass@8': _pass_at_most(records, 'VERL')})
  drawing.dress(axes[3], 'Held out, at the end', 'problems solved', '')
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
