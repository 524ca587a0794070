"""The policy losses of TRL, Tunix, OpenRLHF, prime-rl and slime."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import losses, ops
from policyopt.losses import surrogate
from tests.golden_adapters.common import COUNT_EPS, Adapter, array
from tests.golden_adapters.surrogates import FREE, apply, padded

# TRL keeps logarithms of sequence weights within these.
TRL_LIMIT = (math.log(1e-8), 20.)


def _mean(x, mask):
  return ops.masked_mean(jnp.asarray(x, jnp.float64), mask)


def _single(*values):
  """As torch.where(condition, number, number) has them: in float32."""
  return tuple(float(np.float32(value)) for value in values)


# TRL -------------------------------------------------------------------------


def _trl_weights(loss_type, mask, params):
  """Token weights; rows without a token count as rows."""
  rows, mask = params['rows'], jnp.asarray(mask)
  if loss_type in ('grpo', 'sapo'):
    return ops.sequence_mean(mask, mask, rows=rows)
  if loss_type == 'dr_grpo':
    return ops.constant_length(
        mask, mask, params['max_completion_length'], rows=rows)
  if loss_type == 'luspo':
    return ops.sequence_sum(mask, mask, rows=rows)
  return ops.token_mean(mask, mask)  # bnpo, dapo, cispo, vespo


def _log_ratio(inputs, level='token'):
  log_ratio = ops.log_ratio(
      inputs['per_token_logps'], inputs['old_per_token_logps'],
      inputs['mask'], limit=None)
  if level == 'sequence':
    log_ratio = ops.sequence_log_ratio(log_ratio, inputs['mask'])
  return log_ratio


def _trl_vespo(params, importance):
  """VESPO, with the sampler's correction inside the weight of the row."""
  positive = _single(params.get('k_pos', 2.), params.get('lambda_pos', 3.))
  negative = _single(params.get('k_neg', 3.), params.get('lambda_neg', 2.))
  if importance is None:
    return losses.vespo_surrogate(positive, negative)

  def objective(terms):
    log_weight = _trl_log_weight(terms.log_ratio, terms.mask, importance)
    phi = ops.gamma_weight(log_weight, terms.advantages, positive, negative)
    return ops.weighted_likelihood(
        terms.log_probs, terms.advantages, phi), {}

  return surrogate.surrogate(objective, reader='vespo')


def _trl_log_weight(log_ratio, mask, importance):
  log_weight = ops.sequence_log_weight(
      log_ratio, mask, token_limit=20., limit=None)
  if importance is not None:
    importance = jnp.broadcast_to(importance, mask.shape)
    log_importance = jnp.log(jnp.where(importance > 0, importance, 1e-30))
    log_weight = log_weight + ops.sequence_log_weight(
        log_importance, mask, token_limit=TRL_LIMIT, limit=None)
  return ops.clamp(log_weight, TRL_LIMIT)


def _trl_loss(params, importance):
  loss_type, high = params['loss_type'], params.get('eps_high')
  low = params.get('eps', .2)
  high = low if high is None else high
  if loss_type == 'cispo':
    return losses.cispo_surrogate(low, high, bounds='upper', **FREE)
  if loss_type == 'sapo':
    return losses.sapo_surrogate(*_single(
        params.get('tau_pos', 1.), params.get('tau_neg', 1.05)), **FREE)
  if loss_type == 'vespo':
    return _trl_vespo(params, importance)
  return losses.clipped_surrogate(
      low, high, level=params.get('level', 'token'),
      ratio_cap=params.get('delta'), **FREE)


def _trl_kl(params):
  """β·k3, times the ratio unless that is switched off."""
  weighted = params.get('use_bias_correction_kl', True)
  level = params.get('level', 'token')

  def objective(terms):
    kl = ops.kl_estimate(
        terms.log_probs,
        ops.fill(terms.rollout.extras['ref_log_probs'], terms.mask),
        value='k3', k3_input_limit=None)
    if weighted:
      log_ratio = terms.log_ratio
      if level == 'sequence':
        log_ratio = ops.sequence_log_ratio(log_ratio, terms.mask)
      kl = kl * jnp.exp(log_ratio)
    return -params['beta'] * kl, {'kl': (kl, terms.mask)}

  return surrogate.surrogate(objective, reader='kl')


