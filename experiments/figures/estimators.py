"""Bias and variance of every estimator, against exact gradients.

    python experiments/figures/estimators.py [--fast]

Four prompts of different difficulty are answered by tabular policies whose
sequences, of one or two tokens, can all be listed. Every advantage estimator
of the library is run on 1,000,000 sampled responses, groups of four, and its
mean is compared with ∇J, or with what its paper says that it ascends instead
(experiments/figures/theory.py). Token weights are 1 / rows for all of them, so
that what differs is the advantage; methods that choose tokens or rows (CAPO,
D³S, COPO) or read what a table has not (ARM, the hidden states of verl_hidden)
are left out. Likewise the estimators of KL(π ‖ π_ref), as
values, as terms of the loss and in the reward.

A seed holds 62,500 responses. z is a mean's distance from what is stated, in
standard errors, the largest over the coordinates of the gradient and over the
estimators of a claim; a claim holds by 4 − z, with z that of the seed or that
of all seeds together, whichever is larger.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.figures import (
    beds,
    estimator_panels,
    figure,
    moments,
    theory,
    verdict,
)
from experiments.figures.estimator_list import (
    EXACT,
    IN_LOSS,
    IN_REWARD,
    SAMPLES,
    STATED,
    UNBIASED,
    advantage_estimators,
    kl_estimators,
)
from policyopt.envs import exact
from policyopt.ops import divergences

METHODS = ('reinforce', 'rloo', 'remax', 'ppo', 'grpo', 'dr_grpo', 'maxrl',
           'passk_grpo')
_WITHIN = 4.0
_KL = 'kl'
_VALUES = ('k1', 'k2', 'k3', 'abs')


def _within(part, names):
  """4 − the largest z of the seed, or −z if all seeds together have z > 4."""
  def effect(records):
    found = [records[part][name] for name in names if name in records[part]]
    allowed = _WITHIN * (max(x['z_all'] for x in found) <= _WITHIN)
    return allowed - np.max([x['z'] for x in found], axis=0)
  return effect


def _there(part, names):
  """The least of the estimators' share of the stated bias: [S]."""
  return lambda records: np.min([
      records[part][name]['share'] for name in names
      if name in records[part]], axis=0)


_IN = 'standard errors'
CLAIMS = (
    verdict.Claim(
        'REINFORCE, RLOO, ReMax and GAE with exact values or with λ = 1 are '
        'unbiased.',
        '4 − z of the distance of their means from ∇J.', _IN,
        _within('advantage', UNBIASED)),
    verdict.Claim(
        'The others have the means that theory states: (1 − 1/G)·∇J for Dr. '
        'GRPO, w(p)·∇p for GRPO, pass@k GRPO, NGRPO and MaxRL, and GAE '
        'ascends what its wrong values promise.',
        '4 − z of the distance of their means from those.', _IN,
        _within('advantage', STATED)),
    verdict.Claim(
        'And so they are biased.',
        'The share of the stated bias that the mean has, 1 if all of it; the '
        'least of these estimators.', 'of the bias',
        _there('advantage', STATED), at_least=0.5),
    verdict.Claim(
        'MaxRL in groups of G ascends Σ pass@k / k up to k = G.',
        '4 − z of the distance from that gradient, of the mean of (R − μ) / μ '
        'with 0 where nothing is right.', _IN,
        _within('advantage', ('MaxRL, k ≤ G',))),
    verdict.Claim(
        "RLOO's variance is below REINFORCE's.",
        'ln(tr Var[g] of REINFORCE / that of RLOO).', 'nats',
        lambda r: np.log(r['advantage']['REINFORCE']['variance']
                         / r['advantage']['RLOO']['variance'])),
    verdict.Claim(
        'k1 and k3 are unbiased values of KL(π ‖ π_ref).',
        '4 − z of the distance of their means from it.', _IN,
        _within('value', ('k1', 'k3'))),
    verdict.Claim(
        'In the loss, the gradient of k2, and of k1 and k3 times the ratio, is '
        'that of KL(π ‖ π_ref), that of k1 is 0 and that of k3 is that of '
        'KL(π_ref ‖ π); in the reward, k1 gives the whole gradient.',
        '4 − z of the distance of their means from those.', _IN,
        _within(_KL, (*EXACT, *IN_LOSS, *IN_REWARD))),
    verdict.Claim(
        'In the loss k1 and k3, and in the reward k2 and k3, are therefore '
        'biased for KL(π ‖ π_ref).',
        'The share of the stated bias that the mean has, 1 if all of it; the '
        'least of them.', 'of the bias',
        _there(_KL, (*IN_LOSS, *(x for x in IN_REWARD if 'k1' not in x))),
        at_least=0.5),
)


