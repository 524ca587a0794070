"""PPO: a learned critic against the baseline of a group, on token credit.

    python experiments/figures/ppo.py [--fast]

16 prompts ask for a sequence of five bits each, and the reward at the end is
the share of bits that are right: five decisions that should be credited one by
one. The policies are tabular, and so is the critic, a value for every prefix
that starts at 0 and is learned by PPO's own value loss. All arms take two
updates with every batch, by the same optimizer, each at the learning rate that
suits it best.
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
from policyopt import methods, types
from policyopt.envs import exact
from policyopt.training.credit import assign_credit, init_credit

METHODS = ('ppo',)
_PROMPTS, _SAMPLES, _BITS, _REUSE = 16, 8, 5, 2
_RATES = (0.03, 0.1, 0.3, 1.)
# (method, whose values it is given)
_ARMS = {
    'PPO, λ = 0.95': (methods.ppo, 'learned'),
    'PPO, λ = 1': (lambda: methods.ppo(lam=1.), 'learned'),
    'PPO, λ = 0': (lambda: methods.ppo(lam=0.), 'learned'),
    'PPO, exact critic': (methods.ppo, 'exact'),
    'GRPO': (lambda: methods.grpo(beta=0.), 'exact'),
    'RLOO': (lambda: methods.rloo(beta=0.), 'exact')}


def _ahead(name, than):
  return lambda records: (
      records[name]['reward'] - records[than]['reward']).mean(1)


_MEASURED = ('Expected reward, mean over training, each at its best learning '
             'rate: ')
CLAIMS = (
    verdict.Claim(
        'A critic that credits tokens one by one learns more from the same '
        'samples than the baseline of a group.',
        _MEASURED + 'PPO with λ = 0.95 minus GRPO.', '',
        _ahead('PPO, λ = 0.95', 'GRPO')),
    verdict.Claim(
        'GAE with λ < 1 learns more than with λ = 1, whose noise is larger.',
        _MEASURED + 'λ = 0.95 minus λ = 1.', '',
        _ahead('PPO, λ = 0.95', 'PPO, λ = 1')),
    verdict.Claim(
        'With λ = 0 the errors of a critic that is still learning cost more '
        'than the noise that is saved.',
        _MEASURED + 'λ = 0.95 minus λ = 0.', '',
        _ahead('PPO, λ = 0.95', 'PPO, λ = 0')),
)


def run(fast: bool = False) -> dict:
  """Trains every arm.

  Args:
    fast: fewer seeds, steps, rates and arms.

  Returns:
    arm -> 'reward', 'error' [S, steps], the critic's root mean square error
    over the prefixes by their chance, 'rate', 'scores' [rates].
  """
  seeds, tries, steps = (3, 1, 30) if fast else (16, 4, 150)
  rates = _RATES[1:3] if fast else _RATES
  world = _world()
  records = {}
  for name, (make, critic) in _ARMS.items():
    if fast and name in ('PPO, exact critic', 'RLOO'):
      continue
    one = lambda key, rate, make=make, critic=critic: _learn(
        world, make(), critic, key, rate, steps)
    records[name] = tuning.tuned(
        one, rates, seeds, tries, lambda run: run['reward'].mean(1))
  return records


def _world() -> beds.World:
  """Every prompt asks for bits of its own."""
  bed = exact.make_bed(2, _BITS)
  asked = np.random.default_rng(0).integers(0, 2, (_PROMPTS, 1, _BITS))
  reward = (np.asarray(bed.sequences)[None] == asked).mean(2)
  return beds.World(bed, jnp.asarray(reward, jnp.float32),
                    jnp.zeros((_PROMPTS, bed.prefixes, 2)))


def _learn(world, method, critic, key, rate, steps):
  """One run; what is seen before each step."""
  bed, rule = world.bed, optax.adam(rate)
  prompts = jnp.arange(_PROMPTS)

  def step(carry, key):
    params, state, moments = carry
    logits, values = params
    rollout = beds.draw(world, logits, key, prompts, _SAMPLES)
    at = (rollout.extras['prompt'][:, None],
          bed.prefix[rollout.extras['sequence']])
    seen = _watch(world, logits, values)
    if critic == 'learned':
      rollout = rollout._replace(
          extras=rollout.extras | {'values': values[at]})
    assigned, state = assign_credit(method, state, rollout)

    def loss(params):
      log_probs = jax.nn.log_softmax(params[0])[at]
      policy = types.PolicyOutput(
          log_probs=jnp.take_along_axis(
              log_probs, rollout.tokens[..., None], 2)[..., 0],
          values=params[1][at])
      return method.loss.apply(policy, assigned.advantages, assigned.weights,
                               assigned.rollout)[0]

    def update(carry, _):
      params, moments = carry
      change, moments = rule.update(jax.grad(loss)(params), moments, params)
      return (optax.apply_updates(params, change), moments), None

    (params, moments), _ = jax.lax.scan(
        update, (params, moments), None, length=_REUSE)
    return (params, state, moments), seen

  params = (world.reference, jnp.zeros(world.reference.shape[:2]))
  return jax.lax.scan(
      step, (params, init_credit(method), rule.init(params)),
      jax.random.split(key, steps))[1]


def _watch(world, logits, values):
  """Expected reward, and the critic's error on prefixes as they come up."""
  bed = world.bed
  chance = jax.vmap(exact.probs, (None, 0))(bed, logits)
  right = jax.vmap(exact.values, (None, 0, 0))(bed, logits, world.reward)
  squares = jnp.square(values - right)[:, bed.prefix].mean(-1)
  return dict(reward=beds.objective(world, logits),
              error=jnp.sqrt((chance * squares).sum(1).mean()))


def plot(records: dict):
  """Learning, the mean over it, and the critics' errors."""
  made, axes = drawing.panels(3, width=4.0, height=3.2)
  drawing.curves(axes[0], {
      name: x['reward'] for name, x in records.items()})
  drawing.dress(axes[0], 'Learning at the best rate', 'step',
                'expected reward (share of bits)')
  drawing.points(axes[1], {
      f'{name} ({float(x["rate"]):g})': x['reward'].mean(1)
      for name, x in records.items()})
  drawing.dress(axes[1], 'Reward over training (best rate)',
                'expected reward, mean over steps', '')
  learned = {name: x['error'] for name, x in records.items()
             if 'λ' in name}
  drawing.curves(axes[2], learned)
  drawing.dress(axes[2], 'Critics', 'step', 'root mean square error of V')
  drawing.legend(made, axes[0], columns=6)
  return made


if __name__ == '__main__':
  figure.main(__name__)
