"""Cases from rewards to advantages: baselines, returns, whitening."""

from __future__ import annotations

import jax.numpy as jnp

from experiments.bench.cases import Case
from policyopt import ops

# verl adds it to the token count of its means.
EPS = 1e-8


def _total(rewards):
  return jnp.sum(rewards, axis=1)


def _spread(rows, mask):
  return {'advantages': jnp.where(mask, rows[:, None], 0)}


def _white(advantages, mask):
  return {'advantages': ops.masked_whiten(advantages, mask, count_eps=EPS)}


def _group(name, function, verl_name, **kw):
  """A baseline of the group: from rewards [B, T] to advantages [B, T]."""
  def peer(verl, rewards, mask, index):
    advantages, _ = getattr(verl, verl_name)(rewards, mask, index, **kw)
    return {'advantages': advantages}

  def ours(rewards, mask, ids):
    return _spread(function(_total(rewards), ids), mask)

  return Case(name, ours, verl_name, peer)


def _whitened_group(rewards, mask, ids):
  centred = ops.group_standardize(
      _total(rewards), ids, std='none', singleton='raw')
  return _white(jnp.where(mask, centred[:, None], 0), mask)


def _opo(rewards, mask, ids):
  lengths = jnp.sum(mask, axis=1)
  return _spread(ops.length_weighted_centre(
      _total(rewards), lengths, ids, singleton='raw'), mask)


def _gpg(scores, ids):
  centred = ops.group_standardize(scores, ids, std='none', singleton='raw')
  return centred * ops.live_scale(scores, ids, 'nonzero')


def _gdpo(channels, mask, ids):
  rows = ops.standardize_channels(channels, ids, singleton='raw')
  return _white(jnp.where(mask, rows[:, None], 0), mask)


def _gdpo_peer(torch, verl, rewards, channels, mask, index):
  keys = ('a', 'b', 'c')
  advantages, _ = verl.compute_gdpo_outcome_advantage(
      rewards, mask, index, config={'gdpo_reward_keys': keys},
      non_tensor_batch=dict(zip(keys, channels.numpy().T)),
      batch={'prompts': mask[:, :0], 'attention_mask': mask.to(torch.int64)})
  return {'advantages': advantages}


def _reinforce_pp(rewards, mask):
  returns = ops.discounted_returns(rewards, mask, gamma=.99)
  return {'returns': returns} | _white(returns, mask)


def _reinforce_pp_peer(verl, rewards, mask):
  config = type('Config', (), {'gamma': .99})
  advantages, returns = (
      verl.compute_reinforce_plus_plus_outcome_advantage(
          rewards, mask, config=config))
  return {'advantages': advantages, 'returns': returns}


def _remax(rewards, greedy, mask):
  returns = ops.discounted_returns(rewards, mask)
  return {'returns': returns,
          'advantages': jnp.where(mask, returns - greedy[:, None], 0)}


def _remax_peer(verl, rewards, greedy, mask):
  advantages, returns = verl.compute_remax_outcome_advantage(
      rewards, greedy, mask)
  return {'advantages': advantages, 'returns': returns}


def _gae(rewards, values, mask):
  advantages = ops.generalized_advantages(
      rewards, values, mask, gamma=.99, lam=.95)
  return {'returns': advantages + values} | _white(advantages, mask)


def _gae_peer(verl, rewards, values, mask):
  advantages, returns = verl.compute_gae_advantage_return(
      rewards, values, mask, .99, .95)
  return {'advantages': advantages, 'returns': returns}


def _token_baseline(rewards, old, squares, mask, ids, positions):
  energy = ops.gradient_energy(old, squares)
  returns = ops.discounted_returns(rewards, mask)
  baseline = ops.optimal_token_baseline(
      returns, energy, mask, ids, positions, tail='length')
  return {'advantages': jnp.where(mask, returns - baseline, 0)}


def _otb(rewards, old, squares, mask, ids):
  columns = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
  return _token_baseline(rewards, old, squares, mask, ids,
                         jnp.broadcast_to(columns, mask.shape))