def run(fast: bool = False) -> dict:
  """Measures all estimators.

  Args:
    fast: few samples.

  Returns:
    'advantage' and 'kl': name -> 'z', 'share', 'variance', 'noise' [S],
    'z_all' [], 'bias' [], 'scale' [Q]; 'value': name -> 'z', 'ratio' [S],
    'z_all'; 'success' [Q].
  """
  seeds, rows = (2, 2_000) if fast else (16, 62_500)
  world, logits, wrong = _ground()
  listed = advantage_estimators(world, logits, wrong)
  found = moments.moments(
      world, {name: x.method for name, x in listed.items() if x.method},
      logits, samples=SAMPLES, rows=rows, seeds=seeds)
  found['MaxRL, k ≤ G'] = found['MaxRL']
  right = theory.policy_gradient(world, logits)
  records = {'advantage': {
      name: _judge(found[name], right, x.target) for name, x in listed.items()}}
  world_kl, logits_kl = _one_prompt()
  listed = kl_estimators(world_kl, logits_kl)
  found = moments.moments(
      world_kl, {name: x.method for name, x in listed.items()}, logits_kl,
      samples=16, rows=rows, seeds=seeds)
  right = -theory.kl_gradients(world_kl, logits_kl)['sequence']
  records[_KL] = {
      name: _judge(found[name], right, x.target) for name, x in listed.items()}
  records['value'] = _values(rows, seeds)
  records['success'] = theory.success(world, logits)
  return records


def _judge(found, right, target):
  """What is kept of an estimator; target None: nothing is stated."""
  mean, error = moments.pooled(found)
  flat = right.reshape(-1)
  kept = dict(
      variance=found['variance'],
      # That of an estimator whose mean is 0 says nothing.
      noise=found['variance'] / np.square(mean).sum() * (
          1 if target is None or target.any() else np.nan),
      bias=np.linalg.norm(mean - flat) / np.linalg.norm(flat),
      coordinates=(error > 0).sum(),
      # Of each prompt: c of c·∇J nearest to the mean, [S, Q].
      scale=np.einsum('sqd,qd->sq', found['mean'].reshape(
          len(found['mean']), len(right), -1), right.reshape(len(right), -1))
      / np.square(right).sum((1, 2)))
  if target is None:
    return kept
  stated = target.reshape(-1)
  # The error of a seed from all seeds: in one, what is rare may be missing.
  kept |= dict(
      z=moments.largest_z(
          found['mean'], error * np.sqrt(len(found['mean'])), stated),
      z_all=moments.largest_z(mean, error, stated))
  away = stated - flat
  if np.abs(away).max() > 1e-6:
    kept['share'] = (found['mean'] - flat) @ away / (away @ away)
  return kept


