"""Methods that weigh or normalise group advantages in their own way."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import credit, losses, ops
from policyopt.methods.advantages.agrae import refocus_on_difficulty
from policyopt.methods.advantages.bnpo import normalize_by_beta
from policyopt.methods.advantages.dvao import combine_channels
from policyopt.methods.advantages.ngrpo import standardize_with_virtual
from policyopt.types import PolicyOutput, Rollout
from tests.golden_adapters.common import (
    Adapter,
    array,
    compiled,
    consecutive,
    pad_rows,
    up,
    whole,
)

ROWS, COLUMNS = 64, 8


def _rollout(case, channels=None):
  """A rollout of the case, padded so that few shapes are compiled.

  Rewards stand in the first column, whether or not its token counts.
  """
  inputs = case['inputs']
  if channels is None:
    channels = {'reward': array(inputs['rewards'])}
  group = np.unique(inputs['group'], return_inverse=True)[1].reshape(-1)
  mask = array(inputs.get('mask', [[1.]] * len(group)))
  rows, columns = up(len(group), ROWS), up(mask.shape[1], COLUMNS)

  def place(values):
    placed = np.zeros((rows, columns))
    placed[:len(values), 0] = values
    return jnp.asarray(placed)

  spare = rows - len(group)
  mask = np.pad(mask, ((0, spare), (0, columns - mask.shape[1])))
  return Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=jnp.asarray(mask > 0),
      log_probs=jnp.zeros(mask.shape),
      group=jnp.asarray(np.pad(group, (0, spare), constant_values=-1)),
      rewards={name: place(x) for name, x in channels.items()})


def _compiled(run, case, channels=None, **params):
  """`run` on the case as a rollout, with these params besides its own."""
  rollout = _rollout(case, channels)
  return compiled(run)({'rollout': rollout}, case['params'] | params)


def _advantages(transform, rollout):
  x = sum(rollout.rewards.values())
  return transform.update(x, transform.init(), rollout)[0]


def _bnpo(inputs, params):
  rollout, decompose = inputs['rollout'], params['decompose']
  kw = dict(reward_min=params['min_value'], reward_max=params['max_value'],
            singleton='raw')
  outputs = {'advantages': _advantages(
      normalize_by_beta(decompose=decompose, **kw), rollout)}
  if decompose:
    return outputs
  rewards = credit.row_success(rollout)
  rates, counted = ops.success_rates(rewards, rollout.group, **kw)
  fit = ops.fit_beta(rates, counted)
  ours = dict(p=rates, p_mean=fit.mean, p_var=fit.variance, a=fit.a, b=fit.b,
              alpha=fit.alpha, beta=fit.beta)
  return outputs | {f'derived/{name}': x for name, x in ours.items()}


def bnpo(case):
  channels = case['inputs'].get('reward_channels')
  decompose = channels is not None
  if decompose:
    assert case['params'].get('combine', '').startswith('mean')
    channels = {str(i): x for i, x in enumerate(array(channels))}
  outputs = _compiled(_bnpo, case, channels, decompose=decompose)
  there = {f'derived/{name}' for name in case['outputs'].get('derived', {})}
  assert decompose or there <= outputs.keys()
  return {name: outputs[name] for name in outputs.keys() & (
      there | {'advantages'})}, None


def _grpo(rewards, ids, eps):
  """Of the released code, in which a group of one keeps its reward as it is."""
  alone = ops.gather(ops.segment_count(ids), ids) == 1
  return jnp.where(
      alone, rewards, ops.group_standardize(rewards, ids, eps=eps))


def _adora_text(inputs, params):
  rollout = inputs['rollout']
  ids, rewards = rollout.group, credit.row_success(rollout)
  lengths = jnp.sum(rollout.mask, axis=1)
  correct = rewards > params['correct_score']
  longer = ops.longer_when_correct(
      lengths, correct, ~correct & (lengths < params['max_length_threshold']),
      ids)
  weights = ops.gather(jnp.where(longer, 1., params['lamda']), ids)
  base = _grpo(rewards, ids, params['epsilon'])
  return {'grpo_unweighted': credit.spread_rows(base, rollout),
          'advantages': credit.spread_rows(weights * base, rollout)}, None


def _vision(inputs, params):
  rewards, lengths, ids = (
      inputs[name] for name in ('rewards', 'lengths', 'group'))
  correct = rewards > params['correct_threshold']
  longer = ops.longer_when_correct(
      lengths, correct, ~correct & (lengths < params['truncation_length']),
      ids, missing='vlm')
  weights = ops.gather(jnp.where(longer, 1., params['lamda']), ids)
  base = ops.group_standardize(rewards, ids, eps=1e-9)
  return {'weights': weights, 'group_norm_advantage': weights * base}


def _adora_vision(case):
  rewards, lengths = (
      array(case['inputs'][name]) for name in ('rewards', 'lengths'))
  ids = np.asarray(consecutive(rewards.size, rewards.shape[1]))
  outputs = compiled(_vision)(pad_rows(
      {'rewards': rewards.reshape(-1), 'lengths': lengths.reshape(-1),
       'group': ids}, rewards.size, ROWS), case['params'])
  return {name: x[:rewards.size].reshape(rewards.shape)
          for name, x in outputs.items()}, None


def adora(case):
  if case['kind'] == 'verl_llm':
    return _compiled(_adora_text, case)
  return _adora_vision(case)


def _agrae(inputs, params):
  rollout = inputs['rollout']
  base = credit.group_standardize(
      std='sample' if params['norm_by_std'] else 'none', eps=params['eps'],
      singleton='raw')

  def after(rollout=rollout, **kw):
    return _advantages(credit.chain(
        base, refocus_on_difficulty(eps=params['eps'], **kw)), rollout)

  # The branch of their code that is the method.
  plain = {} if params['grpo_weight'] == 2 else dict(focus='none', alpha=0.)
  outputs = {'advantages': after(
      **{'reading': 'release', 'alpha': params['alpha']} | plain)}
  everywhere = rollout._replace(mask=jnp.ones_like(rollout.mask))
  return outputs | {
      name: after(everywhere, alpha=alpha)[:, 0]
      for name, alpha in params['papers'].items()}, None


def agrae(case):
  matches = {name: re.fullmatch(
      r'paper_eq12_13_alpha([\d.]+)_per_sequence', name)
             for name in case['outputs']}
  return _compiled(_agrae, case, papers={
      name: float(match[1]) for name, match in matches.items() if match})


def _ngrpo_loss(inputs, params):
  mask = inputs['mask'] > 0
  rollout = Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=inputs['old_log_prob'],
      group=jnp.zeros(mask.shape[0], jnp.int32), rewards={})
  surrogate = losses.clipped_surrogate(
      params['eps_low'], params['eps_high'], dual_clip=params['dual_clip'])
  assert params['agg'] == 'token-mean over batch'
  weights = ops.token_mean(inputs['mask'], mask)

  def loss(log_probs):
    return surrogate.apply(
        PolicyOutput(log_probs), inputs['advantages'], weights, rollout)

  log_probs = inputs['log_prob']
  (value, metrics), gradient = jax.value_and_grad(
      loss, has_aux=True)(log_probs)
  clipped = sum(metrics[f'clip_fraction/{sign}'][0]
                for sign in ('positive', 'negative'))
  k1 = ops.kl_estimate(rollout.log_probs, log_probs, value='k1')
  return {'loss': value, 'grad_log_prob': gradient,
          'clipfrac': clipped.astype(float) / jnp.sum(mask),
          'ppo_kl': ops.masked_mean(k1, mask)}, None


def _ngrpo_advantages(inputs, params):
  return {'advantages': _advantages(standardize_with_virtual(
      virtual=params['add_max_reward_num'], reward_max=params['max_reward'],
      eps=params['epsilon'], singleton='raw'), inputs['rollout'])}, None


def ngrpo(case):
  if case['kind'] == 'loss':
    return whole(_ngrpo_loss)(case)
  return _compiled(_ngrpo_advantages, case)


def _dvao(inputs, params):
  rollout, kw = inputs['rollout'], dict(std=params['std'], eps=params['eps'])

  def combined(combine):
    return _advantages(combine_channels(
        channel_weights=params['weights'], combine=combine, **kw),
                       rollout)[:, 0]

  return {
      'advantage': combined('adaptive'),
      'reward_combination': combined('rewards'),
      'advantage_combination': combined('advantages'),
      'dynamic_weights_per_group': ops.spread_weights(
          jnp.stack([
              credit.row_success(rollout, k) for k in sorted(rollout.rewards)]),
          rollout.group, np.asarray(params['weights']), **kw)}, None


def dvao(case):
  rewards = array(case['inputs']['rewards'])
  return _compiled(_dvao, case, {
      f'{k:02}': x for k, x in enumerate(rewards)})


ADAPTERS = {
    'adora': Adapter(adora, raw=True),
    'agrae': Adapter(agrae, raw=True),
    'bnpo': Adapter(bnpo, raw=True),
    'dvao_REFERENCE': Adapter(dvao, raw=True),
    'ngrpo': Adapter(ngrpo, raw=True),
}
