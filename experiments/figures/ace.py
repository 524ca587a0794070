"""ACE: how a wrong answer that the policy has come to trust is unlearned.

    python experiments/figures/ace.py [--fast]

64 prompts with one right answer out of 64 sequences of three tokens, which
the reference policy finds with a chance of 0.003 to 0.3. Training starts from
policies that give 80% of their chance to one wrong answer, as if earlier
training had gone astray. Each batch serves four updates. Every arm has the
learning rate of one grid with which it does best on other seeds.
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

METHODS = ('ace',)
_PROMPTS, _SAMPLES, _BRANCHES, _TOKENS, _REUSE = 64, 8, 4, 3, 4
_RATES = (20., 80., 320., 1280., 5120.)
_KS = (1, 2, 4, 8, 16, 32)
# Of the wrong mode, before training.
_TRUST = 0.8
_ARMS = {
    'GRPO': lambda: methods.grpo(beta=0.), 'GRPO + ACE': methods.ace,
    'DAPO': methods.dapo,
    'DAPO + ACE': lambda: methods.dapo()._replace(
        advantages=methods.ace().advantages)}


def _gain(base):
  """pass@32 after the last step, with ACE minus without: records -> [S]."""
  return lambda r: (r[f'{base} + ACE']['pass_at_k']
                    - r[base]['pass_at_k'])[:, -1, -1]


CLAIMS = (
    verdict.Claim(
        'ACE raises pass@32 of GRPO.',
        'Exact pass@32 after the last step: with ACE minus without.', '',
        _gain('GRPO')),
    verdict.Claim(
        'ACE raises pass@32 of DAPO.',
        'Exact pass@32 after the last step: with ACE minus without.', '',
        _gain('DAPO')),
    verdict.Claim(
        'ACE takes its chance from an over-confident error sooner.',
        'Chance of the wrong mode, mean over training: GRPO minus GRPO with '
        'ACE.', '',
        lambda r: (r['GRPO']['mode'] - r['GRPO + ACE']['mode']).mean(1)),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with every learning rate of the grid.

  Args:
    fast: fewer seeds and steps.

  Returns:
    arm -> 'pass_at_k' [S, points, k], 'mode' and 'entropy' [S, points],
    'rate', 'scores'; and 'step' [points].
  """
  count, tries, points, apart = (3, 2, 5, 4) if fast else (16, 6, 31, 2)
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
  world, mode, start = _world(world_key)

  def watch(logits):
    chances = jax.vmap(exact.probs, (None, 0))(world.bed, logits)
    return dict(
        pass_at_k=jnp.stack([
            beds.pass_at_k(world, logits, k) for k in _KS]),
        mode=jnp.take_along_axis(chances, mode[:, None], 1).mean(),
        entropy=beds.entropy(world, logits))

  seen = beds.learn(
      world, method, key, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=rate, watch=watch, reuse=_REUSE, start=start)
  return jax.tree.map(lambda x: x[::apart], seen)


def _world(key):
  """(World, wrong mode i32[Q], logits that trust it [Q, prefixes, V])."""
  shape, wanted, other = jax.random.split(key, 3)
  world, right = worlds.one_right(
      shape, wanted, _PROMPTS, _BRANCHES, _TOKENS, 3e-3, 0.3)
  count = world.reward.shape[1]
  mode = (right + jax.random.randint(other, right.shape, 1, count)) % count
  start = jax.vmap(lambda logits, mode: _mixed(world.bed, logits, mode))(
      world.reference, mode)
  return world, mode, start


def _mixed(bed, logits, mode):
  """Logits of the policy that takes `mode` with a chance of its own."""
  chances = (1 - _TRUST) * exact.probs(bed, logits) + _TRUST * jax.nn.one_hot(
      mode, len(bed.sequences))
  share = jnp.zeros((bed.prefixes, bed.vocab)).at[
      bed.prefix, bed.sequences].add(chances[:, None])
  return jnp.log(share)


def plot(records: dict):
  """The wrong mode, success, and pass@k at the end."""
  made, axes = drawing.panels(4, columns=4, width=3.2)
  arms = {name: records[name] for name in _ARMS}
  x = records['step']
  drawing.curves(
      axes[0], {name: arm['mode'] for name, arm in arms.items()}, x=x)
  drawing.dress(axes[0], 'Over-confident error', 'step', 'chance')
  drawing.learning(axes[1:], arms, x, _KS)
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
