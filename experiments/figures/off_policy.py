"""Rows that another policy sampled: corrections against the plain loss.

    python experiments/figures/off_policy.py [--fast]

Eight prompts, each with a tree of eight tokens of two kinds, in which a tenth
of the 256 sequences is right and pays 1, the others −1. First, a sampler whose
logits are off by fixed random numbers, as those of an inference engine of low
precision are: the expected gradient of each correction is summed over all
sequences and compared with ∇J, and policies are trained from such samplers.
Then, samplers that are 16 steps behind. Every arm has the learning rate of one
grid with which it does best on other seeds.
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
from policyopt import credit, methods, types
from policyopt.envs import exact

METHODS = ('grpo', 'topr', 'm2po')
_PROMPTS, _SAMPLES, _TOKENS = 8, 8, 8
# Of Adam.
_RATES = (0.03, 0.1, 0.3)
# How far the sampler's logits are off, and steps that it is behind.
_GAPS, _GAP, _LAG = (0.25, 0.5, 1., 1.5, 2.), 1., 16
_WEIGHTS = {
    'untreated': None,
    'token, truncated': lambda: credit.importance_weights('token'),
    'token, masked': lambda: credit.importance_weights(
        'token', bound='mask', floor=0.5),
    'sequence, truncated': lambda: credit.importance_weights('sequence'),
    'sequence': lambda: credit.importance_weights('sequence', bound='none')}
_OPEN = dict(clip_low=1., clip_high=math.inf, beta=0.)
_OWN = dict(old='old_log_probs', beta=0.)
_WRONG = {
    'untreated': lambda: methods.grpo(**_OWN),
    'token, truncated': lambda: methods.grpo(importance='token', **_OWN),
    'sequence, truncated': lambda: methods.grpo(importance='sequence', **_OWN)}
_STALE = {
    'REINFORCE': lambda: methods.topr(negative_low=1.),
    'TOPR': methods.topr,
    'GRPO, no clip': lambda: methods.grpo(**_OPEN),
    'GRPO': lambda: methods.grpo(beta=0.),
    'M2PO': methods.m2po}


def _success(records, kind, name):
  """Success rate, mean over training: [S]."""
  return records[kind][name]['success'].mean(1)


def _at_gap(records, key, name):
  return records['gradient'][name][key][:, _GAPS.index(_GAP)]


CLAIMS = (
    verdict.Claim(
        'Truncated importance weights of tokens take away bias that a wrong '
        'sampler brings.',
        "‖E[g] − ∇J‖ / ‖∇J‖, sampler's logits off by 1: untreated minus "
        'weights of tokens, truncated at 2.', '',
        lambda r: _at_gap(r, 'bias', 'untreated')
        - _at_gap(r, 'bias', 'token, truncated')),
    verdict.Claim(
        'Truncation buys less noise with some bias.',
        "ln(Var[g] / ‖E[g]‖²) of one row, sampler's logits off by 1: weights "
        'of sequences minus the same truncated at 2.', 'nats',
        lambda r: np.log(_at_gap(r, 'noise', 'sequence')
                         / _at_gap(r, 'noise', 'sequence, truncated'))),
    verdict.Claim(
        'Truncated importance weights recover reward that a wrong sampler '
        'costs.',
        'Success rate, mean over training with a sampler whose logits are off '
        'by 1: GRPO with weights of tokens, truncated, minus GRPO without.',
        '', lambda r: _success(r, 'wrong', 'token, truncated')
        - _success(r, 'wrong', 'untreated')),
    verdict.Claim(
        'On stale rows TOPR learns better than REINFORCE.',
        'Success rate, mean over training, 16 steps behind: TOPR minus '
        'REINFORCE.', '', lambda r: _success(r, 'stale', 'TOPR')
        - _success(r, 'stale', 'REINFORCE')),
    verdict.Claim(
        "On stale rows M2PO's mask learns better than the clip of GRPO.",
        'Success rate, mean over training, 16 steps behind: M2PO minus GRPO.',
        '', lambda r: _success(r, 'stale', 'M2PO')
        - _success(r, 'stale', 'GRPO')),
)


def run(fast: bool = False) -> dict:
  """Sums the gradients, and trains every arm with every learning rate.

  Args:
    fast: fewer seeds, steps and rates.

  Returns:
    The records: 'gradient': weights -> 'bias' and 'noise' [S, gaps]; 'wrong'
    and 'stale': arm -> 'success' [S, steps + 1] and what `tuning.tuned` adds.
  """
  count, steps, rates = (2, 20, _RATES[1:2]) if fast else (16, 120, _RATES)
  records = {'gradient': {
      name: jax.tree.map(np.asarray, jax.jit(jax.vmap(
          lambda key, make=make: _gradient(make, key)))(beds.seeds(count)))
      for name, make in _WEIGHTS.items()}}
  for kind, arms in (('wrong', _WRONG), ('stale', _STALE)):
    records[kind] = {name: tuning.tuned(
        lambda key, rate, make=make, kind=kind: _arm(
            make(), key, steps, rate, kind), rates, count,
        1 if fast else 4, lambda run: run['success'])
                     for name, make in arms.items()}
  return records


def _arm(method, key, steps, rate, kind):
  """One seed of one method with one learning rate and one kind of sampler."""
  drawn, off, train = jax.random.split(key, 3)
  world = _world(drawn)
  error = _GAP * jax.random.normal(off, world.reference.shape)
  sampler = {'sampler': lambda logits, state: logits + error}
  if kind == 'stale':
    sampler = {'lag': _LAG}
  return beds.learn(
      world, method, train, steps=steps, prompts=_PROMPTS, samples=_SAMPLES,
      learning_rate=rate, optimizer=optax.adam,
      watch=lambda logits: dict(
          success=(1 + beds.objective(world, logits)) / 2), **sampler)


def _gradient(make, key):
  """Bias and noise of a row's w·(R − E[R])·∇log π, at each gap."""
  drawn, off = jax.random.split(key)
  world = _world(drawn)
  away = jax.random.normal(off, world.reference.shape)
  bed, logits = world.bed, world.reference
  target = jax.grad(lambda x: beds.objective(world, x))(logits)

  def one(reward, logits, sampler):
    """E[g] and E[‖g‖²] for one prompt, all sequences being its rows."""
    rollout, chance = _all_rows(bed, logits, sampler)
    weights = rollout.mask.astype(jnp.float32)
    if make is not None:
      weights, _ = make().update(weights, (), rollout)
    weights *= (reward - (chance * reward).sum())[:, None]
    mean = jax.grad(lambda x: (
        chance[:, None] * weights * exact.log_probs(bed, x)).sum())(logits)
    # The prefixes of a row differ, so its gradient is made of separate parts.
    probs = jax.nn.softmax(logits)
    square = jnp.square(probs).sum(-1)[bed.prefix] + 1 - 2 * jnp.exp(
        exact.log_probs(bed, logits))
    return mean, (chance * (jnp.square(weights) * square).sum(1)).sum()

  def at(gap):
    mean, square = jax.vmap(one)(world.reward, logits, logits + gap * away)
    signal = jnp.square(mean).sum((1, 2))
    wrong = mean / _PROMPTS - target
    return dict(
        bias=jnp.sqrt(jnp.square(wrong).sum() / jnp.square(target).sum()),
        noise=(square - signal).sum() / signal.sum())

  return jax.lax.map(at, jnp.array(_GAPS))


