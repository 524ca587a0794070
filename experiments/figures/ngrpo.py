"""NGRPO: learning from prompts whose sampled answers are all wrong.

    python experiments/figures/ngrpo.py [--fast]

64 prompts, each with one right answer out of 64 sequences of three tokens and
a first chance of 0.0001 to 0.03 to find it, so that most groups of 8 are all
wrong. Each batch serves four updates, so the clips act. Flat groups weigh
nothing, as with DAPO and NGRPO, but are not replaced by new ones. Every arm
has the learning rate of one grid with which it does best on other seeds.
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

from experiments.figures import beds, drawing, figure, tuning, verdict, worlds
from policyopt import methods
from policyopt.envs import exact

METHODS = ('ngrpo',)
_PROMPTS, _SAMPLES, _BRANCHES, _TOKENS, _REUSE = 64, 8, 4, 3, 4
_RATES = (80., 320., 1280.)
# pass@k is seen for these k, and its area is the mean over them.
_KS = tuple(2 ** i for i in range(9))
_ARMS = {
    'GRPO': lambda: methods.grpo(beta=0.), 'DAPO': methods.dapo,
    'NGRPO': methods.ngrpo,
    'NGRPO, clip ±0.2': lambda: methods.ngrpo(clip_low=0.2, clip_high=0.2)}


def _area(records, name):
  """Area under pass@k over log₂ k at the end of training: [S]."""
  return records[name]['pass_at_k'][:, -1].mean(-1)


CLAIMS = (
    verdict.Claim(
        'NGRPO ends with a larger area under pass@k than GRPO and DAPO.',
        'Mean of exact pass@k over k = 1, 2, 4, ..., 256 after the last step: '
        'NGRPO minus the better of GRPO and DAPO.', '',
        lambda r: _area(r, 'NGRPO') - np.maximum(
            _area(r, 'GRPO'), _area(r, 'DAPO'))),
    verdict.Claim(
        'Learning from groups that are all wrong keeps exploring: NGRPO keeps '
        'more entropy than GRPO.',
        'Entropy of sequences, mean over training: NGRPO minus GRPO.', 'nats',
        lambda r: (r['NGRPO']['entropy'] - r['GRPO']['entropy']).mean(1)),
    verdict.Claim(
        'The asymmetric clip is better than a symmetric one.',
        'Mean of exact pass@k over k = 1, 2, 4, ..., 256 after the last step: '
        'NGRPO with its clip 0.16 and 0.24 minus NGRPO with 0.2 and 0.2.', '',
        lambda r: _area(r, 'NGRPO') - _area(r, 'NGRPO, clip ±0.2')),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with every learning rate of the grid.

  Args:
    fast: fewer seeds and steps.

  Returns:
    arm -> 'pass_at_k' [S, points, k], 'entropy', 'mixed' and 'failed'
    [S, points], 'rate', 'scores'; and 'step' [points].
  """
  count, tries, points, apart = (3, 2, 5, 5) if fast else (16, 6, 25, 5)
  steps = (points - 1) * apart
  records = {
      name: tuning.tuned(
          functools.partial(_train, make(), steps, apart), _RATES, count,
          tries, lambda r: r['pass_at_k'][:, -1].mean(-1))
      for name, make in _ARMS.items()}
  return records | {'step': np.arange(points) * apart}


def _train(method, steps, apart, key, rate):
  """One seed of one method: what is seen every `apart` steps."""
  world_key, key = jax.random.split(key)
  world = _world(world_key)

  def watch(logits):
    p = (jax.vmap(exact.probs, (None, 0))(world.bed, logits)
         * world.reward).sum(1)
    solved, failed = p ** _SAMPLES, (1 - p) ** _SAMPLES
    return dict(
        pass_at_k=jnp.stack([(1 - (1 - p) ** k).mean() for k in _KS]),
        entropy=beds.entropy(world, logits),
        mixed=(1 - solved - failed).mean(), failed=failed.mean())

  seen = beds.learn(
      world, method, key, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=rate, watch=watch, reuse=_REUSE)
  return jax.tree.map(lambda x: x[::apart], seen)


def _world(key) -> beds.World:
  """Random policies; right is what has a chance of about 0.0001 to 0.03."""
  shape, wanted = jax.random.split(key)
  return worlds.one_right(
      shape, wanted, _PROMPTS, _BRANCHES, _TOKENS, 1e-4, 0.03)[0]


def plot(records: dict):
  """Groups that teach, success, entropy, and pass@k at the end."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  arms = {name: records[name] for name in _ARMS}
  x = records['step']
  # All wrong groups teach NGRPO only.
  useful = {name: arm['mixed'] + arm['failed'] * name.startswith('NGRPO')
            for name, arm in arms.items()}
  drawing.curves(axes[0], useful, x=x)
  drawing.dress(axes[0], 'Groups with a gradient', 'step', 'expected share')
  drawing.learning(axes[1:], arms, x, _KS)
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
