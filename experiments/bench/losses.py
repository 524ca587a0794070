"""Cases of losses: surrogates, divergences, means, values, pairs."""

from __future__ import annotations

import jax.numpy as jnp

from experiments.bench import torch_kernels
from experiments.bench.advantages import EPS
from experiments.bench.cases import Case, apply, rollout
from policyopt import losses, ops

# verl's aggregation modes as weights.
MEANS = {
    'token-mean': lambda mask: ops.token_mean(mask, mask),
    'seq-mean-token-sum': lambda mask: ops.sequence_sum(mask, mask),
    'seq-mean-token-mean': lambda mask: ops.sequence_mean(
        mask, mask, count_eps=EPS),
    'seq-mean-token-sum-norm': lambda mask: ops.constant_length(
        mask, mask, mask.shape[1]),
}


def _surrogate(name, loss, mode, kind, policy_loss=None, **fields):
  """A policy loss of verl's registry."""
  def ours(log_probs, old, advantages, mask):
    return apply(loss, log_probs, advantages, MEANS[mode](mask),
                 rollout(mask, old))

  def peer(verl, config, log_probs, old, advantages, mask):
    settings = torch_kernels.actor(config, policy_loss, **fields)
    return {'loss': verl.POLICY_LOSS_REGISTRY[kind](
        old, log_probs, advantages, mask, mode, settings)[0]}

  return Case(name, ours, f"policy loss '{kind}'", peer, by='log_probs')


def _gmpo(log_probs, old, row_advantages, mask):
  weights = ops.sequence_mean(mask, mask, rows=mask.shape[0], count_eps=EPS)
  return apply(losses.gmpo_surrogate(count_eps=EPS), log_probs, row_advantages,
               weights, rollout(mask, old))


def _gmpo_peer(verl, config, log_probs, old, row_advantages, mask):
  settings = torch_kernels.actor(config, clip_ratio_low=.4, clip_ratio_high=.4)
  return {'loss': verl.compute_policy_loss_geo_mean(
      old, log_probs, row_advantages, mask, config=settings)[0]}


def _covariance(candidates, limit):
  """Clip-Cov with bounds so high that all candidates are taken.

  Which of them are is random; fewer than may be taken are the same for both.
  """
  def ours(log_probs, old, advantages, mask):
    covariance = ops.token_covariance(
        advantages, log_probs, mask, count_eps=EPS)
    ratio = jnp.exp(ops.log_ratio(log_probs, old, mask))
    open_ = mask & (covariance > limit) & (covariance < 1e9)
    open_ &= ~ops.clipped_away(ratio, advantages, .2, .2)
    place = jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape)
    gone = ops.first_tokens(
        open_, place, ops.fraction_of_tokens(mask, candidates))
    return apply(
        losses.without_tokens_surrogate('gone'), log_probs, advantages,
        MEANS['token-mean'](mask), rollout(mask, old, gone=gone))

  def peer(verl, config, log_probs, old, advantages, mask):
    settings = torch_kernels.actor(config, dict(
        clip_cov_ratio=candidates, clip_cov_lb=limit, clip_cov_ub=1e9))
    return {'loss': verl.compute_policy_loss_clip_cov(
        old, log_probs, advantages, mask, config=settings)[0]}

  return Case('clip_cov', ours, "policy loss 'clip_cov'", peer, by='log_probs')


def _kl_cov(log_probs, old, advantages, mask):
  covariance = ops.token_covariance(advantages, log_probs, mask)
  charge = ops.first_tokens(
      mask, -covariance, ops.fraction_of_tokens(mask, 2e-4))
  return apply(
      losses.kl_on_tokens_surrogate('charge', .1), log_probs, advantages,
      MEANS['token-mean'](mask), rollout(mask, old, charge=charge))


def _kl_cov_peer(verl, config, log_probs, old, advantages, mask):
  return {'loss': verl.compute_policy_loss_kl_cov(
      old, log_probs, advantages, mask, config=torch_kernels.actor(config))[0]}


def _reinforce(log_probs, sampled, weights, advantages, mask):
  means = MEANS['seq-mean-token-sum'](mask)
  return apply(losses.policy_gradient_loss(), log_probs, advantages,
               weights * means, rollout(mask, sampled))


def _reinforce_peer(verl, config, log_probs, sampled, weights, advantages,
                    mask):
  return {'loss': verl.compute_policy_loss_reinforce(
      sampled, log_probs, advantages, mask, config=torch_kernels.actor(config),
      rollout_is_weights=weights)[0]}