def _quantile(values, q):
  """torch.quantile of float32 values."""
  values, rank = np.sort(values), np.float32(q) * np.float32(len(values) - 1)
  below, weight = int(rank), np.float32(rank - int(rank))
  low, high = values[below], values[min(below + 1, len(values) - 1)]
  if weight < .5:
    return low + weight * (high - low)
  return high - (high - low) * (1 - weight)


def _entropy_kept(inputs, params):
  """Tokens whose entropy is in the top quantile, which is a float32 there."""
  mask = inputs['mask'] != 0
  if params.get('top_q', 1.) >= 1 or not mask.any():
    return mask
  entropy = inputs['entropies']
  threshold = _quantile(
      entropy[mask].astype(np.float32), 1 - params['top_q'])
  return mask & (entropy >= np.float64(threshold))


def _trl_clip_means(inputs, params):
  """Which share of the ratios is clipped, at their own level."""
  level = params.get('level', 'token')
  low, mask = params.get('eps', .2), inputs['mask']
  high = params.get('eps_high') or low
  ratio = jnp.exp(_log_ratio(inputs, level))
  advantages = jnp.broadcast_to(inputs['advantages'][:, None], mask.shape)
  clipped = ops.clipped_away(ratio, advantages, low, high) & (mask != 0)
  means = {'low': clipped & (advantages < 0),
           'high': clipped & (advantages > 0), 'region': clipped}
  if level == 'token':
    return {name: _mean(x, mask) for name, x in means.items()}
  # Means of float32 numbers there.
  return {name: np.float64(np.float32(jnp.any(x, axis=1).sum()) / np.float32(
      params['rows'])) for name, x in means.items()}


def trl_grpo(inputs, params):
  loss_type, mask = params['loss_type'], inputs['mask']
  weights = _trl_weights(loss_type, mask, params)
  importance = inputs.get('importance_sampling_ratio')
  entropy = inputs.get('entropies')
  args = (inputs['per_token_logps'], inputs['old_per_token_logps'],
          inputs['advantages'], mask)
  policy = weights * _entropy_kept(inputs, params)
  if importance is not None and loss_type != 'vespo':
    policy = policy * importance
  loss = _trl_loss(params, importance)
  total, gradient, reported = apply(loss, *args, policy)
  out = {}
  if loss_type in ('grpo', 'bnpo', 'dr_grpo', 'dapo', 'luspo'):
    out |= {f'metrics/clip_ratio/{name}_mean': mean for name, mean in
            _trl_clip_means(inputs, params).items()}
  if loss_type == 'cispo' and importance is None and 'top_q' not in params:
    clipped, _ = reported['clip_fraction/positive']
    out['metrics/cispo_clip_ratio'] = clipped / max(1, mask.sum())
  if params.get('beta'):
    kl, kl_gradient, kl_reported = apply(
        _trl_kl(params), *args, weights,
        ref_log_probs=inputs['ref_per_token_logps'])
    total, gradient = total + kl, gradient + kl_gradient
    kl_sum, count = kl_reported['kl']
    out['metrics/kl'] = kl_sum / jnp.maximum(count, 1)
  if params.get('entropy_coef'):
    out['metrics/policy_loss'] = total

    def bonus(entropy):
      return apply(losses.entropy_bonus(params['entropy_coef']), *args,
                   weights * _entropy_kept(inputs, params), entropy=entropy)[0]

    value, out['grad_entropies'] = jax.value_and_grad(bonus)(
        jnp.asarray(entropy))
    total = total + value
  return out | {'loss': total, 'grad_per_token_logps': gradient}, None


