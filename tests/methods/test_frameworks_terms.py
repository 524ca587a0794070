"""Values, KL terms and corrections of `in_framework`, term by term.

Against golden vectors where a framework's own code has left some, and against
the framework's formula in numpy where not.
"""

import numpy as np
import pytest

from policyopt.methods import dialect
from tests.golden_adapters.common import array
from tests.methods.framework_cases import (
    close,
    differing,
    inputs,
    load,
    make,
    rewards_for,
    run,
)

# Token weights are float32 numbers in credit assignment, whose 1 / N is
# rounded; and verl and Tunix add 1e-8 to some N.
ROUNDED = 1e-7
MASK = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1], [1, 1, 0, 0, 0],
                 [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0.]])
GROUP = np.array([0, 1, 0, 1, 1, 0])
REWARDS = np.array([1., 0., 0., 1., 40., .5])


def _random(seed, scale=.3):
  rng = np.random.default_rng(seed)
  return np.where(MASK != 0, scale * rng.normal(size=MASK.shape), 0)


OLD, REF, SAMPLED, NEW = (
    _random(0, 1.) - 2, _random(1) - 2, _random(2) - 2, _random(3) - 2)


def _rollout(**kw):
  return make(MASK, group=GROUP, **dict(
      rewards=REWARDS, old_log_probs=OLD, ref_log_probs=REF) | kw)


@pytest.mark.parametrize('name, preset, names, tolerance, fewest', [
    ('gae', ('verl', 'ppo'),
     ('token_level_rewards', 'response_mask', 'lam', 'advantages'), ROUNDED, 0),
    ('tunix_gae', ('tunix', 'ppo'),
     ('rewards', 'completion_mask', 'gae_lambda', 'advantages'), ROUNDED, 0),
    # λ is 1 by default and .95 or .8 in all of them, nothing is whitened.
    ('openrlhf_gae_returns', ('openrlhf', 'ppo'),
     ('rewards', 'action_mask', 'lambd', 'gae_advantages_unwhitened'), 1e-9, 2),
])
def test_advantages_and_value_targets(
    name, preset, names, tolerance, fewest, x64):
  rewards, mask, lam, output = names
  counts = []
  for case in load(name):
    x, p = inputs(case), case['params']
    changes = dict(gamma=p['gamma'], lam=p[lam])
    if 'unwhitened' in output:
      changes['whiten'] = 'none'
    changes = differing(*preset, changes)
    counts.append(len(changes))
    there, zeros = x[mask], np.zeros(x[mask].shape)
    out = run(*preset, changes, make(
        there, rewards=x[rewards], values=x['values'], old_log_probs=zeros,
        ref_log_probs=zeros), values=x['values'])
    close(out['advantages'], array(case['outputs'][output]), there,
          tolerance=tolerance)
    # The gradient of ½w(v − G)² where v has not moved.
    size = tuple(map(slice, there.shape))
    weights = np.where(there != 0, out['weights'][size], 1)
    targets = x['values'] - out['grad_values'][size] / weights
    close(targets, array(case['outputs']['returns']), there,
          tolerance=ROUNDED)
  assert min(counts) == fewest


@pytest.mark.parametrize('preset', [
    ('verl', 'ppo'), ('tunix', 'ppo'), ('openrlhf', 'ppo')], ids='-'.join)
def test_value_loss(preset, x64):
  """verl's vectors have the clips of verl, Tunix and OpenRLHF."""
  counts = []
  for case in load('value_loss'):
    x, p = inputs(case), case['params']
    means = {'token-mean': 'token_mean', 'seq-mean-token-mean': 'sequence_mean'}
    changes = differing(*preset, dict(
        value_clip=p['cliprange_value'], aggregation=means[p['loss_agg_mode']]))
    counts.append(len(changes))
    mask, zeros = x['response_mask'], np.zeros(x['response_mask'].shape)
    # With λ = 1 any targets are the sums of some rewards.
    out = run(*preset, changes | dict(lam=1., reward_clip=None), make(
        mask, rewards=rewards_for(x['returns'], mask), values=x['values'],
        old_log_probs=zeros, ref_log_probs=zeros),
        values=x['vpreds'], advantages=zeros)
    close(out['loss'], array(case['outputs']['loss']), tolerance=ROUNDED)
    close(out['grad_values'], array(case['outputs']['grad_vpreds']),
          tolerance=ROUNDED)
  assert min(counts) == 0