def _all_rows(bed, logits, sampler):
  """Every sequence as a row, and the sampler's chance of it, f32[Y]."""
  log_probs = exact.log_probs(bed, sampler)
  rows = types.Rollout(
      tokens=bed.sequences, mask=jnp.ones(bed.sequences.shape, bool),
      log_probs=log_probs, group=jnp.zeros(len(log_probs), jnp.int32),
      rewards={}, extras={'old_log_probs': exact.log_probs(bed, logits)})
  return rows, jnp.exp(log_probs.sum(1))


def _world(key) -> beds.World:
  """Random trees, of whose sequences 25 are right, the others wrong."""
  world = worlds.random_trees(key, _PROMPTS, _TOKENS)
  return world._replace(reward=2. * world.reward - 1.)


def plot(records: dict):
  """Bias and noise by the gap, success of both kinds of sampler."""
  made, axes = drawing.panels(4, columns=4, width=3.4)
  gaps = np.array(_GAPS)
  seen = records['gradient']
  drawing.curves(axes[0], {name: seen[name]['bias'] for name in seen}, x=gaps)
  drawing.curves(
      axes[1], {name: np.log(seen[name]['noise']) for name in seen}, x=gaps)
  for axis, title, label in (
      (axes[0], 'Bias', '‖E[g] − ∇J‖ / ‖∇J‖'),
      (axes[1], 'Noise', 'ln(Var[g] / ‖E[g]‖²) of a row')):
    drawing.dress(axis, title, "how far the sampler's logits are off", label)
  steps = np.arange(records['wrong']['untreated']['success'].shape[1])
  for axis, kind, title in ((axes[2], 'wrong', "Sampler's logits off by 1"),
                            (axes[3], 'stale', f'Sampler {_LAG} steps behind')):
    drawing.curves(axis, {
        name: arm['success'] for name, arm in records[kind].items()}, x=steps)
    drawing.dress(axis, title, 'step', 'success rate')
    axis.legend(frameon=False, fontsize=8)
  drawing.legend(made, axes[0], columns=5)
  return made


if __name__ == '__main__':
  figure.main(__name__)
