"""CAPO: learning rates that GRPO does not bear.

    python experiments/figures/capo.py [--fast]

The policy is an output layer on fixed random hidden states, which all prompts
share: what CAPO models is all there is, and a step on one prompt moves the
others. A response is right when it takes the branches that a teacher of the
same form would take. The conservative regime has the learning rate with which
GRPO does best on other seeds; the aggressive one, as in the paper, five times
that rate and a twelfth of the rows. All arms sample equally many responses,
and the rates warm up and decay alike. CAPO's threshold on the divergence is
the one of a grid that rejects closest to 8% of the tokens in the first tenth
of training, on other seeds; the one on the objective is 100 times as high, as
published.
"""

from __future__ import annotations

import pathlib
import sys

if __name__ == '__main__':
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.figures import beds, drawing, figure, tuning, verdict
from policyopt import methods
from policyopt.envs import exact
from policyopt.training.credit import credit_metrics, init_credit

METHODS = ('capo',)
_PROMPTS, _SAMPLES, _BRANCHES, _TOKENS, _WIDTH = 128, 8, 4, 3, 32
# Prompts of a batch, and how many times the learning rate.
_CONSERVATIVE, _AGGRESSIVE = (48, 1.), (4, 5.)
_RATES = (3e-3, 1e-2, 3e-2, 1e-1)
_LIMITS = tuple(10. ** (x / 2) for x in range(-8, 5))
_EARLY, _REJECTED = 0.1, 0.08
_POINTS = 40
_SLOW, _FAST, _CAPO = (
    'GRPO, conservative', 'GRPO, aggressive', 'CAPO, aggressive')


def _early(values):
  return values[:, :max(1, int(_EARLY * values.shape[1]))].mean(1)


