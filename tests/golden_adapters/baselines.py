"""The first baselines: groups, returns, clip, KL, aggregation, values."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import ops
from policyopt.credit import rewards as credit_rewards
from policyopt.losses import value as losses_value
from policyopt.types import Rollout
from tests.golden_adapters.common import (
    COUNT_EPS,
    Adapter,
    consecutive,
    group_tolerance,
)


def _rows(inputs):
  return jnp.sum(inputs['token_level_rewards'], axis=1)


def _spread(per_row, inputs):
  tokens = per_row[:, None] * inputs['response_mask']
  return {'advantages': tokens, 'returns': tokens}, None


def _ids(inputs):
  return ops.compact_ids(inputs['group_ids'].astype(np.int32))


def grpo(inputs, params):
  std = 'sample' if params['norm_adv_by_std_in_grpo'] else 'none'
  return _spread(ops.group_standardize(
      _rows(inputs), _ids(inputs), std=std, eps=params['epsilon'],
      singleton='raw'), inputs)


def rloo(inputs, params):
  del params
  return _spread(ops.leave_one_out(
      _rows(inputs), _ids(inputs), singleton='raw'), inputs)


def rloo_vectorized(inputs, params):
  del params
  return _spread(ops.leave_one_out(
      _rows(inputs), _ids(inputs), singleton='zero'), inputs)


def reinforce_pp(inputs, params):
  mask = inputs['response_mask']
  returns = ops.discounted_returns(
      inputs['token_level_rewards'], mask, gamma=params['gamma'])
  white = ops.masked_whiten(returns, mask, count_eps=COUNT_EPS)
  return {'returns': returns, 'advantages': white}, None


def reinforce_pp_baseline(inputs, params):
  del params
  mask = inputs['response_mask']
  centred = ops.group_standardize(
      _rows(inputs), _ids(inputs), std='none', singleton='raw')
  white = ops.masked_whiten(
      centred[:, None] * mask, mask, count_eps=COUNT_EPS)
  return {'returns': white, 'advantages': white}, None


def _gae(rewards, values, mask, gamma, lam):
  advantages = ops.generalized_advantages(
      rewards, values, mask, gamma=gamma, lam=lam)
  white = ops.masked_whiten(advantages, mask, count_eps=COUNT_EPS)
  return {'advantages': white, 'returns': advantages + values}, mask


def gae(inputs, params):
  return _gae(inputs['token_level_rewards'], inputs['values'],
              inputs['response_mask'], params['gamma'], params['lam'])


def tunix_gae(inputs, params):
  return _gae(inputs['rewards'], inputs['values'], inputs['completion_mask'],
              params['gamma'], params['gae_lambda'])


def tunix_group_advantages(inputs, params):
  rewards = inputs['rewards']
  ids = consecutive(len(rewards), params['num_generations'])
  return {
      'grpo': ops.group_standardize(rewards, ids),
      'rloo': ops.leave_one_out(rewards, ids),
      'drgrpo': ops.group_standardize(rewards, ids, std='none'),
  }, None


def masked_whiten(inputs, params):
  del params
  x, mask = inputs['values'], inputs['mask']
  kw = dict(count_eps=COUNT_EPS)
  return {
      'masked_mean': ops.masked_mean(x, mask, **kw),
      'masked_var_unbiased': ops.masked_variance(x, mask, **kw),
      'whitened': ops.masked_whiten(x, mask, **kw),
      'whitened_keep_mean': ops.masked_whiten(x, mask, shift_mean=False, **kw),
  }, mask


def _weights(mask, mode, params):
  """verl's aggregation modes as weights; dp is its data-parallel size."""
  mask = jnp.asarray(mask)
  dp = params.get('dp_size', 1)
  rows = params.get('global_batch_size')
  if mode == 'token-mean':
    return dp * ops.token_mean(
        mask, mask, tokens=params.get('batch_num_tokens'))
  if mode == 'token-sum':
    return dp * mask
  if mode == 'seq-mean-token-sum':
    return dp * ops.sequence_sum(mask, mask, rows=rows)
  if mode == 'seq-mean-token-sum-norm':
    length = params.get('loss_scale_factor', params['width'])
    return dp * ops.constant_length(mask, mask, length, rows=rows)
  return dp * ops.sequence_mean(mask, mask, rows=rows, count_eps=COUNT_EPS)


