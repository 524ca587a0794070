"""The policy losses of TRL's GRPO trainer and of its GMPO trainer."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import losses, ops
from policyopt.losses import surrogate
from tests.golden_adapters.common import Adapter
from tests.golden_adapters.surrogates import FREE, apply, padded

# Logarithms of sequence weights are kept within these.
TRL_LIMIT = (math.log(1e-8), 20.)


def _mean(x, mask):
  return ops.masked_mean(jnp.asarray(x, jnp.float64), mask)


def _single(*values):
  """As torch.where(condition, number, number) has them: in float32."""
  return tuple(float(np.float32(value)) for value in values)


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


def _trl_shapes(params):
  """VESPO's (k, λ) for either sign of A."""
  return (_single(params.get('k_pos', 2.), params.get('lambda_pos', 3.)),
          _single(params.get('k_neg', 3.), params.get('lambda_neg', 2.)))


def _trl_vespo(params, importance):
  """VESPO, with the sampler's correction inside the weight of the row."""
  positive, negative = _trl_shapes(params)
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
    log_importance = ops.clamp(
        jnp.log(jnp.where(importance > 0, importance, 1e-30)), TRL_LIMIT)
    if log_importance.shape == mask.shape:  # Otherwise it is the row's.
      log_importance = ops.sequence_log_weight(
          log_importance, mask, limit=None)
    log_weight = log_weight + ops.fill(
        jnp.broadcast_to(log_importance, mask.shape), mask)
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


def _quantile(values, mask, q):
  """torch.quantile of the float32 values inside the mask."""
  count = jnp.sum(mask)
  values = jnp.sort(jnp.where(mask, jnp.float32(values), jnp.inf), axis=None)
  rank = jnp.float32(q) * jnp.float32(count - 1)
  below = jnp.maximum(jnp.floor(rank).astype(int), 0)
  weight = rank - jnp.float32(below)
  low, high = values[below], values[jnp.clip(below + 1, 0, count - 1)]
  return jnp.where(weight < .5, low + weight * (high - low),
                   high - (high - low) * (1 - weight))


def _entropy_kept(inputs, params):
  """Tokens whose entropy is in the top quantile, which is a float32 there."""
  mask = inputs['mask'] != 0
  if params.get('top_q', 1.) >= 1:
    return mask
  entropy = inputs['entropies']
  threshold = _quantile(entropy, mask, 1 - params['top_q'])
  return mask & (entropy >= jnp.float64(threshold))


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
  return {name: jnp.float32(jnp.any(x, axis=1).sum()) / jnp.float32(
      params['rows']) for name, x in means.items()}


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
    out['metrics/cispo_clip_ratio'] = clipped / jnp.maximum(1, mask.sum())
  if loss_type == 'vespo':
    phi = _trl_phi(_log_ratio(inputs), inputs['advantages'][:, None], mask,
                   importance, params)
    own = jnp.arange(len(phi)) < params['rows']
    out['metrics/vespo/phi_seq_mean'] = ops.masked_mean(phi[:, 0], own)
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
  empty = ~jnp.any(mask != 0, axis=1)
  total = total - jnp.sum(inputs['advantages'] * empty) / params['rows']
  count = jnp.maximum(1, mask.sum())
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


def _trl_phi(log_ratio, advantages, mask, importance, params):
  """VESPO's weight of each row, [B, 1]."""
  log_weight = _trl_log_weight(log_ratio, mask, importance)
  # A row without a token has weight 1: log_weight is 0 outside the mask.
  log_weight = jnp.sum(log_weight, axis=1) / jnp.maximum(mask.sum(1), 1)
  positive, negative = _trl_shapes(params)
  return ops.gamma_weight(
      log_weight[:, None], jnp.asarray(advantages), positive, negative)


def trl_vespo_gamma_weights(inputs, params):
  return {'phi': _trl_phi(
      inputs['log_ratio_per_token'], inputs['advantages'][:, :1],
      inputs['mask'], inputs['importance_sampling_ratio'], params)}, None


ADAPTERS = {
    'trl_gmpo': Adapter(padded(trl_gmpo, 'mask'), raw=True),
    'trl_grpo_losses': Adapter(padded(trl_grpo, 'mask'), raw=True),
    'trl_grpo_options': Adapter(padded(trl_grpo, 'mask'), raw=True),
    'trl_vespo_gamma_weights': Adapter(
        padded(trl_vespo_gamma_weights, 'mask'), raw=True),
}