CLAIMS = (
    verdict.Claim(
        'In the aggressive regime CAPO keeps what GRPO loses.',
        'Success rate after the last step: CAPO minus GRPO, both aggressive.',
        '', lambda r: r[_CAPO]['success'][:, -1] - r[_FAST]['success'][:, -1]),
    verdict.Claim(
        'CAPO in the aggressive regime needs fewer samples than GRPO in the '
        'conservative one.',
        'Success rate, mean over the same number of samples: CAPO, '
        'aggressive, minus GRPO, conservative.', '',
        lambda r: r[_CAPO]['success'].mean(1) - r[_SLOW]['success'].mean(1)),
    verdict.Claim(
        'It rejects fewer tokens as training goes on.',
        'Fraction of tokens rejected: first tenth minus last half of '
        'training.', '',
        lambda r: _early(r[_CAPO]['rejected'])
        - r[_CAPO]['rejected'][:, _POINTS // 2:].mean(1)),
)


def run(fast: bool = False) -> dict:
  """Trains the three arms.

  Args:
    fast: fewer seeds, samples, rates and thresholds.

  Returns:
    The records: arm -> 'success' and 'rejected', both [S, points], and what
    `tuning.tuned` adds, 'rate' being CAPO's threshold; 'samples' [points].
  """
  count, other, steps = (3, 2, 10) if fast else (16, 8, 80)
  rates, limits = (_RATES[1:3], _LIMITS[4::4]) if fast else (_RATES, _LIMITS)

  def grpo(regime, rate):
    return lambda key, factor: _arm(
        methods.grpo(beta=0., eps=1e-4), key, steps, regime, rate * factor)

  def capo(key, limit):
    return _arm(methods.capo(
        tau_f=limit, tau_h=100 * limit, vocab_size=_BRANCHES, width=_WIDTH),
                key, steps, _AGGRESSIVE, best)

  solved = lambda run: run['success'].mean(1)
  near = lambda run: -np.abs(_early(run['rejected']).mean() - _REJECTED)
  slow = tuning.tuned(grpo(_CONSERVATIVE, 1.), rates, count, other, solved)
  best = float(slow['rate'])
  records = {
      _SLOW: slow,
      _FAST: tuning.tuned(grpo(_AGGRESSIVE, best), (1.,), count, other, solved),
      _CAPO: tuning.tuned(capo, limits, count, other, near)}
  rows = steps * _CONSERVATIVE[0] * _SAMPLES
  return records | {'samples': np.linspace(0, rows, _POINTS)}


def _arm(method, key, steps, regime, rate):
  """One seed of one method in one regime; `steps` are the conservative ones."""
  made, train = jax.random.split(key)
  world, hidden, head = _world(made)
  prompts, factor = regime
  steps = steps * _CONSERVATIVE[0] // prompts
  shape = optax.warmup_cosine_decay_schedule(0., 1., steps // 10, steps)
  schedule = lambda index: factor * rate * shape(index)
  rule = optax.adam(schedule)

  def step(carry, given):
    head, state, moments = carry
    index, key = given
    chosen, drawn = jax.random.split(key)
    logits, pull = jax.vjp(lambda head: hidden @ head, head)
    rollout = _draw(
        world, hidden, logits, drawn,
        jax.random.randint(chosen, (prompts,), 0, _PROMPTS), schedule(index))
    rejected = credit_metrics(method, state, rollout).get(
        'capo/rejected', (0., 1.))
    ascent, state = beds.gradient(world, method, state, logits, rollout)
    change, moments = rule.update(-pull(ascent)[0], moments, head)
    return (optax.apply_updates(head, change), state, moments), dict(
        success=beds.objective(world, logits),
        rejected=rejected[0] / jnp.maximum(rejected[1], 1))

  start = head, init_credit(method), rule.init(head)
  _, seen = jax.lax.scan(
      step, start, (jnp.arange(steps), jax.random.split(train, steps)))
  # Points of equally many samples in every regime.
  if steps < _POINTS:
    return jax.tree.map(lambda x: jnp.repeat(x, _POINTS // steps), seen)
  return jax.tree.map(lambda x: x.reshape(_POINTS, -1).mean(1), seen)


def _draw(world, hidden, logits, key, prompts, rate):
  """A batch with what CAPO asks of the output layer."""
  rollout = beds.draw(world, logits, key, prompts, _SAMPLES)
  prompt, index = (rollout.extras[x] for x in ('prompt', 'sequence'))
  where = prompt[:, None], world.bed.prefix[index]
  probs, ids = jax.lax.top_k(jax.nn.softmax(logits)[where], _BRANCHES)
  return rollout._replace(extras=rollout.extras | dict(
      hidden_states=hidden[where], top_probs=probs, top_ids=ids,
      learning_rate=jnp.full(len(prompt), rate)))


def _world(key):
  """The prompts, their hidden states f32[Q, prefixes, D], and the first head.

  The head that training starts with knows a part of what the teacher knows.
  """
  states, teacher, noise = jax.random.split(key, 3)
  bed = exact.make_bed(_BRANCHES, _TOKENS)
  hidden = jax.random.normal(states, (_PROMPTS, bed.prefixes, _WIDTH))
  teacher = jax.random.normal(teacher, (_WIDTH, _BRANCHES))
  best = jnp.argmax(hidden @ teacher, axis=-1)  # [Q, prefixes]
  reward = (best[:, bed.prefix] == bed.sequences).all(-1)
  head = 0.15 * teacher + 0.1 * jax.random.normal(noise, teacher.shape)
  return (beds.World(bed, reward.astype(jnp.float32), hidden @ head), hidden,
          head)


def plot(records: dict):
  """Success and rejections by the samples taken, and where arms end."""
  made, axes = drawing.panels(3)
  arms = (_SLOW, _FAST, _CAPO)
  x = records['samples'] / 1000
  drawing.curves(
      axes[0], {name: records[name]['success'] for name in arms}, x=x,
      bins=_POINTS)
  drawing.dress(axes[0], 'Success', 'responses sampled, thousands',
                'success rate')
  drawing.curves(axes[1], {
      name: 100 * records[name]['rejected'] for name in arms}, x=x,
                 bins=_POINTS)
  drawing.dress(axes[1], 'Rejected by CAPO', 'responses sampled, thousands',
                'tokens, %')
  drawing.points(axes[2], {
      name: records[name]['success'][:, -1] for name in arms})
  drawing.dress(axes[2], 'At the end', 'success rate', '')
  drawing.legend(made, axes[0])
  return made


if __name__ == '__main__':
  figure.main(__name__)
