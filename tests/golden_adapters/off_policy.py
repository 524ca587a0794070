"""Importance weights, rejection, mismatch; Tunix's KL and aggregation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import losses, ops
from policyopt.types import PolicyOutput, Rollout
from tests.golden_adapters.baselines import _weights
from tests.golden_adapters.common import COUNT_EPS, Adapter, array, compiled


def _padded(run):
  """A raw adapter: `run(inputs, params)`, compiled for a few shapes."""
  def adapt(case):
    inputs = {k: array(v) for k, v in case['inputs'].items() if v is not None}
    rows, width = next(iter(inputs.values())).shape
    pads = ((0, -rows % 16), (0, -width % 16))
    return compiled(run)(
        {k: np.pad(x, pads) for k, x in inputs.items()},
        case['params'] | {'rows': rows, 'width': width})

  return adapt


def _weight_kw(params):
  """verl's threshold: a number caps, 'low_high' drops what lies outside."""
  threshold = params.get('rollout_is_threshold', 2.)
  kw = dict(level=params['rollout_is'], count_eps=COUNT_EPS,
            normalize=params.get('rollout_is_batch_normalize', False))
  if '_' not in str(threshold):
    return kw | dict(bound='truncate', cap=float(threshold))
  low, high = map(float, threshold.split('_'))
  return kw | dict(bound='mask', floor=low, cap=high)


def _rejections(params):
  """verl's options, each with its bounds: of μ/π for k1."""
  options = [o.strip() for o in params['rollout_rs'].split(',')]
  bounds = str(params['rollout_rs_threshold']).split(',')
  if len(bounds) == 1:
    bounds *= len(options)
  for option, bound in zip(options, bounds, strict=True):
    level, statistic = option.rsplit('_', 1)
    low, _, high = bound.strip().rpartition('_')
    yield option, dict(
        level=level, statistic=statistic, inverse=True,
        low=float(low) if low else None, high=float(high),
        count_eps=COUNT_EPS)


def _fraction(holds, mask):
  return ops.masked_mean(
      jnp.asarray(holds, jnp.float64), mask, count_eps=COUNT_EPS)


def _row_fraction(holds, mask):
  """Of the rows with a token, those on which it holds somewhere."""
  hit = jnp.asarray(jnp.any(holds & (mask != 0), axis=1), jnp.float64)
  return ops.masked_mean(hit, jnp.any(mask != 0, axis=1))


def _row_share(lost, params):
  """Of all rows of the case, in float32, where verl counts in that."""
  return jnp.float32(jnp.sum(jnp.any(lost, axis=1)) / params['rows'])


def _tis(inputs, params):
  x, mask = inputs['log_ratio'], inputs['response_mask']
  kw = _weight_kw(params)
  weights = ops.importance_weights(x, mask, **kw)
  free = ops.importance_weights(x, mask, **kw | dict(normalize=False))
  raw = ops.importance_ratios(x, mask, level=kw['level'])
  low, high = kw.get('floor', 1 / kw['cap']), kw['cap']
  outputs = {
      'weights': weights,
      'metrics/rollout_is_mean': _fraction(free, mask),
      'metrics/rollout_is_eff_sample_size': ops.effective_sample_size(
          free, mask, count_eps=COUNT_EPS, mean_eps=1e-8)}
  if kw['bound'] == 'mask':
    outside = ((raw < low) | (raw > high)) & (mask != 0)
    outputs['metrics/rollout_is_oob_ratio'] = _fraction(outside, mask)
  if kw['level'] == 'token':
    for name, holds in (('high', raw > high), ('low', raw < low)):
      outputs[f'metrics/rollout_is_ratio_fraction_{name}'] = _fraction(
          holds, mask)
  return outputs, None


def tis_rollout_is_weights(case):
  outputs, mask = _padded(_tis)(case)
  if 'error' in case['outputs']:
    # verl divides by zero where every weight is 0, which is what we compare.
    zeros = np.zeros(np.shape(case['inputs']['log_ratio']))
    case['outputs']['weights'] = zeros.tolist()
    outputs = {'weights': outputs['weights']}
  return outputs, mask