def agg_loss_modes(inputs, params):
  mask = inputs['loss_mask']
  weights = _weights(mask, params['loss_agg_mode'], params)
  return {'loss': jnp.sum(
      weights * ops.fill(inputs['loss_mat'], mask))}, None


def _policy_loss(inputs, objective, weights):
  mask = inputs['response_mask']

  def loss(log_probs):
    terms = -objective(log_probs)
    if inputs['rollout_is_weights'] is not None:
      terms = terms * inputs['rollout_is_weights']
    return jnp.sum(weights * ops.fill(terms, mask))

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(inputs['log_prob']))
  return {'loss': value, 'grad_log_prob': gradient}, None


def ppo_clip_loss(inputs, params):
  def objective(log_probs):
    ratio = jnp.exp(ops.log_ratio(
        log_probs, inputs['old_log_prob'], inputs['response_mask'], limit=20.))
    return ops.clipped_objective(
        ratio, inputs['advantages'], params['clip_ratio_low'],
        params['clip_ratio_high'], dual_clip=params['clip_ratio_c'])

  mode = params['loss_agg_mode']
  return _policy_loss(
      inputs, objective, _weights(inputs['response_mask'], mode, {}))


def gspo_loss(inputs, params):
  mask = inputs['response_mask']

  def objective(log_probs):
    log_ratio = ops.log_ratio(
        log_probs, inputs['old_log_prob'], mask, limit=None)
    log_ratio = ops.sequence_log_ratio(log_ratio, mask, gradient='token')
    return ops.clipped_objective(
        jnp.exp(ops.clamp(log_ratio, (None, 10.))), inputs['advantages'],
        params['clip_ratio_low'], params['clip_ratio_high'])

  return _policy_loss(
      inputs, objective, _weights(mask, 'seq-mean-token-mean', {}))


def value_loss(inputs, params):
  mask = inputs['response_mask']
  weights = _weights(mask, params['loss_agg_mode'], {})

  def loss(values):
    errors, _ = losses_value.squared_value_errors(
        values, jnp.asarray(inputs['values']), inputs['returns'],
        clip=params['cliprange_value'])
    return jnp.sum(weights * errors)

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(inputs['vpreds']))
  return {'loss': value, 'grad_vpreds': gradient}, None


def kl_k1_k2_k3(inputs, params):
  del params
  outputs = {}
  ours = {'kl': 'k1', 'k1': 'k1', 'abs': 'abs', 'mse': 'k2', 'k2': 'k2',
          'low_var_kl': 'k3', 'k3': 'k3'}
  plus = {name + '+': ours[name]
          for name in ('k1', 'k2', 'k3', 'low_var_kl', 'abs')}
  for name, estimator in (ours | plus).items():
    def kl(log_probs, name=name, estimator=estimator):
      return ops.kl_estimate(
          log_probs, inputs['ref_logprob'], value=estimator,
          gradient='k2' if name.endswith('+') else None,
          k3_input_limit=20., k3_output_limit=10.)

    log_probs = jnp.asarray(inputs['logprob'])
    outputs[f'{name}/value'] = kl(log_probs)
    outputs[f'{name}/grad_of_sum_wrt_logprob'] = jax.grad(
        lambda x, kl=kl: jnp.sum(kl(x)))(log_probs)
  return outputs, None


