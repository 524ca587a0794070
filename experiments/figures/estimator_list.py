"""The estimators that `estimators.py` measures, and what each is said to be."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.figures import beds, theory
from policyopt import credit, losses, methods, types

SAMPLES = 4

UNBIASED = ('REINFORCE', 'REINFORCE to go', 'RLOO', 'ReMax', 'GAE λ=1',
            'GAE λ=0.95', 'GAE λ=1, wrong V')
STATED = ('Dr. GRPO', 'GRPO', 'GRPO, population σ', 'GRPO, σ of others',
          'GRPO, mean per row', 'NGRPO', 'MaxRL', 'pass@k GRPO',
          'pass@k GRPO, no σ', 'GAE λ=0.5, wrong V', 'GAE λ=0, wrong V')
# Of KL estimators: right in the loss, other in the loss, and in the reward.
EXACT = ('k2', 'k3, gradient of k2', 'ρ·k1', 'ρ·k3', 'k3, score')
IN_LOSS = ('k1', 'k3', 'abs')
IN_REWARD = ('k1 in reward', 'k1 in reward, to go', 'k2 in reward',
             'k3 in reward')


class Estimator(NamedTuple):
  """An estimator.

  Attributes:
    method: that is run; None: the samples of another one are judged again.
    target: f64[Q, prefixes, V], the mean that is stated; None: none is.
  """
  method: types.Method | None
  target: np.ndarray | None = None


def advantage_estimators(
    world: beds.World, logits, wrong) -> dict[str, Estimator]:
  """Every advantage estimator, by name.

  Args:
    world: the prompts.
    logits: of their policies.
    wrong: f32[Q, prefixes], values that are not those of the policies.

  Returns:
    name -> Estimator.
  """
  right = theory.policy_gradient(world, logits)
  by = lambda rule: theory.reweighted(world, logits, rule, SAMPLES)
  plain = {
      'REINFORCE': methods.reinforce(),
      'REINFORCE to go': methods.reinforce(returns='to_go'),
      'RLOO': methods.rloo(beta=0.), 'ReMax': methods.remax(),
      'GAE λ=1': _gae(1.), 'GAE λ=0.95': _gae(0.95),
      'GAE λ=1, wrong V': _gae(1., world, wrong)}
  stated = {
      'Dr. GRPO': (methods.dr_grpo(max_tokens=1), (1 - 1 / SAMPLES) * right),
      'GRPO': (methods.grpo(beta=0.), by(theory.by_std)),
      'GRPO, population σ': (
          methods.grpo(beta=0., std='population'),
          by(theory.by_population_std)),
      'GRPO, σ of others': (
          methods.reinforce()._replace(
              advantages=credit.leave_one_out_standardize()),
          by(theory.by_std_of_others)),
      'NGRPO': (methods.ngrpo(), by(theory.with_perfect)),
      'MaxRL': (methods.maxrl(), by(theory.by_mean)),
      'pass@k GRPO': (methods.passk_grpo(), by(theory.only_one_by_std)),
      'pass@k GRPO, no σ': (
          methods.passk_grpo(std='none'), by(theory.only_one)),
      'GAE λ=0.5, wrong V': (
          _gae(0.5, world, wrong),
          theory.generalized(world, logits, wrong, 0.5)),
      'GAE λ=0, wrong V': (
          _gae(0., world, wrong),
          theory.generalized(world, logits, wrong, 0.))}
  made = {name: Estimator(beds.sequence_average(method), right)
          for name, method in plain.items()}
  made |= {name: Estimator(beds.sequence_average(method), target)
           for name, (method, target) in stated.items()}
  # This one is about the weights, so it keeps its own.
  made['GRPO, mean per row'] = Estimator(
      methods.grpo(std='none', beta=0.),
      theory.mean_per_row(world, logits, SAMPLES))
  made['MaxRL, k ≤ G'] = Estimator(
      None, theory.log_likelihood(world, logits, SAMPLES))
  made |= {name: Estimator(beds.sequence_average(method))
           for name, method in _others().items()}
  return made


def _others():
  """Whose mean has no short formula: how far it is from ∇J is measured."""
  return {
      'batch mean': methods.reinforce(baseline='batch'),
      'REINFORCE++': methods.reinforce_pp(beta=0.),
      'REINFORCE++ baseline': methods.reinforce_pp_baseline(beta=0.),
      'OPO': methods.opo(), 'OTB': methods.otb(), 'GPG': methods.gpg(),
      'GDPO': methods.gdpo(), 'BNPO': methods.bnpo(),
      'A-GRAE': methods.agrae(), 'CANON': methods.canon(max_tokens=2),
      'ACE': methods.ace(), 'ADORA': methods.adora(beta=0.),
      'DVAO': methods.dvao(), 'HAPO': _surrogate(methods.hapo())}


def _surrogate(method):
  """Its advantages alone, in the plain policy gradient."""
  return method._replace(loss=losses.policy_gradient_loss(), derived=None)


def _gae(lam, world=None, values=None):
  """GAE without a value loss; with `values` for those of the rollout."""
  estimate = credit.gae(lam=lam)
  if values is not None:
    def mistaken(x, rollout):
      at = world.bed.prefix[rollout.extras['sequence']]
      given = values[rollout.extras['prompt'][:, None], at]
      return estimate.update(x, (), rollout._replace(
          extras={**rollout.extras, 'values': given}))[0]
    return methods.reinforce()._replace(advantages=credit.stateless(mistaken))
  return methods.reinforce()._replace(advantages=estimate)


def kl_estimators(world: beds.World, logits) -> dict[str, Estimator]:
  """Every KL estimator as a term to be lowered, by name.

  Args:
    world: one prompt.
    logits: of its policy.

  Returns:
    name -> Estimator of the direction that lowers the divergence.
  """
  right = theory.kl_gradients(world, logits)
  def loss(target, **kw):
    return Estimator(beds.sequence_average(methods.reinforce())._replace(
        loss=losses.kl_penalty(1., **kw)), -target)
  def reward(name, cost, returns='sequence'):
    method = methods.reinforce(returns=returns)._replace(
        rewards=credit.kl_in_reward(1., estimator=name))
    return Estimator(
        method, -theory.in_reward(world, logits, cost))
  near = right['reverse']
  return {
      'k2': loss(near, value='k2'),
      'k3, gradient of k2': loss(near, value='k3', gradient='k2'),
      'ρ·k1': loss(near, value='k1', ratio_weighted=True),
      'ρ·k3': loss(near, value='k3', ratio_weighted=True),
      'k3, score': loss(near, value='k3', score=True),
      'k1': loss(0 * near, value='k1'),
      'k3': loss(right['forward'], value='k3'),
      'abs': loss(right['l1'], value='abs'),
      'k1 in reward': Estimator(
          reward('k1', lambda x: x).method, -right['sequence']),
      'k1 in reward, to go': Estimator(
          reward('k1', lambda x: x, 'to_go').method, -right['sequence']),
      'k2 in reward': reward('k2', lambda x: x * x / 2),
      'k3 in reward': reward('k3', lambda x: jnp.expm1(-x) + x)}
