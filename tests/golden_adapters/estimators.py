"""Advantage estimators, returns, controllers and entropy of other code."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import credit, ops
from policyopt.types import Rollout
from tests.golden_adapters.common import (
    COUNT_EPS,
    Adapter,
    array,
    compiled,
    group_tolerance,
    pad_rows,
    whole,
)

SINGLE = float(np.finfo(np.float32).eps)


def _rows(inputs):
  return jnp.sum(inputs['token_level_rewards'], axis=1)


def _ids(inputs):
  return ops.compact_ids(inputs['group_ids'].astype(np.int32))


def _spread(per_row, inputs):
  tokens = per_row[:, None] * inputs['response_mask']
  return {'advantages': tokens, 'returns': tokens}, None


def remax(inputs, params):
  del params
  mask = jnp.asarray(inputs['response_mask'] != 0)
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=jnp.zeros(mask.shape), group=jnp.arange(len(mask)), rewards={},
      extras={'greedy_reward': jnp.asarray(inputs['reward_baselines'])})
  rewards = jnp.asarray(inputs['token_level_rewards'])
  advantages, _ = credit.subtract_greedy_reward().update(rewards, (), rollout)
  returns = ops.discounted_returns(rewards, mask)
  return {'advantages': advantages, 'returns': returns}, mask


def opo(inputs, params):
  del params
  return _spread(ops.length_weighted_centre(
      _rows(inputs), jnp.sum(inputs['response_mask'], axis=1), _ids(inputs),
      singleton='raw'), inputs)


def gpg(inputs, params):
  rewards, ids = _rows(inputs), _ids(inputs)
  centred = ops.group_standardize(rewards, ids, std='none', singleton='raw')
  scale = ops.live_scale(rewards, ids, 'nonzero')
  return _spread(centred * scale / params['f_norm'], inputs)


def gpg_tolerance(case):
  """The quotient of two counts is float32 there."""
  return max(1e-7, group_tolerance(case))


def grpo_passk(inputs, params):
  std = params['config'].get('norm_adv_by_std_in_grpo', True)
  return _spread(ops.best_margin(
      _rows(inputs), _ids(inputs), std='sample' if std else 'none',
      eps=params['epsilon']), inputs)


def skyrl_maxrl(inputs, params):
  advantages = ops.divide_by_mean(
      _rows(inputs), _ids(inputs), eps=params['epsilon'], singleton='raw',
      nonpositive='divide')
  return {'advantages': advantages[:, None] * inputs['response_mask']}, None


def _gdpo(inputs, params):
  mask = inputs['response_mask']
  advantages = ops.standardize_channels(
      inputs['rewards'], _ids(inputs),
      params['weights'] and jnp.asarray(params['weights'], jnp.float64),
      eps=params['epsilon'], singleton='raw')
  white = ops.masked_whiten(
      advantages[:, None] * mask, mask, count_eps=COUNT_EPS)
  return {'advantages': white}, None


def verl_gdpo(case):
  inputs = {name: array(x) for name, x in case['inputs'].items()}
  mask = inputs['response_mask']
  return compiled(_gdpo)(pad_rows({
      'rewards': inputs['rewards_per_dim'].T, 'group_ids': inputs['group_ids'],
      'response_mask': np.pad(mask, ((0, 0), (0, -mask.shape[1] % 12)))},
      len(mask)), case['params'])


def gdpo_absolute(case):
  """All of it is float32 there: small spreads, and channels that cancel."""
  inputs, terms, worst = case['inputs'], [], 1.
  ids = np.asarray(inputs['group_ids'])
  channels = array(inputs['rewards_per_dim'])
  weights = case['params']['weights'] or np.ones(len(channels))
  for channel, weight in zip(channels, weights):
    terms.append(np.zeros(len(ids)))
    for name in np.unique(ids):
      member = channel[ids == name]
      spread = np.std(member, ddof=1) if len(member) > 1 else 1.
      spread += case['params']['epsilon']
      centre = np.mean(member) if len(member) > 1 else 0.
      terms[-1][ids == name] = weight * (member - centre) / spread
      # Sums of whole numbers are exact.
      if np.any(member != np.round(member)):
        worst = max(worst, np.abs(member).max() / spread)
  kept = np.sqrt(np.var(np.sum(terms, axis=0)) + 1e-8)
  return 16 * SINGLE * worst * np.abs(terms).sum(axis=0).max() / kept


def _token_baseline(inputs, params, ids, positions):
  mask = inputs['response_mask'] != 0
  energy = ops.gradient_energy(
      inputs['old_log_probs'], inputs['sum_pi_squared'])
  if inputs['rollout_is_weights'] is not None:
    energy = energy * jnp.square(inputs['rollout_is_weights'])
  returns = ops.discounted_returns(inputs['token_level_rewards'], mask)
  baseline = ops.optimal_token_baseline(
      returns, energy, mask, ids, positions, eps=params['epsilon'],
      tail='length' if params['handle_zero_tail'] else 'none')
  return {'advantages': returns - baseline, 'returns': returns}, mask


def optimal_token_baseline(inputs, params):
  # Columns of the response there, whose first token may be an observation.
  mask = inputs['response_mask']
  columns = np.broadcast_to(np.arange(mask.shape[1])[None], mask.shape)
  return _token_baseline(inputs, params, _ids(inputs), columns)


def tir_optimal_token_baseline(inputs, params):
  # A row without a chosen token is no member there.
  mask = inputs['response_mask'] != 0
  ids = jnp.where(mask.any(axis=1), _ids(inputs), -1)
  return _token_baseline(
      inputs, params, ids, ops.token_positions(mask, 'valid'))


def openrlhf_gae_returns(inputs, params):
  rewards, values = inputs['rewards'], inputs['values']
  mask = inputs['action_mask'] != 0
  kw = dict(gamma=params['gamma'], observations='decay')
  advantages = ops.generalized_advantages(
      rewards, values, mask, lam=params['lambd'], **kw)
  return {
      'gae_advantages_unwhitened': advantages,
      'returns': advantages + ops.fill(values, mask),
      'reinforce_returns': ops.discounted_returns(rewards, mask, **kw),
  }, mask


def gae_packed(inputs, params):
  # An observation there cuts what comes after it but keeps a reward and value
  # of its own: it is a chosen token that ends a sequence.
  rewards, values = inputs['rewards'], inputs['values']
  every = np.ones(rewards.shape, bool)
  ends = (inputs['dones'] != 0) | (inputs['response_masks'] == 0)
  plain, packed = (
      ops.generalized_advantages(
          rewards, values, every, gamma=params['gamma'], lam=params['lam'],
          dones=dones)
      for dones in (None, ends))
  return {
      'packed_advantages': packed, 'packed_returns': packed + values,
      'plain_advantages': plain, 'plain_returns': plain + values}, None


def nemo_grpo_loo(inputs, params):
  rewards, ids = inputs['rewards'], _ids(inputs)
  if params['leave_one_out']:
    centred = ops.leave_one_out(rewards, ids)
    spread, standard = ops.others_std(rewards, ids), (
        ops.leave_one_out_standardize(rewards, ids))
  else:
    centred = ops.group_standardize(rewards, ids, std='none')
    spread = ops.gather(ops.segment_std(rewards, ids), ids)
    standard = ops.group_standardize(rewards, ids)
  return {
      'baseline': rewards - centred, 'std': spread,
      'advantage_per_sequence': standard if params['normalize'] else centred,
  }, None


def nemo_tolerance(case):
  """All of it is float32 there, the variance a difference of squares."""
  rewards = array(case['inputs']['rewards'])
  ids, worst = np.asarray(case['inputs']['group_ids']), 1.
  for row, name in enumerate(ids):
    member = np.flatnonzero(ids == name)
    if case['params']['leave_one_out']:
      member = member[member != row]
    others = rewards[member]
    if len(others) > 1 and np.ptp(others) > 0:
      worst = max(worst, np.mean(others**2) / np.var(others))
    left = abs(rewards[row] - np.mean(others)) if len(others) else 0
    if left > 1e-15:
      worst = max(worst, np.abs(rewards).max() / left)
  return max(1e-6, 16 * SINGLE * worst)


def adaptive_kl_controller(case):
  params, coefs = case['params'], []
  coef = array(params['init_kl_coef'])
  for kl, count in zip(*(array(case['inputs'][name])
                         for name in ('current_kl', 'n_steps'))):
    coef = ops.adapt_coefficient(
        coef, kl, params['target_kl'], count=count, horizon=params['horizon'])
    coefs.append(coef)
  return {'coef_after_each_update': np.stack(coefs)}, None


def entropy_from_logits(inputs, params):
  del params
  logits, mask = inputs['logits'], inputs['response_mask']
  entropy, pull = jax.vjp(ops.entropy_from_logits, logits)
  means = {
      'entropy_loss_token_mean': ops.token_mean(mask, mask),
      'entropy_loss_seq_mean_token_mean': ops.sequence_mean(
          mask, mask, count_eps=COUNT_EPS)}
  return {
      'entropy': entropy,
      'grad_of_sum_wrt_logits': pull(jnp.ones_like(entropy))[0],
      **{name: jnp.sum(weights * entropy) for name, weights in means.items()},
  }, None


ADAPTERS = {
    'adaptive_kl_controller': Adapter(adaptive_kl_controller, raw=True),
    'entropy_from_logits': Adapter(whole(entropy_from_logits), raw=True),
    'gae_packed': Adapter(gae_packed),
    'gpg': Adapter(gpg, tolerance=gpg_tolerance),
    'grpo_passk': Adapter(grpo_passk, tolerance=group_tolerance),
    'nemo_grpo_loo': Adapter(
        nemo_grpo_loo, tolerance=nemo_tolerance),
    'openrlhf_gae_returns': Adapter(openrlhf_gae_returns),
    'opo': Adapter(opo, tolerance=group_tolerance),
    'optimal_token_baseline': Adapter(optimal_token_baseline),
    'remax': Adapter(remax),
    'skyrl_maxrl': Adapter(skyrl_maxrl, tolerance=group_tolerance),
    'tir_optimal_token_baseline': Adapter(tir_optimal_token_baseline),
    'verl_gdpo': Adapter(
        verl_gdpo, raw=True, tolerance=1e-5, absolute=gdpo_absolute),
}