@pytest.mark.parametrize('name, estimator', [
    ('kl', 'k1'), ('abs', 'abs'), ('mse', 'k2'), ('low_var_kl', 'k3'),
    ('k1+', 'k1'), ('low_var_kl+', 'k3')])
def test_kl_of_verl(name, estimator, x64):
  """In the loss of GRPO, which has k3, and in the reward of PPO, with k1."""
  gradient = 'k2' if name.endswith('+') else None
  for case in load('kl_k1_k2_k3'):
    x = inputs(case)
    mask, zeros = np.ones(x['logprob'].shape), np.zeros(x['logprob'].shape)
    expected = {key: array(value) for key, value in
                case['outputs'][name].items()}
    out = run('verl', 'grpo', dict(
        beta=1., kl=estimator, kl_gradient=gradient), make(
            mask, old_log_probs=x['logprob'], ref_log_probs=x['ref_logprob']),
        log_probs=x['logprob'], advantages=zeros)
    close(out['loss'], expected['value'].mean(), tolerance=ROUNDED)
    close(out['grad_log_probs'] * mask.size,
          expected['grad_of_sum_wrt_logprob'], tolerance=ROUNDED)
    out = run('verl', 'ppo', dict(beta=1., kl=estimator), make(
        mask, old_log_probs=x['logprob'], ref_log_probs=x['ref_logprob'],
        values=zeros))
    close(-out['token_rewards'], expected['value'])


@pytest.mark.parametrize('name, changes', [
    ('low_var_kl', {}), ('kl', dict(kl='k1')), ('mse_kl', dict(kl='k2')),
    ('low_var_kl_clamp10', dict(kl_output_limit=10.))])
def test_kl_of_tunix(name, changes, x64):
  """In the reward of PPO, whose default is the first."""
  for case in load('tunix_kl'):
    x = inputs(case)
    zeros = np.zeros(x['per_token_logps'].shape)
    out = run('tunix', 'ppo', changes, make(
        np.ones(zeros.shape), old_log_probs=x['per_token_logps'],
        ref_log_probs=x['ref_per_token_logps'], values=zeros))
    close(-out['token_rewards'] / dialect('tunix', 'ppo').beta,
          array(case['outputs'][name]), tolerance=1e-5)  # float32 there


def test_kl_of_nemo_has_the_gradient_of_a_ratio_that_is_one(x64):
  x = np.array([[.3, -1.2, 25., -25.], [-2.5, -3., 8., 0.]])
  ones, zeros = np.ones(x.shape), np.zeros(x.shape)
  out = run('nemo', 'grpo', {}, make(
      ones, old_log_probs=zeros, ref_log_probs=-x), advantages=zeros)
  inside = np.clip(x, -20, 20)
  k3 = np.exp(-inside) - 1 + inside
  free = (np.abs(x) < 20) & (k3 < 10)
  slope = np.where(free, (1 - np.exp(-inside)) + k3, 0)
  assert free.sum() == 5
  close(out['loss'], .01 * np.clip(k3, -10, 10).mean(), tolerance=ROUNDED)
  close(out['grad_log_probs'] * x.size, .01 * slope, tolerance=ROUNDED)


@pytest.mark.parametrize('algorithm', ['grpo', 'rloo'])
def test_openrlhf_clips_the_score_and_charges_what_follows(algorithm, x64):
  expected = np.zeros(MASK.shape)
  for row in range(len(MASK)):
    own = REWARDS[GROUP == GROUP[row]]
    if algorithm == 'grpo':
      score = (REWARDS[row] - own.mean()) / (own.std(ddof=1) + 1e-9)
    else:
      score = REWARDS[row] - (own.sum() - REWARDS[row]) / (len(own) - 1)
    kl = np.where(MASK[row] != 0, np.clip((OLD - REF)[row], -10, 10), 0)
    to_come = np.cumsum(kl[::-1])[::-1]
    expected[row] = MASK[row] * (np.clip(score, -10, 10) - .01 * to_come)
  out = run('openrlhf', algorithm, {}, _rollout())
  close(out['advantages'], expected)
  assert np.abs(expected).max() > 9 or algorithm == 'grpo'


