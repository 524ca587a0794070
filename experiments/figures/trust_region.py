"""Surrogates: what each does when a batch serves several updates.

    python experiments/figures/trust_region.py [--fast]

Eight prompts, each with a tree of eight tokens of two kinds, in which a tenth
of the 256 sequences is right. Each batch serves eight updates. All surrogates
have GRPO's advantages, their published hyper-parameters (but Clip-Cov and
KL-Cov take 2% of the tokens), and the learning rate of one grid with which
they do best on other seeds. Besides, the importance ratios of tokens and of
responses are compared where the policy has moved by random logits from the one
that sampled.
"""

from __future__ import annotations

import math
import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.figures import beds, drawing, figure, tuning, verdict, worlds
from policyopt import methods
from policyopt.training.credit import init_credit

METHODS = ('grpo', 'dapo', 'gspo', 'cispo', 'gmpo', 'sapo', 'dppo', 'vespo',
           'clip_cov', 'kl_cov')
_PROMPTS, _SAMPLES, _TOKENS, _REUSE = 8, 8, 8, 8
# Of Adam.
_RATES = (0.03, 0.1, 0.3)
# How far the logits of a policy have moved, and the batches that are drawn.
_MOVES, _BATCHES = (0., 0.125, 0.25, 0.5, 1.), 256
# Of a batch's tokens; the published 0.0002 would be less than one of them.
_SHARE = 0.02
_OPEN = dict(clip_low=1., clip_high=math.inf)
_ARMS = {
    'no clip': lambda: methods.grpo(beta=0., **_OPEN),
    'GRPO': lambda: methods.grpo(beta=0.),
    'GRPO, dual clip': lambda: methods.grpo(beta=0., dual_clip=3.),
    'DAPO': methods.dapo, 'GSPO': methods.gspo, 'CISPO': methods.cispo,
    'GMPO': methods.gmpo, 'SAPO': methods.sapo, 'DPPO': methods.dppo,
    'VESPO': methods.vespo,
    'Clip-Cov': lambda: methods.clip_cov(fraction=_SHARE),
    'KL-Cov': lambda: methods.kl_cov(fraction=_SHARE)}
# Whose ratios are compared, neither of them clipped.
_RATIOS = {'tokens': lambda: methods.grpo(beta=0., **_OPEN),
           'responses': lambda: methods.gspo(**_OPEN)}


# What the claims compare; a hasty run has no other arms.
_JUDGED = ('no clip', 'GRPO', 'DAPO', 'CISPO', 'Clip-Cov', 'KL-Cov')


def _success(records, name):
  """Success rate, mean over training: [S]."""
  return records[name]['success'].mean(1)


def _entropy_kept(records, name):
  return (records[name]['entropy'] - records['GRPO']['entropy']).mean(1)


def _noise(records, level):
  """ln(tr Var[g] / ‖E[g]‖²) where logits have moved by 1/2: [S]."""
  return np.log(records['ratios'][level]['noise'][:, _MOVES.index(0.5)])


CLAIMS = (
    verdict.Claim(
        'The clip of PPO lets a batch serve several updates.',
        'Success rate, mean over training: GRPO minus GRPO without a clip.',
        '', lambda r: _success(r, 'GRPO') - _success(r, 'no clip')),
    verdict.Claim(
        "The ratio of a response, the geometric mean of its tokens', makes "
        'gradients less noisy than the ratios of tokens.',
        'ln(tr Var[g] / ‖E[g]‖²) after a move of the logits by 1/2, no clip: '
        'with ratios of tokens minus of responses.', 'nats',
        lambda r: _noise(r, 'tokens') - _noise(r, 'responses')),
    verdict.Claim(
        'CISPO, in which clipped tokens keep a gradient, learns faster than '
        'DAPO.', 'Success rate, mean over training: CISPO minus DAPO.', '',
        lambda r: _success(r, 'CISPO') - _success(r, 'DAPO')),
    verdict.Claim(
        'Clip-Cov keeps more entropy than GRPO.',
        'Entropy of sequences, mean over training: Clip-Cov minus GRPO.',
        'nats', lambda r: _entropy_kept(r, 'Clip-Cov')),
    verdict.Claim(
        'KL-Cov keeps more entropy than GRPO.',
        'Entropy of sequences, mean over training: KL-Cov minus GRPO.',
        'nats', lambda r: _entropy_kept(r, 'KL-Cov')),
    verdict.Claim(
        'Neither of the two pays for it with reward.',
        'Success rate, mean over training: the lower of Clip-Cov and KL-Cov '
        '(by its mean over seeds) minus GRPO, plus 0.01.', '',
        lambda r: min((_success(r, name) for name in ('Clip-Cov', 'KL-Cov')),
                      key=np.mean) - _success(r, 'GRPO') + 0.01),
)


