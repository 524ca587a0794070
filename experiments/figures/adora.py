"""ADORA: does longer thinking grow faster where it pays?

    python experiments/figures/adora.py [--fast]

A transformer tells the parity of 2 to 8 bits, after as much scratch work as it
likes. Its warm start shows the direct answer more often than running counts,
so it begins with short answers, and with counts that are not reliable yet. All
arms go on from the same warm start.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import numpy as np

from experiments.figures import drawing, figure, runs, verdict
from policyopt.envs.synthetic import parity

METHODS = ('adora',)
_ARMS = {
    'GRPO': dict(method='grpo'),
    'ADORA (attenuate)': dict(method='adora'),
    # The setting of the paper for text.
    'ADORA (amplify)': dict(
        method='adora', **{'method_kw.mode': 'amplify', 'method_kw.lam': 2.,
                           'method_kw.criterion': 'both'})}
_LENGTH = 'response_length'


def _more(name, key):
  """An arm minus GRPO, mean over training: records -> [S]."""
  return lambda records: (
      records[name][key] - records['GRPO'][key]).mean(1)


CLAIMS = (
    verdict.Claim(
        'ADORA reaches a higher accuracy than GRPO in the same steps.',
        'Success rate, mean over training: ADORA (attenuate, the released '
        'code for text) minus GRPO.', '',
        _more('ADORA (attenuate)', 'reward')),
    verdict.Claim(
        'ADORA grows long reasoning faster than GRPO.',
        'Tokens of a response, mean over training: ADORA (attenuate) minus '
        'GRPO.', 'tokens', _more('ADORA (attenuate)', _LENGTH)),
    verdict.Claim(
        'Amplifying advantaged prompts, as the paper does for text, reaches a '
        'higher accuracy than GRPO.',
        'Success rate, mean over training: ADORA (amplify) minus GRPO.', '',
        _more('ADORA (amplify)', 'reward')),
)


def run(fast: bool = False) -> dict:
  """Trains every arm.

  Args:
    fast: fewer seeds and steps.

  Returns:
    The records: arm -> 'reward' and 'response_length' [S, points], 'pass1'
    and 'pass1_before' [S].
  """
  seeds = runs.FAST_SEEDS if fast else runs.SEEDS
  size = dict(layers=1, width=16, prompts=4) if fast else {}
  settings = runs.config(
      'parity', parity.ALPHABET, max_tokens=12, steps=6 if fast else 120,
      warm_steps=30 if fast else 300, bits=8, shortest=2, scratch=0.2, **size)
  if fast:
    settings.evaluation.problems = 8
  # β is that of ADORA's published settings.
  found = runs.train(settings, {
      name: {'method_kw.beta': 0.001, **arm} for name, arm in _ARMS.items()},
      seeds, keep=('reward', _LENGTH))
  return {
      name: {key: arm[key] for key in (
          'reward', _LENGTH, 'pass1', 'pass1_before')}
      for name, arm in found.items()}


def plot(records: dict):
  """Accuracy and length while training, and accuracy at the end."""
  made, axes = drawing.panels(3)
  for axis, key, title, label in zip(
      axes, ('reward', _LENGTH), ('Accuracy', 'Length'),
      ('success rate', 'tokens of a response')):
    drawing.curves(axis, {name: records[name][key] for name in _ARMS})
    drawing.dress(axis, title, 'step', label)
  drawing.points(axes[2], {
      name: records[name]['pass1'] for name in _ARMS}, horizontal=False)
  axes[2].axhline(float(np.mean(records['GRPO']['pass1_before'])),
                  color='grey', linewidth=1, linestyle=':')
  axes[2].set_xticks(range(len(_ARMS)), ['GRPO', 'attenuate', 'amplify'])
  drawing.dress(axes[2], 'Held out', '', 'pass@1 (dotted: at the start)')
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