def _trl(name, loss, mean, level='token'):
  """A loss type of TRL's GRPOTrainer."""
  def ours(log_probs, old, row_advantages, mask):
    return apply(loss, log_probs, row_advantages, mean(mask),
                 rollout(mask, old))

  return Case(name, ours, f"TRL loss_type '{name}'",
              torch_kernels.trl_loss(name, level), by='log_probs')


def _kl(kind, gradient=None):
  name = kind + ('+' if gradient else '')

  def ours(log_probs, ref):
    return {'loss': ops.kl_estimate(
        log_probs, ref, value=kind, gradient=gradient, k3_output_limit=10.)}

  return Case(f'kl {name}', ours, f"kl_penalty '{name}'",
              lambda verl, log_probs, ref: {
                  'loss': verl.kl_penalty(log_probs, ref, name)},
              by='log_probs')


def _mean(mode):
  return Case(
      f'mean {mode}', lambda values, mask: {
          'loss': jnp.sum(MEANS[mode](mask) * ops.fill(values, mask))},
      'agg_loss', lambda verl, values, mask: {
          'loss': verl.agg_loss(values, mask, mode)}, by='values')


def _value(new_values, values, returns, mask):
  errors, clipped = losses.squared_value_errors(
      new_values, values, returns, clip=.2)
  weights = MEANS['token-mean'](mask)
  return {'loss': jnp.sum(weights * errors),
          'clipped': ops.masked_mean(clipped, mask, count_eps=EPS)}


def _value_peer(verl, new_values, values, returns, mask):
  loss, clipped = verl.compute_value_loss(
      new_values, returns, values, mask, .2)
  return {'loss': loss, 'clipped': clipped}


def _cpo(kind):
  def ours(chosen, rejected):
    return {'loss': ops.cpo_pair_losses(
        chosen, rejected, kind=kind, margin=.5)}

  def peer(cpo, chosen, rejected):
    trainer = torch_kernels.stand_in(
        alpha=0., beta=.1, simpo_gamma=.5, label_smoothing=0., loss_type=kind)
    losses_, *_ = cpo.CPOTrainer.cpo_loss(trainer, chosen, rejected)
    return {'loss': losses_}

  return Case(f'cpo {kind}', ours, 'TRL CPOTrainer.cpo_loss', peer,
              by='chosen', scaled=kind == 'sigmoid')


def _orpo_peer(orpo, chosen_mean, rejected_mean):
  # Their sign is turned later on, by the caller.
  ratio, *_ = orpo.ORPOTrainer.odds_ratio_loss(
      torch_kernels.stand_in(beta=.1), chosen_mean, rejected_mean)
  return {'loss': -ratio}


def _dpo(kind):
  def ours(chosen, rejected, ref_chosen, ref_rejected, lengths):
    return {'loss': ops.dpo_pair_losses(
        chosen, rejected, ref_chosen, ref_rejected, kind=kind,
        label_smoothing=.1 if kind in ('robust', 'exo_pair') else 0.,
        lengths=(lengths, lengths) if kind == 'ipo' else None)}

  # The others grow as the first one does; these sort.
  return Case(f'dpo {kind}', ours, by='chosen', forward=False,
              scaled=kind in ('sigmoid', 'aot', 'aot_unpaired'))


def _kto(chosen, ref_chosen, correct):
  return {'loss': ops.kto_row_losses(
      chosen - ref_chosen, correct > 0, jnp.float32(.1))}


def _critic(new_values, log_probs, values, rewards, advantages, mask):
  sampled = rollout(mask, values=values, token_rewards=rewards)
  return apply(losses.value_loss(clip=.2, gamma=.99, lam=.95), log_probs,
               advantages, MEANS['token-mean'](mask), sampled,
               values=new_values)


def _topr(log_probs, old, advantages, mask):
  return apply(losses.tapered_loss(), log_probs, advantages,
               MEANS['token-mean'](mask), rollout(mask, old))


def _penalty(log_probs, old, ref, advantages, mask):
  return apply(losses.kl_penalty(.1, gradient='k2', ratio_weighted=True),
               log_probs, advantages, MEANS['token-mean'](mask),
               rollout(mask, old, ref_log_probs=ref))


def _bonus(entropy, log_probs, old, advantages, mask):
  return apply(losses.entropy_bonus(.01), log_probs, advantages,
               MEANS['token-mean'](mask), rollout(mask, old), entropy=entropy)


