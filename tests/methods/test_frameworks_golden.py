"""`in_framework` against what the frameworks' own code computed.

Each case goes through the whole method: credit assignment, and the loss with
its gradient. A case whose parameters are other than the framework's defaults
runs with those fields changed; of every file at least one case needs none.
"""

import numpy as np
import pytest

from policyopt.methods import dialect
from tests.golden_adapters.common import array, group_tolerance
from tests.golden_adapters.estimators import nemo_tolerance
from tests.methods.framework_cases import (
    close,
    differing,
    ids_of,
    inputs,
    load,
    make,
    run,
    values_for,
)

# Token weights are float32 numbers in credit assignment, whose 1 / N is
# rounded; and verl and Tunix add 1e-8 to some N.
ROUNDED = 1e-7


def _number(tolerance, case):
  return tolerance(case) if callable(tolerance) else tolerance


def _verl_rows(case):
  x = inputs(case)
  ids = ids_of(x)
  return dict(mask=x['response_mask'], group=ids,
              rewards=x['token_level_rewards'])


def _rows(rewards, group):
  """Rows of one token; a reward that is NaN is of no group."""
  group = np.where(np.isnan(rewards), -1, np.asarray(group))
  return dict(mask=np.ones((len(rewards), 1)), group=group, rewards=rewards)


def _verl_group(case):
  std = case['params']['norm_adv_by_std_in_grpo']
  return _verl_rows(case), 'advantages', dict(
      std='sample' if std else 'none', eps=case['params']['epsilon'])


def _verl_rloo(case):
  return _verl_rows(case), 'advantages', {}


def _trl_group(case):
  p, x = case['params'], inputs(case)['rewards_per_func']
  if p['aggregation'] != 'sum_then_normalize' or p['scale_rewards'] == 'batch':
    return None
  rewards = np.nansum(x * np.asarray(p['reward_weights'])[None], axis=1)
  rewards[np.isnan(x).all(axis=1)] = np.nan
  group = np.arange(len(x)) // p['num_generations']
  std = {'group': 'sample', 'none': 'none'}[p['scale_rewards']]
  return _rows(rewards, group), 'advantages', dict(std=std)


def _trl_rloo(case):
  if case['params']['normalize_advantages']:
    return None
  rewards = inputs(case)['rewards']
  group = np.arange(len(rewards)) // case['params']['num_generations']
  return _rows(rewards, group), 'advantages', {}


def _tunix(output):
  def read(case):
    rewards = inputs(case)['rewards']
    group = np.arange(len(rewards)) // case['params']['num_generations']
    changes = dict(std='none') if output == 'drgrpo' else {}
    return _rows(rewards, group), output, changes
  return read


def _nemo(case):
  p, x = case['params'], inputs(case)
  std = {(True, True): 'others', (False, True): 'sample'}.get(
      (p['leave_one_out'], p['normalize']), 'none')
  baseline = 'leave_one_out' if p['leave_one_out'] else 'group_mean'
  ids = ids_of(x)
  return _rows(x['rewards'], ids), 'advantage_per_sequence', dict(
      std=std, baseline=baseline)


@pytest.mark.parametrize('name, preset, read, tolerance, fewest', [
    ('grpo', ('verl', 'grpo'), _verl_group, group_tolerance, 0),
    ('drgrpo', ('verl', 'grpo'), _verl_group, group_tolerance, 1),
    ('rloo', ('verl', 'rloo'), _verl_rloo, group_tolerance, 0),
    # Bessel's factor is float32 there.
    ('trl_group_advantages', ('trl', 'grpo'), _trl_group, 1e-7, 0),
    ('trl_rloo_advantages', ('trl', 'rloo'), _trl_rloo, 1e-7, 0),
    ('tunix_group_advantages', ('tunix', 'grpo'), _tunix('grpo'), 1e-9, 0),
    ('tunix_group_advantages', ('tunix', 'grpo'), _tunix('drgrpo'), 1e-9, 1),
    ('tunix_group_advantages', ('tunix', 'rloo'), _tunix('rloo'), 1e-9, 0),
    ('nemo_grpo_loo', ('nemo', 'grpo'), _nemo, nemo_tolerance, 0),
])
def test_advantages(name, preset, read, tolerance, fewest, x64):
  counts = []
  for case in load(name):
    if (found := read(case)) is None:
      continue
    rows, output, changes = found
    changes = differing(*preset, changes)
    counts.append(len(changes))
    zeros = np.zeros(rows['mask'].shape)
    out = run(*preset, changes, make(
        **rows, old_log_probs=zeros, ref_log_probs=zeros))
    expected = array(case['outputs'][output])
    ours = out['advantages'] if expected.ndim == 2 else out['advantages'][:, 0]
    close(ours, expected, tolerance=_number(tolerance, case))
  assert min(counts) == fewest


