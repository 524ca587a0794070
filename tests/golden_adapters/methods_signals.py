"""Methods whose advantage listens to answers, halves, confidence, variance."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import ops
from policyopt.credit import weights as credit_weights
from policyopt.losses import blended_surrogate
from policyopt.methods.advantages.ace import strengthen_sure_errors
from policyopt.methods.advantages.arm import confidences, favour_uncertain
from policyopt.methods.advantages.canon import (
    compare_halves,
    cosine_restarts,
    mean_reward,
)
from policyopt.types import PolicyOutput, Rollout
from tests.golden_adapters.common import (
    TOLERANCE,
    Adapter,
    array,
    compiled,
    pad_columns,
    pad_rows,
)


def _rollout(mask, group, rewards=None, log_probs=None, **extras):
  """A rollout of those arrays; rewards stand on the first chosen token."""
  mask = jnp.asarray(mask) != 0
  first = (jnp.cumsum(mask, axis=1) == 1) & mask
  earned = jnp.zeros(mask.shape)
  if rewards is not None:
    earned = jnp.where(first, jnp.asarray(rewards)[:, None], 0.)
  return Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=earned * 0 if log_probs is None else jnp.asarray(log_probs),
      group=jnp.asarray(group, jnp.int32), rewards={},
      extras={'token_rewards': earned} | {
          name: jnp.asarray(x) for name, x in extras.items()})


def _copo_advantage(inputs, params):
  rewards, mask = inputs['rewards'], inputs['mask']
  ids = inputs['group'].astype(np.int32)
  entropy = ops.consistency_entropy(inputs['answers'].astype(np.int32), ids)
  earned = jnp.asarray(rewards)
  if params['consistency_coef']:
    earned = earned * ops.consistency_coefficient(entropy, ids)
  std = 'sample' if params['norm_by_std'] else 'none'
  local = ops.group_standardize(
      rewards, ids, std=std, eps=params['eps'], singleton='raw')
  scores = ops.prompt_standardize(earned, ids, std=std, eps=params['eps'])
  outputs = {
      'local_adv': local[:, None] * mask,
      'global_adv': scores[:, None] * mask,
      'consistency_entropy_bits': entropy,
      'global_reward': ops.gather(ops.segment_level(earned, ids), ids),
  }
  if params['norm_by_std']:  # Without, the authors' code leaves zeros there.
    outputs['local_reward'] = rewards
  return outputs, None


def _copo_loss(inputs, params):
  mask = jnp.asarray(inputs['mask']) != 0
  coef, mode = 1., params['mode'].replace('-', '_')
  if mode == 'only_soft_with_coef':
    coef, mode = params.get('global_loss_coef', 1.), 'only_soft'
  weight = ops.blend_weight(
      inputs['consistency_entropy_bits'], inputs['local_reward'],
      inputs['local_adv'][:, 0], mode=mode, steepness=params['k'],
      centre=params['b'])
  rollout = _rollout(
      mask, np.zeros(len(mask)), log_probs=inputs['old_log_prob'],
      global_advantages=inputs['global_adv'],
      local_weight=jnp.where(mask, weight[:, None], 0))
  aggregation = {
      'token-mean': 'token_mean', 'seq-mean-token-sum': 'sequence_sum',
      'seq-mean-token-mean': 'sequence_mean'}[params['agg']]
  weights, _ = credit_weights.aggregate(aggregation).update(
      mask.astype(jnp.float64), (), rollout)
  loss = blended_surrogate(
      params['eps_low'], params['eps_high'], dual_clip=params['clip_ratio_c'],
      global_coef=coef)

  def value(log_probs):
    return loss.apply(
        PolicyOutput(log_probs), jnp.asarray(inputs['local_adv']), weights,
        rollout)[0]

  total, gradient = jax.value_and_grad(value)(jnp.asarray(inputs['log_prob']))
  return {'loss': total, 'grad_log_prob': gradient,
          'w_local_per_sequence': weight}, None


def copo(inputs, params):
  if 'answers' in inputs:
    return _copo_advantage(inputs, params)
  return _copo_loss(inputs, params)


def copo_tolerance(case):
  """The spread of a group of one is a float32 1 there, as everywhere in verl.

  Dividing by a tiny spread multiplies all rounding before it.
  """
  groups = case['inputs'].get('group')
  if groups is None:
    return TOLERANCE
  sizes = np.unique(groups, return_counts=True)[1]
  rewards = np.unique(array(case['outputs']['global_reward']))
  near = (np.diff(rewards) < 1e-4).any()
  return 1e-5 if near else 1e-7 if (sizes == 1).any() else TOLERANCE


def _canon_schedule(inputs, params):
  """μ of both cosines, at a step."""
  kw = dict(total_steps=params.get('total', 150),
            warmup_steps=params.get('warmup', 30),
            cycles=params.get('cycles', 3))
  return {first: cosine_restarts(first=first, **kw)(inputs['step'])
          for first in ('intra', 'inter')}


def _canon_rollout(inputs):
  return _rollout(
      inputs['mask'], inputs['group'], inputs['rewards'],
      entropy=inputs.get('entropy', 0 * inputs['mask']))


def _mean_rewards(inputs, _):
  rollout = _canon_rollout(inputs)
  return [mean_reward(rollout.extras['token_rewards'], rollout, first=first)
          for first in ('intra', 'inter')]


def _canon_mu(inputs, params):
  if 'mu_value' in params:
    # The batch's mean reward or 1 minus it, whichever the case is about.
    mus = map(float, compiled(_mean_rewards)(inputs, {}))
    return min(mus, key=lambda mu: abs(mu - params['mu_value']))
  if 'schedule' in params:
    mus = compiled(_canon_schedule)({'step': params['step']}, params)
    reverse = params['schedule'].endswith('_r')
    return float(mus['inter' if reverse else 'intra'])
  return params.get('mu', 1.)


def _canon(inputs, params):
  rollout = _canon_rollout(inputs)
  if params['kind'] == 'dr_grpo':
    advantages = ops.group_standardize(
        inputs['rewards'], rollout.group, std='none', singleton='raw')[:, None]
  else:
    # Without any entropies the halves are those of the order of rows.
    transform = compare_halves(
        metric='length' if params['kind'] == 'length' else 'entropy',
        mu=params['chosen_mu'], alpha=params.get('alpha', 1.),
        offset=params.get('beta', 0.), singleton='raw')
    advantages, _ = transform.update(
        rollout.extras['token_rewards'], (), rollout)
  return {'advantages': advantages * inputs['mask'] / params['max_length']
          }, None


def canon_case(case):
  kind, params = case['kind'], case['params']
  inputs = {name: array(x) for name, x in case['inputs'].items()}
  if kind == 'mu_schedule':
    mus = compiled(_canon_schedule)({'step': int(inputs['step'])}, params)
    return {'mu_cosine_first_intra_later_inter': mus['intra'],
            'mu_cosine_first_inter_later_intra': mus['inter']}, None
  inputs = pad_rows(pad_columns(inputs), len(inputs['mask']))
  return compiled(_canon)(inputs, params | {
      'kind': kind, 'chosen_mu': _canon_mu(inputs, params)})


def _base(rewards, group, params):
  return ops.group_standardize(
      rewards, group.astype(np.int32), std=params['std'], eps=params['eps'])


def _in_one_row(inputs, group):
  """Prompt and response side by side, as they lie in a rollout.

  Before the prompt stands a first token, which nothing predicts.
  """
  width = 1 + inputs['prompt_mask'].shape[1] + inputs['mask'].shape[1]
  width += -width % 16
  log_probs, mask = np.zeros((2, len(group), width))
  for row, prompt in enumerate(group):
    question = inputs['prompt_log_prob'][prompt][
        inputs['prompt_mask'][prompt] != 0]
    start = 1 + len(question)
    log_probs[row, 1:start] = question
    response = slice(start, start + inputs['mask'].shape[1])
    log_probs[row, response] = inputs['log_prob'][row]
    mask[row, response] = inputs['mask'][row]
  return log_probs, mask


def _arm(inputs, params):
  rollout = _rollout(
      inputs['mask'], inputs['group'], inputs['rewards'],
      log_probs=inputs['log_probs'], prompt_log_probs=inputs['log_probs'])
  base = _base(inputs['rewards'], inputs['group'], params)
  kw = dict(low_fraction=params['low_fraction'])
  transform = favour_uncertain(alpha=params['alpha'], **kw)
  spread = jnp.where(rollout.mask, base[:, None], 0)
  tokens, _ = transform.update(spread, (), rollout)
  answer, asked_for = confidences(rollout, **kw)
  first = jnp.argmax(rollout.mask, axis=1)
  wrote = jnp.any(rollout.mask, axis=1)
  advantage = jnp.where(
      wrote, jnp.take_along_axis(tokens, first[:, None], axis=1)[:, 0], base)
  return {'base_advantage': base, 'answer_confidence': answer,
          'asked_for': asked_for, 'advantage': advantage}


def arm_case(case):
  inputs = {name: array(x) for name, x in case['inputs'].items()}
  group = inputs['group'].astype(int)
  log_probs, mask = _in_one_row(inputs, group)
  outputs = compiled(_arm)(pad_rows(
      {'mask': mask, 'log_probs': log_probs, 'group': inputs['group'],
       'rewards': inputs['rewards']}, len(group)), case['params'])
  asked_for = outputs.pop('asked_for')
  return outputs | {'prompt_confidence': np.array([
      asked_for[np.flatnonzero(group == prompt)[0]]
      for prompt in range(len(inputs['prompt_mask']))])}, None


def ace_reference(inputs, params):
  mask = inputs['mask']
  base = _base(inputs['rewards'], inputs['group'], params)
  kw = dict(length_normalised=params['length_normalised'])
  shift = ops.confidence_shift(
      inputs['log_prob'], inputs['ref_log_prob'], mask, **kw)
  rollout = _rollout(
      mask, inputs['group'], log_probs=inputs['log_prob'],
      ref_log_probs=inputs['ref_log_prob'])
  tokens, _ = strengthen_sure_errors(alpha=params['alpha'], **kw).update(
      jnp.broadcast_to(base[:, None], mask.shape), (), rollout)
  return {'base_advantage': base, 'confidence_shift': shift,
          'advantage': tokens[:, 0]}, None


def _d3s_rows(inputs, _):
  """(the chosen rows, the rank of each, the variance at each rank)."""
  advantages, ids = inputs['advantages'], inputs['group']
  count = jnp.full(len(ids), inputs['count'])
  return (ops.max_variance_rows(advantages, ids, count),
          ops.rank_in_group(advantages, ids),
          ops.extreme_variances(advantages, ids, count))


def _d3s_tokens(inputs, params):
  scores = jnp.abs(inputs['advantages'])[:, None] * inputs['entropy']
  return ops.top_fraction(
      scores, (inputs['mask'] != 0) & inputs['chosen'][:, None],
      params['K_percent'] / 100)


def d3s_case(case):
  params, wanted = case['params'], case['outputs']
  inputs = {name: array(x) for name, x in case['inputs'].items()}
  advantages, rows = inputs['advantages'], len(inputs['advantages'])
  inputs = pad_rows(inputs | {'group': np.zeros(rows, np.int32)}, rows)
  chosen, rank, scan = (
      np.asarray(x)[:rows] for x in compiled(_d3s_rows)(
          inputs | {'count': params['N']}, {}))
  assert chosen.sum() == params['N']
  scan = scan[np.argsort(rank)]
  # All the largest are all the smallest too, when all rows are taken.
  scan = np.append(scan, scan[0])[:params['N'] + 1]
  outputs = {
      'max_variance_population': np.var(advantages[chosen]),
      'scan_variance_by_n_plus_0_to_N': scan}
  theirs = array(wanted['scan_variance_by_n_plus_0_to_N'])
  alike = np.flatnonzero(theirs >= theirs.max() - 1e-9)
  if len(alike) == 1:
    outputs['n_plus_first_argmax'] = chosen[
        rank >= rows - alike[0]].sum()
    outputs['selected_first_argmax'] = np.flatnonzero(chosen)
  else:  # Subsets that vary alike: their tokens are compared, given the rows.
    chosen = np.isin(
        np.arange(rows), array(wanted['selected_first_argmax']).astype(int))
  outputs['token_keep_mask'] = compiled(_d3s_tokens)(inputs | {
      'chosen': np.pad(chosen, (0, len(inputs['mask']) - rows))}, params)
  return outputs, None


ADAPTERS = {
    'ace_REFERENCE': Adapter(ace_reference),
    'arm_REFERENCE': Adapter(arm_case, raw=True),
    'canon': Adapter(canon_case, raw=True),
    'copo': Adapter(copo, tolerance=copo_tolerance),
    'd3s_REFERENCE': Adapter(d3s_case, raw=True),
}