def _log_probs(name, theirs):

  def ours(logits, token):
    return {'loss': ops.log_probs_from_logits(logits, token)}

  def verl(functional, logits, token):
    return {'loss': functional.logprobs_from_logits(logits, token.long())}

  def trl(trl_utils, logits, token):
    return {'loss': trl_utils.selective_log_softmax(logits, token.long())}

  peer = trl if theirs.startswith('TRL') else verl
  return Case(name, ours, theirs, peer, by='logits')


def _reward_model(new_values, log_probs, row_advantages, mask, ids):
  return apply(losses.pairwise_reward_loss(), log_probs, row_advantages,
               MEANS['seq-mean-token-sum'](mask), rollout(mask, group=ids),
               values=new_values)


CASES = (
    _surrogate('ppo clip', losses.clipped_surrogate(dual_clip=3.),
               'token-mean', 'vanilla'),
    # No row comes near this clip: a row at its edge is thousands of tokens.
    _surrogate('gspo', losses.clipped_surrogate(
        .2, .28, level='sequence', gradient='token',
        log_ratio_limit=(None, 10.)), 'seq-mean-token-mean', 'gspo',
               clip_ratio_low=.2, clip_ratio_high=.28),
    _surrogate('cispo', losses.cispo_surrogate(.2, .2), 'token-mean', 'cispo'),
    _surrogate('sapo', losses.sapo_surrogate(), 'seq-mean-token-mean', 'sapo'),
    _surrogate('gpg loss', losses.policy_gradient_loss(), 'token-mean', 'gpg'),
    _surrogate('dppo tv', losses.dppo_surrogate(.15, .15, ratio_cap=3.),
               'token-mean', 'dppo_tv', clip_ratio_low=.15,
               clip_ratio_high=.15),
    _surrogate('dppo kl', losses.dppo_surrogate(
        .05, .05, divergence='kl', ratio_cap=3.), 'token-mean', 'dppo_kl',
               clip_ratio_low=.05, clip_ratio_high=.05),
    _surrogate('dro', losses.dro_loss(.1), 'token-mean', 'dro',
               dict(dro_beta=.1)),
    Case('gmpo', _gmpo, "policy loss 'geo_mean'", _gmpo_peer, by='log_probs'),
    _covariance(2e-4, 6.),
    Case('kl_cov', _kl_cov, "policy loss 'kl_cov'", _kl_cov_peer,
         by='log_probs'),
    Case('reinforce', _reinforce, 'compute_policy_loss_reinforce',
         _reinforce_peer, by='log_probs'),
    _trl('dapo', losses.clipped_surrogate(), MEANS['token-mean']),
    _trl('luspo', losses.clipped_surrogate(level='sequence'),
         MEANS['seq-mean-token-sum'], 'sequence'),
    _trl('vespo', losses.vespo_surrogate(), MEANS['token-mean']),
    *(_kl(kind) for kind in ('k1', 'k2', 'k3', 'abs')),
    _kl('k3', 'k2'),
    *(_mean(mode) for mode in MEANS),
    Case('mean prompt', lambda values, mask, ids: {'loss': jnp.sum(
        ops.prompt_mean(mask, mask, ids) * ops.fill(values, mask))},
         by='values'),
    Case('topr', _topr, by='log_probs'),
    Case('kl_penalty', _penalty, by='log_probs'),
    Case('entropy_bonus', _bonus, by='entropy'),
    Case('critic', _critic, by='new_values'),
    Case('value loss', _value, 'compute_value_loss', _value_peer,
         by='new_values'),
    Case('entropy', lambda logits: {'loss': ops.entropy_from_logits(logits)},
         'entropy_from_logits', lambda functional, logits: {
             'loss': functional.entropy_from_logits(logits)}, by='logits'),
    *(_log_probs(name, theirs) for name, theirs in (
        ('log-probs', 'logprobs_from_logits'),
        ('log-probs, TRL', 'TRL selective_log_softmax'))),
    *(_cpo(kind) for kind in ops.CPO_KINDS),
    Case('orpo', lambda chosen_mean, rejected_mean: {
        'loss': .1 * ops.odds_ratio_losses(chosen_mean, rejected_mean)},
         'TRL ORPOTrainer.odds_ratio_loss', _orpo_peer, by='chosen_mean'),
    *(_dpo(kind) for kind in ops.DPO_KINDS),
    Case('kto', _kto, by='chosen', forward=False),
    Case('reward model', _reward_model, by='new_values'),
    Case('bradley_terry', lambda chosen, rejected: {
        'loss': ops.bradley_terry_losses(chosen, rejected)}, by='chosen',
         forward=False),
    Case('categorical_kl', lambda logits, values: {
        'loss': ops.categorical_kl(logits, values)}, by='logits'),
)
