"""The policy losses of Tunix, OpenRLHF, prime-rl and slime."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import losses, ops
from policyopt.losses import surrogate
from tests.golden_adapters.common import COUNT_EPS, Adapter, array, compiled
from tests.golden_adapters.surrogates import FREE, apply, padded


def _mean(x, mask):
  return ops.masked_mean(jnp.asarray(x, jnp.float64), mask)


# Tunix.


def _tunix_weights(mode, mask, params):
  mask = jnp.asarray(mask)
  if mode == 'token-mean':
    return ops.token_mean(mask, mask)
  if mode == 'sequence-mean-token-mean':
    return ops.sequence_mean(mask, mask)
  if mode == 'sequence-mean-token-scale':
    return ops.constant_length(mask, mask, params['width'])
  assert mode == 'seq-mean-token-sum', mode
  return ops.sequence_sum(mask, mask)


def _dual_fraction(log_ratio, advantages, mask, low, high, c):
  """Share of tokens on which the dual clip is the one that bounds."""
  once = -ops.clipped_objective(jnp.exp(log_ratio), advantages, low, high)
  return _mean((advantages < 0) & (once > -c * advantages), mask)


def tunix_ppo_loss(inputs, params):
  mask, advantages = inputs['completion_mask'], inputs['advantages']
  low, high = params['epsilon_low'], params['epsilon_high']
  c, coef = params.get('epsilon_c'), params.get('entropy_coef')
  loss = losses.clipped_surrogate(low, high, dual_clip=c, **FREE)
  if coef:
    loss = losses.add(loss, losses.entropy_bonus(coef))
  total, gradient, reported = apply(
      loss, inputs['per_token_logps'], inputs['old_per_token_logps'],
      advantages, mask, _tunix_weights('token-mean', mask, params),
      entropy=jnp.asarray(inputs['entropy']))
  log_ratio = ops.log_ratio(
      inputs['per_token_logps'], inputs['old_per_token_logps'], mask,
      limit=None)
  out = {
      'loss': total, 'grad_per_token_logps': gradient,
      'metrics/pg_clipfrac': _mean(ops.clipped_away(
          jnp.exp(log_ratio), advantages, low, high), mask),
      'metrics/pg_clipfrac_lower': 0. if c is None else _dual_fraction(
          log_ratio, advantages, mask, low, high, c)}
  if coef:
    entropy, count = reported['entropy']
    out['metrics/loss/entropy'] = entropy / jnp.maximum(count, 1)
  return out, None


def _tunix_policy_loss(params):
  low, high, c = (
      params[k] for k in ('epsilon', 'epsilon_high', 'epsilon_c'))
  if params['loss_algo'] != 'gspo-token':
    return losses.clipped_surrogate(low, high, dual_clip=c)
  stop = jax.lax.stop_gradient

  def objective(terms):
    # Tokens are clamped in the mean of the row, but not in the gradient.
    mean = ops.sequence_log_ratio(
        ops.clamp(terms.log_ratio, 20.), terms.mask)
    log_ratio = stop(mean) + terms.log_ratio - stop(terms.log_ratio)
    return ops.clipped_objective(
        jnp.exp(ops.clamp(log_ratio, (None, 10.))), terms.advantages, low,
        high, dual_clip=c), {}

  return surrogate.surrogate(objective, reader='gspo-token')


def tunix_grpo_loss(inputs, params):
  mask = inputs['completion_mask']
  advantages = jnp.broadcast_to(inputs['advantages'][:, None], mask.shape)
  weights = _tunix_weights(params['loss_agg_mode'], mask, params)
  old = inputs['old_per_token_logps']
  policy = weights
  if inputs['sampler_is_weights'] is not None:
    policy = weights * inputs['sampler_is_weights']
  total, gradient, _ = apply(
      _tunix_policy_loss(params), inputs['per_token_logps'], old, advantages,
      mask, policy)
  out = {}
  if params['beta']:
    value = {'kl': 'k1', 'mse_kl': 'k2', 'low_var_kl': 'k3'}[
        params['kl_loss_mode']]
    kl, kl_gradient, reported = apply(
        losses.kl_penalty(
            params['beta'], value=value, k3_input_limit=None,
            output_limit=params['kl_clamp_value']),
        inputs['per_token_logps'], old, advantages, mask, weights,
        ref_log_probs=inputs['ref_per_token_logps'])
    total, gradient = total + kl, gradient + kl_gradient
    divergence, count = reported['kl/reference']
    out['metrics/kl'] = divergence / jnp.maximum(count, 1)
  log_ratio = ops.log_ratio(inputs['per_token_logps'], old, mask, limit=20.)
  if params['loss_algo'] == 'grpo':
    out['metrics/pg_clipfrac'] = _mean(ops.clipped_away(
        jnp.exp(log_ratio), advantages, params['epsilon'],
        params['epsilon_high']), mask)
  return out | {
      'loss': total, 'grad_per_token_logps': gradient,
      'metrics/ppo_kl': _mean(-log_ratio, mask)}, None


# OpenRLHF.


def openrlhf_policy_loss(inputs, params):
  mask = jnp.asarray(inputs['action_mask'])
  low, high = (params.get(f'clip_eps_{side}', .2) for side in ('low', 'high'))
  sequence = params.get('policy_loss_type', 'ppo') == 'gspo'
  by_token = params.get('token_level_loss', not sequence)
  weights = (ops.token_mean(mask, mask) if by_token and not sequence else
             ops.sequence_mean(mask, mask, rows=params['rows'],
                               count_eps=COUNT_EPS))
  if params.get('enable_vllm_is_correction') and not sequence:
    weights = weights * _openrlhf_importance(inputs, params)
  loss = losses.clipped_surrogate(
      low, high, dual_clip=params.get('dual_clip'),
      level='sequence' if sequence else 'token', **FREE)
  total, gradient, _ = apply(
      loss, inputs['log_probs'], inputs['old_log_probs'],
      inputs['advantages'], mask, weights)
  log_ratio = ops.log_ratio(
      inputs['log_probs'], inputs['old_log_probs'], mask, limit=None)
  out = {'loss': total, 'grad_log_probs': gradient,
         'ppo_kl': _mean(-log_ratio, mask)}
  if sequence:
    log_ratio = ops.sequence_log_ratio(log_ratio, mask)
  return out | {'clip_ratio': _mean(ops.clipped_away(
      jnp.exp(log_ratio), inputs['advantages'], low, high), mask)}, None


def _openrlhf_importance(inputs, params):
  log_ratio = ops.log_ratio(
      inputs['old_log_probs'], inputs['rollout_log_probs'],
      inputs['action_mask'], limit=None)
  floor, cap = params['vllm_is_truncated_threshold']
  kind = params.get('vllm_is_correction_type', 'tis')
  kw = dict(floor=floor, cap=cap, limit=None)
  if kind != 'tis':
    kw['bound'] = 'mask'
  if kind == 'seq-mask-tis':
    kw['bound_level'] = 'geometric'
  return ops.importance_weights(log_ratio, inputs['action_mask'], **kw)


# prime-rl.


def _ipo(threshold, penalty):
  """Drops what has moved by more than the threshold in either direction."""
  def objective(terms):
    keep = jnp.ones(terms.mask.shape, bool)
    for sign in (1., -1.):
      keep &= ops.divergence_mask(
          terms.log_probs, terms.sampled, jnp.full(terms.mask.shape, sign),
          threshold, threshold)
    ratio = jnp.exp(terms.log_ratio)
    return jnp.where(keep, ratio * terms.advantages, 0) - (
        penalty * jnp.square(terms.log_ratio)), surrogate.clip_metrics(
            ~keep, terms.advantages)

  return surrogate.surrogate(objective, reader='ipo')


def _prime_rl(inputs, params):
  mask = inputs['loss_mask']
  if params['loss'] == 'ipo':
    loss = _ipo(params['ipo_threshold'], params['kl_tau'])
  else:
    loss = losses.dppo_surrogate(
        params['dppo_mask_low'], params['dppo_mask_high'], ratio_cap=None,
        gradient='ratio', penalty=params['kl_tau'], **FREE)
  total, gradient, reported = apply(
      loss, inputs['trainer_logprobs'], inputs['inference_logprobs'],
      params['adv_tau'] * inputs['advantages'], mask, mask)
  masked = sum(reported[f'clip_fraction/{sign}'][0]
               for sign in ('positive', 'negative'))
  return {
      'loss_sum': total, 'grad_trainer_logprobs': gradient[0],
      # A float32 there.
      'metrics/is_masked': jnp.float32(masked) / jnp.float32(
          jnp.maximum(1, mask.sum()))}


def prime_rl_losses(case):
  inputs = {k: array(v) for k, v in case['inputs'].items()}
  out = compiled(_prime_rl)(
      {k: np.pad(x, (0, -len(x) % 16))[None] for k, x in inputs.items()},
      case['params'])
  if (inputs['advantages'] == 0).any():
    del out['metrics/is_masked']
  return out, None


# slime.


def slime_losses(case):
  inputs = {name: [array(row) for row in rows]
            for name, rows in case['inputs'].items()}
  lengths = [len(row) for row in inputs['loss_masks']]
  rows, width = (size + -size % 8 for size in (len(lengths), max(lengths)))
  real = np.zeros((rows, width), bool)
  for row, length in enumerate(lengths):
    real[row, :length] = True
  x = {name: np.zeros((rows, width)) for name in inputs}
  for name, values in inputs.items():
    x[name][real] = np.concatenate(values)
  out = compiled(_slime)(x | {'real': real}, case['params'])
  return {name: value[real] for name, value in out.items()}, None


def _slime(x, params):
  advantages, real = x['advantages'], x['real']
  # Losses are of every token; only means of rows heed the mask.
  log_ratio = ops.log_ratio(
      x['log_probs'], x['old_log_probs'], real, limit=None)
  drift = jnp.broadcast_to(
      ops.masked_mean(log_ratio, x['loss_masks'], axis=1)[:, None], real.shape)
  ratio = jnp.exp(log_ratio)
  ppo, gspo, cispo = (params[name] for name in ('ppo', 'gspo', 'cispo'))
  return {
      'ppo_token_loss': -ops.clipped_objective(
          ratio, advantages, ppo['eps'], ppo['eps_high'],
          dual_clip=ppo.get('c')),
      'gspo_kl': -drift,
      'gspo_token_loss': -ops.clipped_objective(
          jnp.exp(drift), advantages, gspo['eps'], gspo['eps_high']),
      'cispo_token_loss': -ops.weighted_likelihood(
          x['log_probs'], advantages, ops.clamp(
              ratio, (1 - cispo['eps'], 1 + cispo['eps_high']))),
      'opsm_keep': 1. * ops.off_policy_sequence_mask(
          advantages, log_ratio, x['loss_masks'], params['opsm_delta']),
  }


def _tunix_tolerance(case):
  """All of it is float32 there, the sum that the loss is too."""
  largest = np.abs(array(case['inputs']['advantages'])).max(initial=1.)
  loss = np.abs(array(case['outputs']['loss']))
  return max(1e-4, 1e-6 * largest / max(loss, 1e-6))


ADAPTERS = {
    'openrlhf_policy_loss': Adapter(
        padded(openrlhf_policy_loss, 'action_mask'), raw=True),
    'prime_rl_losses': Adapter(prime_rl_losses, raw=True),
    'slime_losses': Adapter(slime_losses, raw=True),
    'tunix_grpo_loss': Adapter(
        padded(tunix_grpo_loss, 'completion_mask'), raw=True,
        tolerance=_tunix_tolerance),
    'tunix_ppo_loss': Adapter(
        padded(tunix_ppo_loss, 'completion_mask'), raw=True),
}