def trl_gmpo(inputs, params):
  mask = jnp.asarray(inputs['mask'])
  weights = ops.sequence_mean(mask, mask, rows=params['rows'])
  low = params['eps']
  high = params.get('eps_high') or low
  args = (inputs['per_token_logps'], inputs['old_per_token_logps'],
          inputs['advantages'], mask, weights)
  total, gradient, reported = apply(
      losses.gmpo_surrogate(low, high, **FREE), *args)
  # A row without a token is a response of ratio 1 there: −A, a constant.
  empty = ~np.any(inputs['mask'] != 0, axis=1)
  total = total - np.sum(inputs['advantages'][empty]) / params['rows']
  count = max(1, inputs['mask'].sum())
  sides = {name: reported[f'clip_fraction/{sign}'][0] / count for name, sign in
           (('low', 'negative'), ('high', 'positive'))}
  out = {f'metrics/clip_ratio/{name}_mean': x for name, x in sides.items()}
  if params.get('beta'):
    # Plain k3 here: this trainer has no ratio to weigh it with.
    kl, kl_gradient, kl_reported = apply(
        _trl_kl({'use_bias_correction_kl': False} | params), *args,
        ref_log_probs=inputs['ref_per_token_logps'])
    total, gradient = total + kl, gradient + kl_gradient
    kl_sum, tokens = kl_reported['kl']
    out['metrics/kl'] = kl_sum / jnp.maximum(tokens, 1)
  return out | {'loss': total, 'grad_per_token_logps': gradient}, None


def trl_vespo_gamma_weights(inputs, params):
  mask = inputs['mask']
  log_weight = _trl_log_weight(
      inputs['log_ratio_per_token'], mask,
      inputs['importance_sampling_ratio'])
  # A row without a token has weight 1: log_weight is 0 outside the mask.
  log_weight = jnp.sum(log_weight, axis=1) / jnp.maximum(mask.sum(1), 1)
  return {'phi': ops.gamma_weight(
      log_weight[:, None], jnp.asarray(inputs['advantages'][:, :1]),
      _single(params['k_pos'], params['lambda_pos']),
      _single(params['k_neg'], params['lambda_neg']))}, None


# Tunix -----------------------------------------------------------------------


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


# OpenRLHF --------------------------------------------------------------------


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


# prime-rl --------------------------------------------------------------------


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


def prime_rl_losses(case):
  params = case['params']
  inputs = {k: array(v) for k, v in case['inputs'].items()}
  length = len(inputs['loss_mask'])
  inputs = {k: jnp.asarray(np.pad(x, (0, -length % 16)))[None]
            for k, x in inputs.items()}
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
  out = {'loss_sum': total, 'grad_trainer_logprobs': gradient[0]}
  if (array(case['inputs']['advantages']) != 0).all():
    # They divide in float32.
    out['metrics/is_masked'] = np.float64(
        np.float32(masked) / np.float32(max(1, mask.sum())))
  return out, None


# slime -----------------------------------------------------------------------


def slime_losses(case):
  params = case['params']
  inputs = {name: [array(row) for row in rows]
            for name, rows in case['inputs'].items()}
  width = max(map(len, inputs['loss_masks']))
  width += -width % 8
  real = jnp.asarray(np.stack([
      np.arange(width) < len(row) for row in inputs['loss_masks']]))
  x = {name: jnp.asarray(np.stack([
      np.pad(row, (0, width - len(row))) for row in rows]))
       for name, rows in inputs.items()}
  advantages = x['advantages']
  # Losses are of every token; only means of rows heed the mask.
  log_ratio = ops.log_ratio(
      x['log_probs'], x['old_log_probs'], real, limit=None)
  drift = jnp.broadcast_to(
      ops.masked_mean(log_ratio, x['loss_masks'], axis=1)[:, None], real.shape)
  ppo, gspo, cispo = (params[name] for name in ('ppo', 'gspo', 'cispo'))
  ratio = jnp.exp(log_ratio)
  out = {
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
  return {name: value[np.asarray(real)] for name, value in out.items()}, None


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
    'trl_gmpo': Adapter(padded(trl_gmpo, 'mask'), raw=True),
    'trl_grpo_losses': Adapter(padded(trl_grpo, 'mask'), raw=True),
    'trl_grpo_options': Adapter(padded(trl_grpo, 'mask'), raw=True),
    'trl_vespo_gamma_weights': Adapter(
        padded(trl_vespo_gamma_weights, 'mask'), raw=True),
    'tunix_grpo_loss': Adapter(
        padded(tunix_grpo_loss, 'completion_mask'), raw=True,
        tolerance=_tunix_tolerance),
    'tunix_ppo_loss': Adapter(
        padded(tunix_ppo_loss, 'completion_mask'), raw=True),
}