def rollout_rejection_mask(inputs, params):
  x, mask = inputs['log_ratio'], inputs['response_mask']
  kept, outputs = mask != 0, {}
  for option, kw in _rejections(params):
    own = ops.rejection_mask(x, mask, **kw)
    value = ops.mismatch_statistic(x, mask, **{
        k: kw[k] for k in ('statistic', 'level', 'count_eps')})
    name = f'metrics/rollout_rs_{option}'
    kept = kept & own
    outputs |= {
        f'{name}_masked_fraction': _fraction(~own, mask),
        f'{name}_seq_masked_fraction': _row_fraction(~own, mask),
        f'{name}_mean': _fraction(value, mask),
        f'{name}_max': jnp.max(jnp.where(mask != 0, value, -jnp.inf)),
        f'{name}_min': jnp.min(jnp.where(mask != 0, value, jnp.inf))}
  return outputs | {
      'modified_response_mask': kept * 1.,
      'metrics/rollout_rs_masked_fraction': _fraction(~kept, mask),
      # Rows without a token count there.
      'metrics/rollout_rs_seq_masked_fraction': _row_share(
          ~kept & (mask != 0), params),
  }, None


_metrics = jax.jit(functools.partial(
    ops.off_policy_metrics, empty_rows='count', count_eps=COUNT_EPS))
_THEIRS = {
    'k1': 'kl', 'k3': 'k3_kl', 'chi2_sequence': 'chi2_seq',
    'perplexity': 'training_ppl', 'log_perplexity': 'training_log_ppl',
    'sampler_perplexity': 'rollout_ppl',
    'sampler_log_perplexity': 'rollout_log_ppl',
    'log_perplexity_gap': 'log_ppl_diff', 'perplexity_ratio': 'ppl_ratio',
    'log_perplexity_gap_abs': 'log_ppl_abs_diff',
    'log_perplexity_gap_max': 'log_ppl_diff_max',
    'log_perplexity_gap_min': 'log_ppl_diff_min'}


def offpolicy_metrics(case):
  # Rows without a token count there, so none may be added.
  ours = _metrics(*(array(case['inputs'][name]) for name in (
      'train_log_prob', 'rollout_log_prob', 'response_mask')))
  return {f'metrics/{_THEIRS.get(name, name)}': value
          for name, value in ours.items()}, None


def _reinforce(inputs, weights, loss=None):
  """The loss of one of our losses and its gradient by the log-probs."""
  mask, sampled = (jnp.asarray(inputs[name]) for name in (
      'response_mask', 'rollout_log_prob'))
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask != 0,
      log_probs=sampled, group=jnp.zeros(len(mask), jnp.int32), rewards={})
  loss = loss or losses.policy_gradient_loss()

  def apply(log_probs):
    return loss.apply(
        PolicyOutput(log_probs), inputs['advantages'], weights, rollout)[0]

  value, gradient = jax.value_and_grad(apply)(jnp.asarray(inputs['log_prob']))
  return {'loss': value, 'grad_log_prob': gradient}


def _drift(inputs, mask):
  """verl's own k1 of the two policies, over what is kept."""
  return {'metrics/actor/ppo_kl': ops.off_policy_metrics(
      inputs['log_prob'], inputs['rollout_log_prob'], mask,
      count_eps=COUNT_EPS)['k1']}


def reinforce_is_loss(inputs, params):
  mask = inputs['response_mask']
  weights = _weights(mask, params['loss_agg_mode'], params)
  weights = inputs.get('rollout_is_weights', 1.) * weights
  return _drift(inputs, mask) | _reinforce(inputs, weights), None


def bypass_mode_loss(inputs, params):
  mask, outputs = inputs['response_mask'], {}
  x = inputs['log_prob'] - inputs['rollout_log_prob']
  clip, kept = params.get('loss_type', 'ppo_clip') == 'ppo_clip', mask != 0
  corrections, loss = 1., None
  if clip:
    # Its ratio is π/μ already, so that there are no weights.
    width = params.get('clip_ratio', .2)
    loss = losses.clipped_surrogate(
        params.get('clip_ratio_low', width),
        params.get('clip_ratio_high', width),
        dual_clip=params.get('clip_ratio_c', 3.))
  elif params.get('rollout_is'):
    corrections = ops.importance_weights(x, mask, **_weight_kw(params))
  if params.get('rollout_rs'):
    prefix = 'metrics/rollout_corr/rollout_rs_'
    for option, kw in _rejections(params):
      own = ops.rejection_mask(x, mask, **kw)
      kept = kept & own
      outputs |= {
          f'{prefix}{option}_masked_fraction': _fraction(~own, mask),
          f'{prefix}{option}_seq_masked_fraction': _row_fraction(~own, mask)}
    outputs |= {
        f'{prefix}masked_fraction': _fraction(~kept, mask),
        f'{prefix}seq_masked_fraction': _row_share(
            ~kept & (mask != 0), params)}
  if not clip:
    outputs |= _drift(inputs, kept)
  # What is rejected leaves the means, as with our aggregators.
  mode = _weights(kept * 1., params['loss_agg_mode'], params)
  return outputs | _reinforce(inputs, corrections * mode, loss), None