def dapo_overlong_penalty(inputs, params):
  lengths = jnp.asarray(inputs['lengths']).astype(int)
  column = np.arange(64)[None]
  mask = column < lengths[:, None]
  transform = credit_rewards.overlong_penalty(
      params['max_response_length'], params['overlong_tokens'],
      params['penalty_factor'], cap=False)
  last = column == lengths[:, None] - 1
  rewards = jnp.where(last, inputs['rewards'][:, None], 0.)
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=jnp.asarray(mask),
      log_probs=jnp.zeros(mask.shape), group=jnp.arange(len(lengths)),
      rewards={})
  result, _ = transform.update(jnp.asarray(rewards), (), rollout)
  return {'rewards': jnp.sum(result, axis=1),
          'penalty': jnp.sum(result - rewards, axis=1)}, None


def _standardize_batch(x, there):
  spread = jnp.sqrt(ops.masked_variance(x, there))
  return ops.fill((x - ops.masked_mean(x, there)) / (spread + 1e-4), there)


def trl_rloo_advantages(inputs, params):
  rewards = inputs['rewards']
  ids = consecutive(len(rewards), params['num_generations'])
  # A row that has no reward takes no part.
  ids = jnp.where(np.isnan(rewards), -1, ids)
  advantages = ops.leave_one_out(rewards, ids)
  if params['normalize_advantages']:
    advantages = _standardize_batch(advantages, ~np.isnan(rewards))
  return {'advantages': advantages}, None


def trl_group_advantages(inputs, params):
  scores = inputs['rewards_per_func']
  factors = np.asarray(params['reward_weights'])
  ids = np.arange(len(scores)) // params['num_generations']

  def against_group(rewards, missing, std):
    return ops.group_standardize(
        rewards, jnp.where(missing, -1, ids), std=std, eps=1e-4)

  missing = np.isnan(scores).all(axis=1)
  if params['aggregation'] == 'normalize_then_sum':
    columns = [against_group(column, np.isnan(column), 'sample')
               for column in scores.T]
    total = sum(factor * column for factor, column in zip(factors, columns))
    return {'advantages': _standardize_batch(total, ~missing)}, None
  rewards = np.nansum(scores * factors[None], axis=1)
  scale = params['scale_rewards']
  advantages = against_group(
      rewards, missing, 'sample' if scale == 'group' else 'none')
  if scale == 'batch':
    spread = jnp.sqrt(ops.masked_variance(rewards, ~missing))
    advantages = advantages / (spread + 1e-4)
  return {'advantages': advantages}, None


ADAPTERS = {
    'agg_loss_modes': Adapter(agg_loss_modes),
    # The penalty is float32 there.
    'dapo_overlong_penalty': Adapter(dapo_overlong_penalty, tolerance=1e-7),
    'drgrpo': Adapter(grpo, tolerance=group_tolerance),
    'gae': Adapter(gae),
    'grpo': Adapter(grpo, tolerance=group_tolerance),
    'gspo_loss': Adapter(gspo_loss),
    'kl_k1_k2_k3': Adapter(kl_k1_k2_k3),
    'masked_whiten': Adapter(masked_whiten),
    'ppo_clip_loss': Adapter(ppo_clip_loss),
    'reinforce_pp': Adapter(reinforce_pp, tolerance=group_tolerance),
    'reinforce_pp_baseline': Adapter(
        reinforce_pp_baseline, tolerance=group_tolerance),
    'rloo': Adapter(rloo, tolerance=group_tolerance),
    'rloo_vectorized': Adapter(rloo_vectorized, tolerance=group_tolerance),
    # Bessel's factor is float32 there; a reward that is missing is NaN.
    'trl_group_advantages': Adapter(
        trl_group_advantages, compile=False, tolerance=1e-7, pad=np.nan),
    'trl_rloo_advantages': Adapter(
        trl_rloo_advantages, compile=False, tolerance=1e-7, pad=np.nan),
    'tunix_gae': Adapter(tunix_gae),
    'tunix_group_advantages': Adapter(tunix_group_advantages, compile=False),
    'value_loss': Adapter(value_loss),
}