# Policy losses: case -> what the loss sees, the names of its outputs, changes.

_MEANS = {'token-mean': 'token_mean', 'seq-mean-token-mean': 'sequence_mean',
          'sequence-mean-token-mean': 'sequence_mean',
          'sequence-mean-token-scale': 'constant_length'}


def _verl_loss(case):
  p, x = case['params'], inputs(case)
  return dict(
      log_probs=x['log_prob'], old=x['old_log_prob'], mask=x['response_mask'],
      advantages=x['advantages'], importance=x['rollout_is_weights'],
  ), ('loss', 'grad_log_prob'), dict(
      clip_low=p['clip_ratio_low'], clip_high=p['clip_ratio_high'],
      dual_clip=p['clip_ratio_c'], aggregation=_MEANS[p['loss_agg_mode']])


def _trl_loss(case):
  p, x = case['params'], inputs(case)
  mean = {'grpo': 'sequence_mean', 'bnpo': 'token_mean', 'dapo': 'token_mean',
          'dr_grpo': 'constant_length'}.get(p['loss_type'])
  if mean is None or {'top_q', 'entropy_coef', 'delta'} & p.keys():
    return None
  ratio = 'old' if p.get('use_bias_correction_kl', True) else 'none'
  low = p.get('eps', .2)
  return dict(
      log_probs=x['per_token_logps'], old=x['old_per_token_logps'],
      ref=x.get('ref_per_token_logps'), advantages=x['advantages'],
      mask=x['mask'], importance=x.get('importance_sampling_ratio'),
  ), ('loss', 'grad_per_token_logps'), dict(
      aggregation=mean, max_tokens=p.get('max_completion_length'),
      clip_low=low, clip_high=p.get('eps_high', low), beta=p.get('beta', 0.),
      level=p.get('level', 'token'), kl_ratio=ratio)


def _tunix_loss(case):
  p, x = case['params'], inputs(case)
  if p['loss_algo'] != 'grpo':
    return None
  kl = {'kl': 'k1', 'low_var_kl': 'k3'}[p['kl_loss_mode']]
  mean = _MEANS[p['loss_agg_mode']]
  width = x['completion_mask'].shape[1]
  return dict(
      log_probs=x['per_token_logps'], old=x['old_per_token_logps'],
      ref=x['ref_per_token_logps'], advantages=x['advantages'],
      mask=x['completion_mask'], importance=x['sampler_is_weights'],
  ), ('loss', 'grad_per_token_logps'), dict(
      beta=p['beta'], clip_low=p['epsilon'], clip_high=p['epsilon_high'],
      dual_clip=p['epsilon_c'], kl=kl, aggregation=mean,
      max_tokens=width if mean == 'constant_length' else None)


def _tunix_ppo(case):
  p, x = case['params'], inputs(case)
  if p['entropy_coef']:
    return None
  return dict(
      log_probs=x['per_token_logps'], old=x['old_per_token_logps'],
      advantages=x['advantages'], mask=x['completion_mask'],
  ), ('loss', 'grad_per_token_logps'), dict(
      clip_low=p['epsilon_low'], clip_high=p['epsilon_high'])


def _openrlhf(case):
  p, x = case['params'], inputs(case)
  changes = dict(
      clip_low=p.get('clip_eps_low', .2), clip_high=p.get('clip_eps_high', .2),
      dual_clip=p.get('dual_clip'))
  if p.get('policy_loss_type') == 'gspo':
    changes |= dict(level='sequence', aggregation='sequence_mean')
  if not p.get('token_level_loss', True):
    changes['aggregation'] = 'sequence_mean'
  if kind := p.get('vllm_is_correction_type'):
    floor, cap = p['vllm_is_truncated_threshold']
    changes |= dict(
        importance='token', importance_floor=floor, importance_cap=cap,
        importance_limit=None,
        importance_bound='truncate' if kind == 'tis' else 'mask',
        importance_judge='geometric' if kind == 'seq-mask-tis' else None)
  return dict(
      log_probs=x['log_probs'], old=x['old_log_probs'],
      sampled=x['rollout_log_probs'], advantages=x['advantages'],
      mask=x['action_mask']), ('loss', 'grad_log_probs'), changes