def _ground():
  """Four prompts, easy to hard: (World, logits, values that are wrong)."""
  bed = exact.make_bed(3, 2)
  noise = np.random.default_rng(0).normal(0, 0.4, (4, bed.prefixes, 3))
  # What starts with token 0 ends there; of the rest two answers are right.
  short = bed.sequences[:, 0] == 0
  right = np.array([0, 0, 0, 0, 1, 0, 0, 0, 1.])
  reward = np.tile(right, (4, 1))
  # The second prompt has a short answer that is right.
  reward[1, :3] = 1
  noise[:, 0, 0] += [0.2, -1.2, -0.3, -2.5]
  for prefix, token in ((2, 1), (3, 2)):
    noise[:, prefix, token] += [-2.6, -1.8, 0.9, 2.6]
  world = beds.World(bed, jnp.asarray(reward, jnp.float32),
                     jnp.zeros(noise.shape),
                     length=jnp.where(short, 1, 2))
  logits = jnp.asarray(noise, jnp.float32)
  values = jax.vmap(exact.values, (None, 0, 0))(bed, logits, world.reward)
  # A critic that takes all prefixes for alike, and errs.
  wrong = 0.5 * values + jnp.asarray(
      np.random.default_rng(1).normal(0.2, 0.3, values.shape), jnp.float32)
  return world, logits, wrong


def _one_prompt():
  """One policy of two tokens, and its reference."""
  bed = exact.make_bed(3, 2)
  logits, reference = np.random.default_rng(2).normal(
      0, 0.7, (2, 1, bed.prefixes, 3))
  world = beds.World(bed, jnp.zeros((1, 9)), jnp.asarray(
      reference, jnp.float32), length=jnp.full(9, 2))
  return world, jnp.asarray(logits, jnp.float32)


def _values(rows, seeds):
  """KL estimates of sequences: their mean over what it should be."""
  world, logits = _one_prompt()
  right = float(exact.kl(world.bed, logits[0], world.reference[0]))
  table = [exact.log_probs(world.bed, x[0])
           for x in (logits, world.reference)]
  chances = np.asarray(table[0].sum(1))
  kept = {}
  for name in _VALUES:
    each = np.asarray(divergences.kl_estimate(
        *table, value=name).sum(1), np.float64)
    draws = jax.vmap(lambda key: jax.random.categorical(
        key, chances, shape=(rows,)))(beds.seeds(seeds))
    drawn = each[np.asarray(draws)]
    mean, error = drawn.mean(1), drawn.std(1, ddof=1) / np.sqrt(rows)
    kept[name] = dict(
        z=np.abs(mean - right) / error, ratio=mean / right,
        z_all=abs(mean.mean() - right) * np.sqrt(seeds) / np.sqrt(
            np.square(error).mean()),
        spread=drawn.std(1) / right)
  return kept


def table(records: dict) -> str:
  """Bias and variance of every estimator as lines of text."""
  lines = ['estimator                    bias of ∇J      z   tr Var/‖E[g]‖²']
  for part in ('advantage', _KL):
    lines.append(part)
    lines += [
        f'  {name:26} {float(x["bias"]):11.3f}'
        + (f'{float(x["z_all"]):7.1f}' if 'z_all' in x else '      -')
        + f'{x["noise"].mean():12.1f}'.replace('nan', '  -')
        for name, x in records[part].items()]
  lines.append('value                        mean / KL       z')
  lines += [f'  {name:26} {x["ratio"].mean():11.3f}{float(x["z_all"]):7.1f}'
            for name, x in records['value'].items()]
  count = sum(int(x['coordinates']) for part in ('advantage', _KL)
              for x in records[part].values() if 'z_all' in x)
  chance = stats.norm.ppf((1 + 0.5 ** (1 / count)) / 2)
  lines.append(
      f'z: of all seeds, from what is stated, the largest of the coordinates; '
      f'of {count}\nindependent ones half the time the largest would exceed '
      f'{chance:.1f} by chance alone')
  return '\n'.join(lines)


def plot(records: dict):
  """Distances, difficulty weights, noise, KL values and gradients."""
  return estimator_panels.draw(records)


if __name__ == '__main__':
  figure.main(__name__)