def trl_off_policy_sequence_mask(inputs, params):
  # The advantage of a row is its only column; padding has been added to it.
  mask = inputs['mask']
  x = inputs['per_token_logps'] - inputs['sampling_per_token_logps']
  return {'keep': ops.off_policy_sequence_mask(
      inputs['advantages'][:, :1], x, mask,
      params['off_policy_threshold']) * 1.}, None


def _tunix_kl(inputs, params):
  del params
  # Rounded on entry, as there; we go on in float64.
  ours, ref = (
      jnp.float64(jnp.float32(inputs[name]))
      for name in ('per_token_logps', 'ref_per_token_logps'))
  kl = functools.partial(ops.kl_estimate, ours, ref, **ops.KL_LIMITS['tunix'])
  return {'kl': kl(value='k1'), 'mse_kl': kl(value='k2'),
          'low_var_kl': kl(value='k3', output_limit=None),
          'low_var_kl_clamp10': kl(value='k3', output_limit=10.)}


def tunix_kl(case):
  outputs = _padded(_tunix_kl)(case)
  for name in ('low_var_kl', 'low_var_kl_clamp10'):
    expected, ours = array(case['outputs'][name]), outputs.pop(name)
    # exp(d) − d − 1 in float32 has lost all digits where d is small.
    np.testing.assert_allclose(
        ours[tuple(map(slice, expected.shape))], expected,
        rtol=1e-6, atol=3e-7, err_msg=name)
  return outputs, None


def _tunix_weights(mask, params, packed, width, height, **known):
  """Tunix's aggregation modes; `known` overrides what they divide by."""
  mode, norm = params['loss_agg_mode'], params.get('norm')
  if mode == 'token-mean':
    return ops.token_mean(mask, mask, tokens=known.get('rows'))
  kw = dict(packed=packed, **known)
  if mode == 'sequence-mean-token-mean':
    return ops.sequence_mean(mask, mask, **kw)
  if mode == 'sequence-mean-token-scale':
    return ops.constant_length(
        mask, mask, width if norm is None else norm, **kw)
  if mode == 'seq-mean-token-sum':
    return ops.sequence_sum(mask, mask, **kw)
  if norm is None:
    norm = height
    if packed is not None:
      # As many as there are packed sequences.
      norm = 1 / ops.sequence_sum(mask, mask, packed=packed).max()
  return ops.token_mean(mask, mask, tokens=known.get('rows', norm))


def _tunix_terms(inputs, params):
  """The terms of the loss, and those that are not divided by the rows."""
  mask, packed = inputs['completion_mask'], inputs.get('segment_ids')
  if packed is not None:
    # 0 is padding there; here it is the first sequence.
    packed = jnp.asarray(packed, jnp.int32) - 1
  loss = ops.fill(inputs['per_token_loss'], mask)
  return [loss * _tunix_weights(
      mask, params, packed, params['width'], params['rows'], **known)
          for known in ({}, {'rows': 1.})]


def tunix_agg_loss_modes(case):
  terms, unreduced = _padded(_tunix_terms)(case)
  return {'loss': np.sum(terms), 'unreduced_sum': np.sum(unreduced)}, None


def _float32_sum(case):
  """Tunix adds in float32: the error is relative to the sum of |terms|."""
  terms = np.asarray(_padded(_tunix_terms)(case)[0])
  return 1e-6 * max(1., np.abs(terms).sum() / max(abs(terms.sum()), 1e-30))


ADAPTERS = {
    'bypass_mode_loss': Adapter(_padded(bypass_mode_loss), raw=True),
    'offpolicy_metrics': Adapter(offpolicy_metrics, raw=True),
    'reinforce_is_loss': Adapter(_padded(reinforce_is_loss), raw=True),
    'rollout_rejection_mask': Adapter(
        _padded(rollout_rejection_mask), raw=True),
    'tis_rollout_is_weights': Adapter(tis_rollout_is_weights, raw=True),
    'trl_off_policy_sequence_mask': Adapter(trl_off_policy_sequence_mask),
    'tunix_agg_loss_modes': Adapter(
        tunix_agg_loss_modes, raw=True, tolerance=_float32_sum),
    # float32 there.
    'tunix_kl': Adapter(tunix_kl, raw=True, tolerance=1e-6),
}