def test_openrlhf_whitens_by_the_population(x64):
  values = _random(4)
  plain = run('openrlhf', 'ppo', dict(whiten='none'), _rollout(values=values))
  white = run('openrlhf', 'ppo', {}, _rollout(values=values))
  chosen = np.asarray(plain['advantages'])[:6, :5][MASK != 0]
  close(np.asarray(white['advantages'])[:6, :5][MASK != 0],
        (chosen - chosen.mean()) / np.sqrt(max(chosen.var(), 1e-8)))
  flat = run('openrlhf', 'ppo', dict(beta=0.), _rollout(
      values=np.zeros(MASK.shape), rewards=np.ones(6)))
  assert (np.asarray(flat['advantages']) == 0).all()


def _clipped(log_ratio, advantages, low, high):
  """The clipped term and its slope by the log-ratio."""
  ratio = np.exp(log_ratio)
  free = ratio * advantages
  held = np.clip(ratio, 1 - low, 1 + high) * advantages
  return np.minimum(free, held), np.where(free <= held, free, 0)


def test_open_instruct(x64):
  """Flat groups leave; the sampler's correction is of the policy term only."""
  group, rewards = np.array([0, 1, 0, 1, 1, 0]), np.array([1., 2, 0, 2, 2, .5])
  out = run('open-instruct', 'grpo', {}, _rollout(
      sampled=SAMPLED, rewards=rewards), log_probs=NEW)
  there = (MASK != 0) & (group == 0)[:, None]
  centred = (rewards - .5) * (group == 0)
  weight = np.minimum(np.exp(np.clip(OLD - SAMPLED, -10, 10)), 2.)
  term, slope = _clipped(
      NEW - OLD, np.broadcast_to(centred[:, None], MASK.shape), .2, .272)
  x = np.clip(NEW - REF, -40, 40)
  loss = -weight * term + .05 * (np.exp(-x) - 1 + x)
  gradient = -weight * slope + .05 * (1 - np.exp(-x))
  close(out['loss'], loss[there].mean(), tolerance=ROUNDED)
  close(out['grad_log_probs'], np.where(there, gradient, 0) / there.sum(),
        tolerance=ROUNDED)


def test_trl_rloo(x64):
  """The response is one action; one without a token counts as a response."""
  out = run('trl', 'rloo', {}, _rollout(sampled=SAMPLED), log_probs=NEW)
  rewards = REWARDS - .05 * ((OLD - REF) * MASK).sum(1)
  advantages = np.array([
      reward - (rewards[GROUP == group].sum() - reward) / 2
      for reward, group in zip(rewards, GROUP)])
  close(out['advantages'], MASK * advantages[:, None])
  term, slope = _clipped(((NEW - OLD) * MASK).sum(1), advantages, .2, .2)
  # There a response without a token adds its −A, which has no gradient.
  close(out['loss'], -np.sum(term * (MASK.sum(1) > 0)) / 6, tolerance=ROUNDED)
  close(out['grad_log_probs'], -MASK * slope[:, None] / 6, tolerance=ROUNDED)
  assert 0 < (slope[MASK.sum(1) > 0] == 0).sum() < 5


def test_trl_drops_responses_that_the_sampler_makes_too_likely(x64):
  out = run('trl', 'grpo', {}, _rollout(sampled=SAMPLED))
  alone = run('trl', 'grpo', dict(importance=None), _rollout(sampled=SAMPLED))
  ratio = np.exp(((OLD - SAMPLED) * MASK).sum(1))
  weight = np.where(ratio > 3, 0, ratio)
  close(out['advantages'], weight[:, None] * np.asarray(
      alone['advantages'])[:6, :5])
  close(out['weights'], alone['weights'])
  assert 0 < (weight == 0).sum() < 6