def _prime(case):
  p = case['params']
  if p['loss'] != 'default':
    return None
  x = {name: row[None] for name, row in inputs(case).items()}
  return dict(
      log_probs=x['trainer_logprobs'], old=x['inference_logprobs'],
      sampled=x['inference_logprobs'], mask=x['loss_mask'],
      advantages=p['adv_tau'] * x['advantages'],
  ), ('loss_sum', 'grad_trainer_logprobs'), dict(
      clip_low=p['dppo_mask_low'], clip_high=p['dppo_mask_high'],
      drift_penalty=p['kl_tau'])


def _float32(case):
  """All of it is float32 there, the sum that the loss is too."""
  largest = np.abs(array(case['inputs']['advantages'])).max(initial=1.)
  return max(1e-4, 1e-6 * largest)


def _policy_loss(preset, changes, *, log_probs, old, advantages, mask, ref=None,
                 sampled=None, importance=None):
  """(loss, gradient by the log-probabilities) of the policy's own terms."""
  framework, algorithm = preset
  ref = old if ref is None else ref
  sampled = old if sampled is None else sampled
  advantages = np.broadcast_to(
      advantages if advantages.ndim == 2 else advantages[:, None], mask.shape)
  if importance is not None:
    advantages = advantages * importance
  kw = dict(log_probs=log_probs, advantages=advantages)
  extras = dict(old_log_probs=old, ref_log_probs=ref)
  if algorithm == 'ppo':
    # Values whose advantages these are; their own loss is another test.
    changes = changes | dict(whiten='none', value_coef=0.)
    lam = dialect(*preset).lam
    extras['values'] = values_for(advantages, mask, lam=lam)
    kw.pop('advantages')
  out = run(framework, algorithm, changes, make(
      mask, sampled=sampled, **extras), **kw)
  return out['loss'], out['grad_log_probs']


@pytest.mark.parametrize('name, preset, read, tolerance, fewest', [
    ('ppo_clip_loss', ('verl', 'grpo'), _verl_loss, ROUNDED, 0),
    ('ppo_clip_loss', ('verl', 'rloo'), _verl_loss, ROUNDED, 0),
    ('ppo_clip_loss', ('verl', 'ppo'), _verl_loss, ROUNDED, 0),
    ('trl_grpo_options', ('trl', 'grpo'), _trl_loss, ROUNDED, 0),
    # β, or the upper clip, is set in all of them.
    ('trl_grpo_losses', ('trl', 'grpo'), _trl_loss, ROUNDED, 1),
    ('tunix_grpo_loss', ('tunix', 'grpo'), _tunix_loss, _float32, 1),
    ('tunix_ppo_loss', ('tunix', 'ppo'), _tunix_ppo, ROUNDED, 0),
    ('openrlhf_policy_loss', ('openrlhf', 'ppo'), _openrlhf, ROUNDED, 0),
    ('prime_rl_losses', ('prime-rl', 'grpo'), _prime, ROUNDED, 0),
])
def test_policy_loss(name, preset, read, tolerance, fewest, x64):
  counts = []
  for case in load(name):
    if (found := read(case)) is None:
      continue
    x, (value, slope), changes = found
    changes = differing(*preset, changes)
    counts.append(len(changes))
    # A sum there, which its caller divides by the number of tokens.
    scale = max(1., x['mask'].sum()) if value == 'loss_sum' else 1.
    loss, gradient = _policy_loss(preset, changes, **x)
    within = dict(tolerance=_number(tolerance, case))
    close(scale * loss, array(case['outputs'][value]), **within)
    expected = array(case['outputs'][slope])
    close(scale * (gradient if expected.ndim == 2 else gradient[0]), expected,
          **within)
  assert min(counts) == fewest
