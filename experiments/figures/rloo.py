"""REINFORCE and its baselines: what a baseline is worth.

    python experiments/figures/rloo.py [--fast]

Noise: 16 prompts are chains of four tokens; at each the policy answers
rightly, wrongly, or thinks on, and the further it has thought the better it
answers. Responses differ in length, so the length-weighted baseline of OPO and
the token baseline of OTB have something to weigh. It is measured for all
estimators on the same policies, three moments of an exact gradient ascent,
with the same token weights. Learning: 16 prompts with 16 answers of two tokens
have scores as of a reward model, normal around a level that differs from prompt
to prompt; each recipe as it comes, at the learning rate that suits it best.
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
    tuning,
    verdict,
)
from policyopt import methods
from policyopt.envs import exact

METHODS = ('reinforce', 'rloo', 'remax', 'reinforce_pp',
           'reinforce_pp_baseline', 'opo', 'otb', 'gpg')
_PROMPTS, _SAMPLES, _DEPTH, _THINK = 16, 8, 4, 0.5
_ARMS = {
    'REINFORCE': methods.reinforce,
    'ReMax': methods.remax,
    'RLOO': lambda: methods.rloo(beta=0.),
    'group mean': lambda: methods.dr_grpo(max_tokens=_DEPTH),
    'OPO': methods.opo,
    'OTB': methods.otb,
    'GPG': methods.gpg,
    'REINFORCE++': lambda: methods.reinforce_pp(beta=0.),
    'REINFORCE++ base': lambda: methods.reinforce_pp_baseline(beta=0.)}
# Success rates of the policies on which noise is measured.
_MOMENTS = (0.4, 0.6, 0.85)
_RATES = (2., 4., 8., 16., 32., 64.)


def _log_noise(records, name):
  """ln(tr Var[g] / ‖E[g]‖²), mean over policies: [S]."""
  return np.log(records[name]['noise']).mean(1)


def _quieter(than, name):
  return lambda records: _log_noise(records, than) - _log_noise(records, name)


_MEASURED = ('ln(tr Var[g] / ‖E[g]‖²) of a batch, mean over three moments of '
             'training: that of {} minus that of {}.')
CLAIMS = (
    verdict.Claim(
        'RLOO learns more from the same samples than REINFORCE.',
        'Score above that of the start, mean over training, each at its '
        'best learning rate: RLOO minus REINFORCE.', 'standard deviations',
        lambda r: (r['RLOO']['score'] - r['REINFORCE']['score']).mean(1)),
    verdict.Claim(
        "The greedy response's reward lowers REINFORCE's variance (ReMax).",
        _MEASURED.format('REINFORCE', 'ReMax'), 'nats',
        _quieter('REINFORCE', 'ReMax')),
    verdict.Claim(
        "OPO's length-weighted baseline has less variance than the group's "
        'mean.', _MEASURED.format('the group mean', 'OPO'), 'nats',
        _quieter('group mean', 'OPO')),
    verdict.Claim(
        "OTB's token baseline has less variance than a baseline of the "
        'response.', _MEASURED.format('OPO', 'OTB'), 'nats',
        _quieter('OPO', 'OTB')),
)


def run(fast: bool = False) -> dict:
  """Measures noise and learning of every arm.

  Args:
    fast: fewer seeds, steps, rates and arms.

  Returns:
    arm -> 'noise' [S, policies], 'score' [S, steps + 1], 'rate',
    'scores' [rates].
  """
  seeds, tries, steps, rows = (3, 1, 20, 16_000) if fast else (
      16, 4, 100, 32_000)
  rates = _RATES[2:4] if fast else _RATES
  world, scored = _world(), _scored()
  records = {name: _learned(scored, make(), seeds, tries, steps, rates)
             for name, make in _ARMS.items()
             if not fast or name in ('REINFORCE', 'RLOO')}
  arms = {name: beds.sequence_average(make()) for name, make in _ARMS.items()}
  noise = [_noise(world, arms, logits, rows, seeds)
           for logits in _policies(world)]
  for name in arms:
    records.setdefault(name, {})['noise'] = np.stack(
        [found[name] for found in noise], axis=1)
  return records


def _world() -> beds.World:
  """Token 1 is the right answer, 0 a wrong one, 2 thinks on."""
  bed = exact.make_bed(3, _DEPTH)
  tokens = np.asarray(bed.sequences)
  ended = tokens != 2
  first = np.where(ended.any(1), ended.argmax(1), _DEPTH - 1)
  right = tokens[np.arange(len(tokens)), first] == 1
  # What has been thought so far: the depth of a prefix.
  depth = np.zeros(bed.prefixes, int)
  depth[np.asarray(bed.prefix)] = np.arange(_DEPTH)
  ease = np.linspace(-1.5, 0.5, _PROMPTS)[:, None]
  p = 1 / (1 + np.exp(-(ease + 0.5 * depth)))
  chances = np.stack([
      (1 - _THINK) * (1 - p), (1 - _THINK) * p, 0 * p + _THINK], axis=-1)
  return beds.World(
      bed, jnp.tile(jnp.asarray(right, jnp.float32), (_PROMPTS, 1)),
      jnp.asarray(np.log(chances), jnp.float32),
      length=jnp.asarray(first + 1, jnp.int32))


def _scored() -> beds.World:
  """Scores of a reward model, N(level of the prompt, 1)."""
  bed = exact.make_bed(4, 2)
  draws = np.random.default_rng(0)
  score = draws.normal(0, 1, (_PROMPTS, 16))
  level = draws.normal(0, 2, (_PROMPTS, 1))
  return beds.World(
      bed, jnp.asarray(score + level, jnp.float32),
      jnp.zeros((_PROMPTS, bed.prefixes, 4)),
      length=jnp.full(16, 2))


def _policies(world):
  """Where an exact ascent first has the success rates of `_MOMENTS`."""
  def step(logits, _):
    value, slope = jax.value_and_grad(
        lambda x: beds.objective(world, x))(logits)
    return logits + 4. * slope, (value, logits)

  _, (success, path) = jax.jit(lambda start: jax.lax.scan(
      step, start, None, length=300))(world.reference)
  return [path[int(np.argmax(np.asarray(success) >= level))]
          for level in _MOMENTS]


def _noise(world, arms, logits, rows, seeds):
  """tr Var[g] / ‖E[g]‖² of every arm, E over the batches of all seeds: [S]."""
  found = moments.moments(
      world, arms, logits, samples=_SAMPLES, rows=rows, seeds=seeds)
  kept = {}
  for name, x in found.items():
    mean, error = moments.pooled(x)
    # The mean itself carries 1/n of the variance.
    signal = np.square(mean).sum() - np.square(error).sum()
    kept[name] = x['variance'] / signal
  return kept


def _learned(world, method, seeds, tries, steps, rates):
  start = beds.objective(world, world.reference)
  return tuning.tuned(
      lambda key, rate: beds.learn(
          world, method, key, steps=steps, prompts=_PROMPTS,
          samples=_SAMPLES, learning_rate=rate, watch=lambda logits: dict(
              score=beds.objective(world, logits) - start)),
      rates, seeds, tries, lambda run: run['score'].mean(1))


def plot(records: dict):
  """Noise on the same policies, learning, and what tuning chose."""
  made, axes = drawing.panels(3, width=4.2, height=3.4)
  drawing.points(axes[0], {
      name: _log_noise(records, name) - _log_noise(records, 'REINFORCE')
      for name in _ARMS})
  drawing.dress(axes[0], 'Noise against REINFORCE',
                'ln of noise, minus that of REINFORCE, nats', '')
  learned = {name: x for name, x in records.items() if 'score' in x}
  steps = np.arange(next(iter(learned.values()))['score'].shape[1])
  drawing.curves(axes[1], {
      name: x['score'] for name, x in learned.items()}, x=steps)
  drawing.dress(axes[1], 'Learning at the best rate', 'step',
                'score above the start, standard deviations')
  axes[1].legend(fontsize=7, frameon=False)
  drawing.points(axes[2], {
      f'{name} ({x["rate"]:g})': x['score'].mean(1)
      for name, x in learned.items()})
  drawing.dress(axes[2], 'Score over training (best rate)',
                'score above the start, mean over steps', '')
  return made


if __name__ == '__main__':
  figure.main(__name__)