def run(fast: bool = False) -> dict:
  """Trains every arm with every learning rate, and compares the ratios.

  Args:
    fast: fewer seeds, steps, rates and arms.

  Returns:
    The records: arm -> 'success' and 'entropy' [S, steps + 1], and what
    `tuning.tuned` adds; 'ratios': level -> 'noise' [S, moves].
  """
  count, steps, rates = (2, 6, _RATES[1:2]) if fast else (16, 40, _RATES)
  records = {name: tuning.tuned(
      lambda key, rate, make=make: _arm(make(), key, steps, rate), rates,
      count, 1 if fast else 4, lambda run: run['success'])
             for name, make in _ARMS.items() if not fast or name in _JUDGED}
  one = lambda make: jax.jit(jax.vmap(lambda key: _ratios(make(), key)))
  ratios = {level: jax.tree.map(np.asarray, one(make)(beds.seeds(count)))
            for level, make in _RATIOS.items()}
  return records | {'ratios': ratios}


def _arm(method, key, steps, rate):
  """One seed of one surrogate with one learning rate."""
  drawn, train = jax.random.split(key)
  world = _world(drawn)
  return beds.learn(
      world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=rate, reuse=_REUSE, optimizer=optax.adam,
      watch=lambda logits: dict(
          success=beds.objective(world, logits),
          entropy=beds.entropy(world, logits)))


def _ratios(method, key):
  """Noise of the gradient after each move of the logits."""
  drawn, moved, probe = jax.random.split(key, 3)
  world = _world(drawn)
  away = jax.random.normal(moved, world.reference.shape)

  def at(move):
    logits = world.reference + move * away

    def one(key):
      rollout = beds.draw(
          world, world.reference, key, jnp.arange(_PROMPTS), _SAMPLES)
      return beds.gradient(
          world, method, init_credit(method), logits, rollout)[0].reshape(-1)

    given = jax.lax.map(one, jax.random.split(probe, _BATCHES))
    mean = given.mean(0)
    spread = jnp.square(given - mean).sum() / (_BATCHES - 1)
    # The mean itself carries 1/n of the variance.
    signal = jnp.square(mean).sum() - spread / _BATCHES
    return spread / jnp.maximum(signal, 1e-9)

  return dict(noise=jax.lax.map(at, jnp.array(_MOVES)))


def _world(key) -> beds.World:
  """Random trees, of whose sequences 25 are right."""
  return worlds.random_trees(key, _PROMPTS, _TOKENS)


def plot(records: dict):
  """Success of all, entropy of those that keep it, and the noise of ratios."""
  made, axes = drawing.panels(4, columns=4, width=3.4, height=3.2)
  drawing.points(axes[0], {
      name: _success(records, name) for name in _ARMS if name in records})
  drawing.dress(axes[0], f'{_REUSE} updates a batch',
                'success rate, mean over training', '')
  steps = np.arange(records['GRPO']['success'].shape[1])
  for axis, key, title, label in (
      (axes[1], 'success', 'Success', 'success rate'),
      (axes[2], 'entropy', 'Entropy', 'entropy of sequences in nats')):
    drawing.curves(
        axis, {name: records[name][key] for name in _JUDGED}, x=steps)
    drawing.dress(axis, title, 'batch', label)
  drawing.curves(axes[3], {
      f'ratios of {level}': np.log(records['ratios'][level]['noise'])
      for level in _RATIOS}, x=np.array(_MOVES))
  drawing.dress(axes[3], 'Noise of the gradient', 'move of the logits',
                'ln(tr Var[g] / ‖E[g]‖²)')
  axes[3].legend(frameon=False, fontsize=8)
  drawing.legend(made, axes[1], columns=6)
  return made


if __name__ == '__main__':
  figure.main(__name__)
