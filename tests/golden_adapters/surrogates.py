"""Token surrogates: verl's policy losses, and M2PO's mask."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import losses, ops
from policyopt.types import PolicyOutput, Rollout
from tests.golden_adapters.common import COUNT_EPS, Adapter, array, compiled
from tests.golden_adapters.torch_order import torch_order

# No clamp: where the other code has none.
FREE = dict(log_ratio_limit=None)


def padded(run, mask, compile=True):
  """A raw adapter whose cases share a few shapes, and know their own rows.

  Args:
    run: (inputs, params) -> ({path: our value}, mask or None), with
      `params['rows']` and `params['width']` of the case itself.
    mask: the input that has the shape of the case.
    compile: as of an Adapter.

  Returns:
    An Adapter.
  """
  def adapt(case):
    inputs = {k: array(v) for k, v in case['inputs'].items()}
    rows, width = inputs[mask].shape
    for name, x in inputs.items():
      if x is not None:
        pads = [(0, -rows % 16), (0, -width % 12)][:x.ndim]
        if x.ndim == 2 and x.shape[1] != width:
          pads[1] = (0, 0)
        inputs[name] = np.pad(x, pads)
    call = compiled(run) if compile else run
    return call(inputs, case['params'] | {'rows': rows, 'width': width})

  return adapt


def mean_weights(mask, mode, params):
  """Token weights of verl's aggregation modes, on one device."""
  mask = jnp.asarray(mask)
  if mode == 'token-mean':
    return ops.token_mean(mask, mask)
  if mode == 'seq-mean-token-sum':
    return ops.sequence_sum(mask, mask)
  if mode == 'seq-mean-token-sum-norm':
    length = params.get('loss_scale_factor') or params['width']
    return ops.constant_length(mask, mask, length)
  if mode == 'token-sum':
    return mask
  assert mode == 'seq-mean-token-mean', mode
  return ops.sequence_mean(mask, mask, count_eps=COUNT_EPS)


def apply(loss, log_probs, old, advantages, mask, weights, **kw):
  """(value, gradient by the log-probabilities, metrics) of one of our losses.

  Args:
    loss: a Loss.
    log_probs: f[B, T].
    old: f[B, T], of the policy that sampled.
    advantages: f[B, T] or f[B].
    mask: [B, T].
    weights: f[B, T].
    **kw: 'entropy' of the policy; what else there is joins the extras.

  Returns:
    See above.
  """
  mask = jnp.asarray(mask) != 0
  if advantages.ndim == 1:
    advantages = jnp.broadcast_to(advantages[:, None], mask.shape)
  entropy = kw.pop('entropy', None)
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=jnp.asarray(old),
      group=jnp.zeros(mask.shape[0], jnp.int32), rewards={}, extras=kw)

  def value(log_probs):
    policy = PolicyOutput(log_probs=log_probs, entropy=entropy)
    return loss.apply(policy, jnp.asarray(advantages), weights, rollout)

  (total, metrics), gradient = jax.value_and_grad(value, has_aux=True)(
      jnp.asarray(log_probs))
  return total, gradient, metrics


def _verl(inputs, loss, weights, **kw):
  if inputs['rollout_is_weights'] is not None:
    weights = weights * inputs['rollout_is_weights']
  total, gradient, _ = apply(
      loss, inputs['log_prob'], inputs['old_log_prob'], inputs['advantages'],
      inputs['response_mask'], weights, **kw)
  return {'loss': total, 'grad_log_prob': gradient}


def _mean(x, inputs):
  mask = inputs['response_mask']
  return ops.masked_mean(
      jnp.asarray(x, mask.dtype), mask, count_eps=COUNT_EPS)


def _log_ratio(inputs, limit=20.):
  return ops.log_ratio(inputs['log_prob'], inputs['old_log_prob'],
                       inputs['response_mask'], limit=limit)


def _weights(inputs, params, mode=None):
  return mean_weights(
      inputs['response_mask'], mode or params['loss_agg_mode'], params)


def cispo_loss(inputs, params):
  low, high = params['clip_ratio_low'], params['clip_ratio_high']
  out = _verl(inputs, losses.cispo_surrogate(low, high),
              _weights(inputs, params))
  log_ratio = _log_ratio(inputs)
  ratio = jnp.exp(log_ratio)
  clipped = ops.clamp(ratio, (1 - low, 1 + high)) != ratio
  return out | {'metrics/actor/pg_clipfrac': _mean(clipped, inputs),
                'metrics/actor/ppo_kl': _mean(-log_ratio, inputs)}, None


def gmpo_loss(inputs, params):
  low, high = params['clip_ratio_low'], params['clip_ratio_high']
  mask = jnp.asarray(inputs['response_mask'])
  # Rows without a token count in the mean, whatever loss_agg_mode says.
  weights = ops.sequence_mean(
      mask, mask, rows=params['rows'], count_eps=COUNT_EPS)
  if inputs['rollout_is_weights'] is not None:
    log_weight = ops.sequence_log_ratio(
        jnp.log(inputs['rollout_is_weights'] + 1e-10), mask,
        count_eps=COUNT_EPS)
    inputs = inputs | {'rollout_is_weights': jnp.exp(log_weight)}
  loss = losses.gmpo_surrogate(low, high, count_eps=COUNT_EPS, **FREE)
  log_ratio = _log_ratio(inputs, None)
  clipped = ops.clamp(log_ratio, (-low, high)) != log_ratio
  advantages = inputs['advantages']
  return _verl(inputs, loss, weights) | {
      'metrics/actor/pg_clipfrac': _mean(
          clipped & (advantages > 0), inputs),
      'metrics/actor/pg_clipfrac_lower': _mean(
          clipped & (advantages < 0), inputs),
      'metrics/actor/ppo_kl': _mean(-log_ratio, inputs)}, None