def _otb_peer(verl, rewards, old, squares, mask, index):
  advantages, _ = verl.compute_optimal_token_baseline_advantage(
      rewards, mask, index, old, squares)
  return {'advantages': advantages}


def _turn_otb(rewards, old, squares, holes, ids):
  return _token_baseline(rewards, old, squares, holes, ids,
                         ops.token_positions(holes, 'valid'))


def _turn_otb_peer(verl, rewards, old, squares, holes, index):
  advantages, _ = verl.compute_multi_turn_optimal_token_baseline_advantage(
      rewards, holes, index, old, squares)
  return {'advantages': advantages}


def _alone(name, function):
  """A baseline of the group without a peer."""
  return Case(name, lambda rewards, mask, ids: _spread(
      function(_total(rewards), ids), mask))


def _vtrace(values, rewards, weights, mask):
  traced = ops.vtrace(
      values, rewards, jnp.full_like(rewards, .99), weights, mask=mask)
  return traced._asdict()


def _standard(std):
  return lambda scores, ids: ops.group_standardize(
      scores, ids, std=std, singleton='raw')


CASES = (
    _group('grpo', _standard('sample'), 'compute_grpo_outcome_advantage'),
    _group('grpo, vectorised peer', _standard('sample'),
           'compute_grpo_vectorized_outcome_advantage'),
    _group('dr_grpo', _standard('none'), 'compute_grpo_outcome_advantage',
           norm_adv_by_std_in_grpo=False),
    _group('rloo', lambda scores, ids: ops.leave_one_out(
        scores, ids, singleton='raw'), 'compute_rloo_outcome_advantage'),
    _group('rloo, vectorised peer', ops.leave_one_out,
           'compute_rloo_vectorized_outcome_advantage'),
    Case('reinforce_pp', _reinforce_pp,
         'compute_reinforce_plus_plus_outcome_advantage', _reinforce_pp_peer),
    Case('reinforce_pp_baseline', _whitened_group,
         'compute_reinforce_plus_plus_baseline_outcome_advantage',
         lambda verl, rewards, mask, index: {'advantages': (
             verl.compute_reinforce_plus_plus_baseline_outcome_advantage(
                 rewards, mask, index)[0])}),
    Case('remax', _remax, 'compute_remax_outcome_advantage', _remax_peer),
    Case('opo', _opo, 'compute_opo_outcome_advantage',
         lambda verl, rewards, mask, index: {'advantages': (
             verl.compute_opo_outcome_advantage(rewards, mask, index)[0])}),
    _group('gpg', _gpg, 'compute_gpg_outcome_advantage'),
    _group('passk_grpo', ops.best_margin,
           'compute_grpo_passk_outcome_advantage', config={}),
    Case('gdpo, 3 channels', _gdpo, 'compute_gdpo_outcome_advantage',
         _gdpo_peer),
    Case('gae', _gae, 'compute_gae_advantage_return', _gae_peer,
         inside='mask'),
    Case('otb', _otb, 'compute_optimal_token_baseline_advantage', _otb_peer),
    Case('otb, turns', _turn_otb,
         'compute_multi_turn_optimal_token_baseline_advantage',
         _turn_otb_peer),
    Case('masked_whiten', lambda values, mask: {
        'whitened': ops.masked_whiten(values, mask, count_eps=EPS)},
         'masked_whiten', lambda functional, values, mask: {
             'whitened': functional.masked_whiten(values, mask)},
         inside='mask'),
    Case('masked_variance', lambda values, mask: {
        'variance': ops.masked_variance(values, mask, count_eps=EPS)},
         'masked_var', lambda functional, values, mask: {
             'variance': functional.masked_var(values, mask)}),
    _alone('maxrl', ops.divide_by_mean),
    _alone('leave_one_out_standardize', ops.leave_one_out_standardize),
    Case('lambda_returns', lambda rewards, values, mask: {
        'returns': ops.lambda_returns(
            rewards, jnp.full_like(rewards, .99), values, mask, lam=.95)}),
    Case('vtrace', _vtrace),
    Case('vmpo_weights', lambda advantages, mask: dict(zip(
        ('weights', 'loss'), ops.vmpo_weights(advantages, mask, 1., .1)))),
)
