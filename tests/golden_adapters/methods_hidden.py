"""Methods that look at entropies and hidden states: HAPO, CAPO, VERL."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import losses, ops
from policyopt.types import PolicyOutput, Rollout
from tests.golden_adapters.common import (
    COUNT_EPS,
    TOLERANCE,
    Adapter,
    array,
    compiled,
    whole,
)


def _group_average(inputs, params):
  mask = inputs['mask']
  rewards = inputs['rewards']
  ids = ops.compact_ids(inputs['group'].astype(jnp.int32))
  eps = params['eps']
  std = 'population' if params['norm_by_std'] else 'none'
  by_token = ops.token_group_standardize(
      rewards, mask, ids, std=std, eps=eps, limit=params['fallback_abs'],
      # The release tests the limit on padding too.
      count_padding=True, singleton='raw')
  by_row = ops.group_standardize(
      rewards, ids, std='sample' if params['norm_by_std'] else 'none', eps=eps,
      singleton='raw')
  return {'advantages_masked': by_token[:, None] * mask,
          'grpo_fallback': by_row[:, None] * mask}


def _entropy(inputs, params):
  mask, entropy = inputs['mask'], inputs['entropy']
  scale = ops.fit_entropy_scale(entropy, mask, quantile=params['pivot'])
  signed = ops.entropy_score(entropy, scale)
  published = ops.entropy_score(entropy, scale, signed=False)
  return {
      'h_hat_as_published_code_masked': ops.fill(published, mask),
      'h_hat_signed_intended_masked': ops.fill(signed, mask),
      'log_median': scale.pivot, 'std_about_pivot': scale.spread,
      'scale_pos': 1 / scale.high, 'scale_neg': -1 / scale.low}


def _clip(inputs, params):
  low, high = ops.adaptive_clip(
      inputs['h_hat'], params['eps_low'], params['eps_high'],
      alpha=params['clip_alpha'])
  return {'eps_low': low, 'eps_high': high}


def _redistribution(inputs, params):
  names = ('advantages', 'h_hat', 'ratio', 'eps_low', 'eps_high')
  return {'advantages': ops.redistribute(
      *(jnp.asarray(inputs[name]) for name in names),
      beta=params['adv_beta'])}


def _hapo_loss(inputs, params, signed):
  mask = jnp.asarray(inputs['mask'] != 0)
  assert params['agg'] == 'token-mean'
  scale = ops.fit_entropy_scale(
      inputs['entropy'], mask, quantile=params['pivot'])
  score = ops.entropy_score(inputs['entropy'], scale, signed=signed)
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=jnp.asarray(inputs['old_log_prob']),
      group=jnp.arange(mask.shape[0]), rewards={},
      extras={'entropy_score': score})
  loss = losses.heterogeneous_surrogate(
      params['eps_low'], params['eps_high'],
      clip_alpha=params['clip_alpha'] * params.get('adaptive_clip', True),
      adv_beta=params['adv_beta'] * params.get('adaptive_advantage', True),
      dual_clip=params['clip_ratio_c'])
  weights = mask / (jnp.sum(mask) + COUNT_EPS)

  def total(log_probs):
    policy = PolicyOutput(log_probs=log_probs)
    return loss.apply(
        policy, jnp.asarray(inputs['advantages']), weights, rollout)[0]

  value, gradient = jax.value_and_grad(total)(jnp.asarray(inputs['log_prob']))
  outputs = {'loss': value, 'grad_log_prob': gradient}
  return outputs | ({'h_hat_masked': ops.fill(score, mask)} if signed else {})


_HAPO = {
    'token_level_group_average': _group_average,
    'entropy_normalisation': _entropy,
    'adaptive_clip': _clip,
    'advantage_redistribution': _redistribution,
    'loss': functools.partial(_hapo_loss, signed=False),
    'loss_signed_h': functools.partial(_hapo_loss, signed=True),
}


def hapo(case):
  return whole(_HAPO[case['kind']])(case), None


_CAPO = ('hidden', 'topk_probs', 'onehot', 'advantages', 'mask', 'topk_ids')


def _capo_step(inputs, params):
  """(outputs of one step, moments after it); moments is None for SGD."""
  x, moments = inputs['step'], inputs['moments']
  ids = x['topk_ids'].astype(jnp.int32)
  # The chosen token by its id; none of the candidates is -1.
  tokens = jnp.where(
      jnp.any(x['onehot'] != 0, axis=-1),
      jnp.sum(jnp.where(x['onehot'] != 0, ids, 0), axis=-1), -1)
  probs, score = ops.candidate_scores(
      tokens, ids, x['topk_probs'], ids.shape[-1])
  gain = jnp.broadcast_to(x['advantages'][:, None], tokens.shape)
  gradient = gain[:, :, None] * score
  decays = {'b1': params['beta1'], 'b2': params['beta2']}
  change = ops.logit_change(
      x['hidden'], gradient, ids, moments, eps=params['eps'], **decays)
  objective, divergence = ops.predicted_change(
      change, score, probs, gain, params['lr'])
  accepted = (x['mask'] != 0) & ops.within_limits(
      objective, divergence, params['tau_H'], params['tau_F'],
      one_sided=not params['symmetric_H'])
  if moments is not None:
    moments = ops.update_moments(
        moments, x['hidden'], gradient, ids, accepted, **decays)
  return {'m_H': objective, 'm_F': divergence,
          'accept_mask': 1. * accepted}, moments


def _capo_moments(moments, after, path):
  """Ours at the rows that the release lists; the others must be untouched."""
  outputs = {f'{path}/t': moments.count}
  for name, rows in (('m', moments.mean), ('v', moments.square)):
    rows = np.asarray(rows)
    listed = [int(row) for row in after[name]]
    assert not np.delete(rows, listed, axis=0).any()
    outputs |= {f'{path}/{name}/{row}': rows[row] for row in listed}
  return outputs


def capo(case):
  inputs, params = case['inputs'], case['params']
  history = case['outputs']['history']
  moments = None
  if params['optimizer_model'] == 'adam':
    width = np.asarray(history[0]['hidden']).shape[-1]
    moments = jax.tree.map(
        lambda x: x.astype(float) if x.ndim else x,
        ops.empty_moments(inputs['vocab'], width))
  outputs = {}
  for i, step in enumerate(history):
    step_inputs = {name: array(step[name]) for name in _CAPO}
    got, moments = compiled(_capo_step)(
        {'step': step_inputs, 'moments': moments}, params)
    outputs |= {f'history/{i}/{name}': x for name, x in got.items()}
    if moments is not None:
      outputs |= _capo_moments(
          moments, step['adam_state_after'], f'history/{i}/adam_state_after')
  return outputs, None


def _has_equal_rows(case):
  """Of equal rows centring leaves rounding, whose rank the release takes."""
  hidden, sizes = array(case['inputs']['hidden']), case['params']
  kept = hidden[-sizes['max_seq_len']:]
  windows = [kept[:t + 1] for t in range(
      sizes['stride'], len(kept), sizes['stride'])]
  return any(np.ptp(rows, axis=0).max() <= 1e-12 * np.abs(rows).max()
             for rows in (hidden, *windows) if len(rows) > 1)


def _ranks(inputs, params):
  sizes = {'stride': params['stride'], 'last': params['max_seq_len']}
  hidden = inputs['hidden'][None]
  mask = jnp.ones(hidden.shape[:2], bool)
  kept, length = ops.chosen_first(hidden, mask, sizes['last'])
  windows, _ = ops.prefix_ranks(kept, length, stride=sizes['stride'])
  steps = ops.rank_steps(windows)[0]
  # The release takes ER, but not the windows, of all tokens.
  dynamics = ops.rank_dynamics(hidden, mask, **sizes, rank_of_all=True)
  return {
      'ER': dynamics.rank[0], 'prefix_ER': windows[0], 'first_diffs': steps,
      'second_diffs': steps[1:] - steps[:-1],
      'ERV_mean_first_diff': dynamics.velocity[0],
      'ERA_mean_second_diff': dynamics.acceleration[0]}


def _rank(case):
  outputs = whole(_ranks)(case)
  if _has_equal_rows(case):  # Its differences are nothing but rounding.
    outputs = {name: outputs[name] for name in ('ER', 'prefix_ER')}
  return outputs


_MIXES = {'PlanB': 'tendency', 'FixTwo': 'even', 'FixOne': 'sum'}


def _controller_step(inputs, params):
  x, baseline = inputs['step'], inputs['baseline']
  indicators, scores = x['indicators[ERA,ERV,ER]'], x['scores']
  batch_mean = jnp.mean(indicators, axis=0)
  mean, ready = ops.current_mean(baseline, batch_mean, start='zero')
  signal = params['global_weight'] * ops.rank_signal(
      indicators, mean, gain=params['modulation_gain'],
      explore=params['w_explore[ERA,ERV,ER]'],
      exploit=params['w_exploit[ERA,ERV,ER]'],
      mix=_MIXES[params['hypothesis']], limit=params['clip_dev'])
  signal = jnp.where(ready, signal, 0)
  task = ops.group_standardize(
      scores, ops.compact_ids(x['group'].astype(jnp.int32)), singleton='raw')
  shaped = task + ops.bounded_bonus(signal, task, kappa=params['kappa'])
  column = jnp.arange(x['advantage_task'].shape[1])[None, :]
  end = x['lengths'][:, None]
  by_token = jnp.where(column < end, task[:, None], 0)
  baseline = ops.next_baseline(
      baseline, mean, batch_mean, jnp.mean(scores), rate=params['ema_alpha'])
  return {
      'ema_before': mean, 'aux': signal, 'ema_after': baseline.mean,
      'advantage_task': by_token, 'advantage_shaped_sequence_level': shaped,
      'advantage_shaped_as_code(last token only)': jnp.where(
          column == end - 1, shaped[:, None], by_token)}, baseline


_STEP = ('indicators[ERA,ERV,ER]', 'scores', 'group', 'lengths',
         'advantage_task')


def _controller(case):
  baseline, outputs = ops.empty_baseline(), {}
  for i, step in enumerate(case['outputs']['history']):
    step = {name: array(step[name]) for name in _STEP}
    got, baseline = compiled(_controller_step)(
        {'step': step, 'baseline': baseline}, case['params'])
    outputs |= {f'history/{i}/{name}': x for name, x in got.items()}
  return outputs


def verl_hidden(case):
  run = _rank if case['kind'] == 'effective_rank' else _controller
  return run(case), None




def _rank_tolerance(case):
  equal = case['kind'] == 'effective_rank' and _has_equal_rows(case)
  return 1e-4 if equal else TOLERANCE


ADAPTERS = {
    'capo': Adapter(capo, raw=True),
    'hapo': Adapter(hapo, raw=True),
    'verl_hidden': Adapter(
        verl_hidden, raw=True, tolerance=_rank_tolerance),
}