def sapo_loss(inputs, params):
  loss = losses.sapo_surrogate(params['tau_pos'], params['tau_neg'])
  weights = _weights(inputs, params, 'seq-mean-token-mean')
  return _verl(inputs, loss, weights) | {
      'metrics/actor/ppo_kl': _mean(-_log_ratio(inputs), inputs)}, None


def gpg_loss(inputs, params):
  return _verl(inputs, losses.policy_gradient_loss(),
               _weights(inputs, params)), None


def _dppo(divergence):
  def run(inputs, params):
    low, high = params['clip_ratio_low'], params['clip_ratio_high']
    loss = losses.dppo_surrogate(
        low, high, divergence=divergence, ratio_cap=params['clip_ratio_c'])
    kept = ops.divergence_mask(
        inputs['log_prob'], inputs['old_log_prob'], inputs['advantages'],
        low, high, divergence=divergence)
    log_ratio = _log_ratio(inputs)
    return _verl(inputs, loss, _weights(inputs, params)) | {
        'metrics/actor/pg_clipfrac': _mean(~kept, inputs),
        'metrics/actor/ppo_kl': _mean(-log_ratio, inputs)}, None

  return run


def dro_loss(inputs, params):
  loss = losses.dro_loss(params['dro_beta'])
  return _verl(inputs, loss, _weights(inputs, params)) | {
      'metrics/actor/ppo_kl': _mean(-_log_ratio(inputs, None), inputs)}, None


def clip_cov(inputs, params):
  low = params.get('clip_ratio_low', params['clip_ratio'])
  high = params.get('clip_ratio_high', params['clip_ratio'])
  mask = jnp.asarray(inputs['response_mask']) != 0
  log_ratio = _log_ratio(inputs, None)
  covariance = ops.token_covariance(
      inputs['advantages'], inputs['log_prob'], mask, count_eps=COUNT_EPS)
  candidates = mask & (covariance > params['clip_cov_lb']) & (
      covariance < params['clip_cov_ub'])
  candidates &= ~ops.clipped_away(
      jnp.exp(log_ratio), inputs['advantages'], low, high)
  count = ops.fraction_of_tokens(
      mask, params['clip_cov_ratio'], log_ratio.dtype)
  # These vectors were made with the first candidates instead of random ones.
  place = jnp.arange(mask.size).reshape(mask.shape)
  gone = ops.first_tokens(candidates, place, count)
  loss = losses.without_tokens_surrogate('gone', low, high, **FREE)
  return _verl(inputs, loss, _weights(inputs, params), gone=gone) | {
      'metrics/actor/pg_clipfrac': _mean(gone, inputs),
      'metrics/actor/ppo_kl': _mean(-log_ratio, inputs)}, None


def _kl_cov_scores(inputs, params):
  mask = inputs['response_mask'] != 0
  covariance = ops.token_covariance(
      inputs['advantages'], inputs['log_prob'], mask)
  return covariance.reshape(-1), ops.fraction_of_tokens(
      mask, params['kl_cov_ratio'], covariance.dtype)


def kl_cov(inputs, params):
  mask = inputs['response_mask'].reshape(-1) != 0
  covariance, count = compiled(_kl_cov_scores)(inputs, params)
  # Our choice among equal entries is the first: hand them over in its order.
  inside = np.flatnonzero(mask)
  order = inside[np.array(torch_order(
      np.asarray(covariance)[inside], int(count)), int)]
  return compiled(_kl_cov)(inputs | {
      'order': np.concatenate([order, np.flatnonzero(~mask)])}, params)


def _kl_cov(inputs, params):
  covariance, count = _kl_cov_scores(inputs, params)
  mask, order = inputs['response_mask'] != 0, inputs['order']
  chosen = ops.first_tokens(
      mask.reshape(-1)[order], -covariance[order], count)
  charge = jnp.zeros(mask.size, bool).at[order].set(chosen)
  loss = losses.kl_on_tokens_surrogate(
      'charge', params['ppo_kl_coef'], **FREE)
  # verl reports the mean of |log ρ| under this name.
  distance = jnp.abs(_log_ratio(inputs, None))
  return _verl(inputs, loss, _weights(inputs, params),
               charge=charge.reshape(mask.shape)) | {
      'metrics/actor/ppo_kl': _mean(distance, inputs)}, None


def m2po_mask(inputs, params):
  mask = jnp.asarray(inputs['loss_mask'])
  log_ratio = ops.log_ratio(
      inputs['prox_logp'], inputs['old_logp'], mask, limit=None)
  return {'mask': ops.second_moment_mask(
      log_ratio, mask, params['m2_threshold'])}, None


ADAPTERS = {
    'cispo_loss': Adapter(padded(cispo_loss, 'response_mask'), raw=True),
    'clip_cov': Adapter(padded(clip_cov, 'response_mask'), raw=True),
    'dppo_kl_loss': Adapter(padded(_dppo('kl'), 'response_mask'), raw=True),
    'dppo_tv_loss': Adapter(padded(_dppo('tv'), 'response_mask'), raw=True),
    'dro_loss': Adapter(padded(dro_loss, 'response_mask'), raw=True),
    'gmpo_loss': Adapter(padded(gmpo_loss, 'response_mask'), raw=True),
    'gpg_loss': Adapter(padded(gpg_loss, 'response_mask'), raw=True),
    'kl_cov': Adapter(
        padded(kl_cov, 'response_mask', compile=False), raw=True),
    'm2po_mask': Adapter(padded(m2po_mask, 'loss_mask'), raw=True),
    'sapo_loss': Adapter(padded(sapo_loss, 'response_mask'), raw=True),
}
