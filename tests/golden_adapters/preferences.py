"""Losses of pairs: TRL's DPO, KTO, CPO and ORPO, OpenRLHF's DPO and rewards."""

import jax
import jax.numpy as jnp
import numpy as np

from policyopt import ops
from tests.golden_adapters.common import Adapter, array, compiled


def _mean_and_gradients(losses, count, *logps):
  """The losses, their mean over `count` and its gradients by each argument."""
  def mean(*args):
    per_pair = losses(*args)
    return jnp.sum(per_pair) / count, per_pair

  (value, per_pair), gradients = jax.value_and_grad(
      mean, argnums=tuple(range(len(logps))), has_aux=True)(
          *(jnp.asarray(x) for x in logps))
  return value, per_pair, gradients


def _pairs(inputs, params):
  """Which entries are the case's own; padding is the rest."""
  return np.arange(len(next(iter(inputs.values())))) < params['width']


def _single_precision_logarithms(margin, params):
  """What it does to exo_pair that log ε and log(1 − ε) are float32 there."""
  x, eps = params['beta'] * margin, params['label_smoothing']
  single = float(np.float32(eps))
  return (
      jax.nn.sigmoid(x) * (np.log1p(-eps) - np.float32(np.log1p(-single)))
      + jax.nn.sigmoid(-x) * (np.log(eps) - np.float32(np.log(single))))


def _dpo(kind, average=False, smoothed=False, adjust=None):
  """TRL's losses; most of its kinds ignore the label smoothing."""
  def run(inputs, params):
    where = _pairs(inputs, params)
    lengths = (inputs['chosen_lengths'], inputs['rejected_lengths'])

    def losses(chosen, rejected):
      refs = inputs['ref_chosen_logps'], inputs['ref_rejected_logps']
      per_pair = ops.dpo_pair_losses(
          chosen, rejected, *refs, kind=kind, beta=params['beta'],
          label_smoothing=params['label_smoothing'] if smoothed else 0.,
          tau=params.get('discopop_tau', .05),
          lengths=lengths if average else None, where=where)
      if adjust is not None:
        margin = chosen - rejected - refs[0] + refs[1]
        per_pair += ops.fill(adjust(margin, params), where)
      return per_pair

    loss, per_pair, (chosen, rejected) = _mean_and_gradients(
        losses, params['width'], inputs['chosen_logps'],
        inputs['rejected_logps'])
    return {'loss': loss, 'per_sequence_loss': per_pair,
            'grad_chosen_logps': chosen, 'grad_rejected_logps': rejected}, None

  return run


_DIVERGENCES = {'js_divergence': 'js', 'alpha_divergence': 'alpha'}


def dpo_f_divergence(inputs, params):
  where, single = _pairs(inputs, params), params['dtype'] == 'torch.float32'
  dtype = np.float32 if single else np.float64
  inputs = {k: x.astype(dtype) for k, x in inputs.items()}
  name, kind = params['f_divergence'], params['loss_type']
  smoothed = kind in ('exo_pair', 'robust')

  def losses(chosen, rejected):
    return ops.dpo_pair_losses(
        chosen, rejected, inputs['ref_chosen_logps'],
        inputs['ref_rejected_logps'], kind=kind, beta=params['beta'],
        label_smoothing=params['label_smoothing'] if smoothed else 0.,
        divergence=_DIVERGENCES.get(name, name),
        alpha=params['alpha'],
        # Theirs stops at 80 for alpha, and nowhere else.
        exponent_limit=80. if single else 700., where=where)

  loss, per_pair, (chosen, rejected) = _mean_and_gradients(
      losses, params['width'], inputs['chosen_logps'],
      inputs['rejected_logps'])
  return {'loss': loss, 'per_sequence_loss': per_pair,
          'grad_chosen_logps': chosen, 'grad_rejected_logps': rejected}, None


def _f_tolerance(case):
  # Where their clamp is float32 only, the whole case is; an exponential and a
  # difference magnify its rounding.
  return 1e-4 if case['params']['dtype'] == 'torch.float32' else 1e-9


def cdpo_openrlhf(inputs, params):
  where = _pairs(inputs, params)
  ipo, beta = params['ipo'], params['beta']

  def losses(chosen, rejected):
    return ops.dpo_pair_losses(
        chosen, rejected, inputs['ref_chosen_logps'],
        inputs['ref_rejected_logps'], kind='ipo' if ipo else 'sigmoid',
        beta=beta, label_smoothing=0. if ipo else params['label_smoothing'],
        where=where)

  chosen, rejected = (
      inputs['policy_chosen_logps'], inputs['policy_rejected_logps'])
  loss, _, gradients = _mean_and_gradients(
      losses, params['width'], chosen, rejected)
  return {
      'loss': loss, 'grad_chosen': gradients[0], 'grad_rejected': gradients[1],
      'chosen_rewards': beta * ops.divergence_score(
          chosen - inputs['ref_chosen_logps']),
      'rejected_rewards': beta * ops.divergence_score(
          rejected - inputs['ref_rejected_logps'])}, None


def _cpo(kind):
  smoothed = kind in ('sigmoid', 'simpo')

  def run(inputs, params):
    where = _pairs(inputs, params)

    def losses(chosen, rejected):
      return ops.cpo_pair_losses(
          chosen, rejected, kind=kind, beta=params['beta'],
          label_smoothing=params['label_smoothing'] if smoothed else 0.,
          margin=params['simpo_gamma'], alpha=params['alpha'], where=where,
          exponent_limit=700.)

    _, per_pair, (chosen, rejected) = _mean_and_gradients(
        losses, params['width'], inputs['chosen_logps'],
        inputs['rejected_logps'])
    return {'losses': per_pair, 'grad_chosen_logps': chosen,
            'grad_rejected_logps': rejected}, None

  return run


def orpo(inputs, params):
  where, beta = _pairs(inputs, params), params['beta']
  chosen, rejected = inputs['chosen_avg_logps'], inputs['rejected_avg_logps']
  loss, per_pair, gradients = _mean_and_gradients(
      lambda c, r: beta * ops.odds_ratio_losses(c, r, where=where),
      params['width'], chosen, rejected)
  gap = ops.log_odds(chosen) - ops.log_odds(rejected)
  return {'or_loss': loss, 'beta_logsigmoid_log_odds': -per_pair,
          'mean_log_odds': ops.masked_mean(gap, where),
          'grad_chosen': gradients[0], 'grad_rejected': gradients[1]}, None


def _kto(inputs, params):
  place = jnp.arange(len(inputs['logps']))
  return _mean_and_gradients(
      lambda logps: ops.kto_row_losses(
          logps - inputs['ref'], place < inputs['desirable'], inputs['kl'],
          kind=params['loss_type'], beta=params['beta'],
          desirable_weight=params['desirable_weight'],
          undesirable_weight=params['undesirable_weight'],
          where=place < params['width']), params['width'], inputs['logps'])


def kto(case):
  """Desirable rows come first; either side may be empty."""
  inputs, params = case['inputs'], case['params']
  sizes = [len(inputs[f'{side}_logps']) for side in ('chosen', 'rejected')]
  count = sum(sizes)
  size = -(-count // 32) * 32

  def rows(prefix):
    both = [array(inputs[f'{prefix}{side}_logps'])
            for side in ('chosen', 'rejected')]
    return np.pad(np.concatenate(both), (0, size - count))

  loss, per_row, (gradient,) = compiled(_kto)(
      {'logps': rows(''), 'ref': rows('ref_'), 'desirable': sizes[0],
       'kl': array(inputs['kl'])}, params | {'width': count})
  outputs = {'loss': loss, 'losses': per_row}
  # An empty side has no gradient there.
  if sizes[0]:
    outputs['grad_chosen_logps'] = gradient
  if sizes[1]:
    outputs['grad_rejected_logps'] = gradient[sizes[0]:]
  return outputs, None


def reward_model_pairwise(inputs, params):
  where, count = _pairs(inputs, params), params['width']
  rewards = inputs['chosen_reward'], inputs['reject_reward']

  def losses(chosen, rejected, margin=0.):
    return ops.fill(
        ops.bradley_terry_losses(chosen, rejected, margin), where)

  plain, _, gradients = _mean_and_gradients(losses, count, *rewards)
  with_margin = jnp.sum(losses(*rewards, inputs['margin'])) / count
  return {'pairwise': plain, 'logexp': plain, 'pairwise_margin': with_margin,
          'grad_chosen': gradients[0]}, None


ADAPTERS = {
    'cdpo_openrlhf': Adapter(cdpo_openrlhf),
    'cpo_hinge': Adapter(_cpo('hinge')),
    'cpo_ipo': Adapter(_cpo('ipo')),
    'cpo_sigmoid': Adapter(_cpo('sigmoid')),
    'cpo_simpo': Adapter(_cpo('simpo')),
    'dpo_aot': Adapter(_dpo('aot', smoothed=True)),
    'dpo_aot_unpaired': Adapter(_dpo('aot_unpaired', smoothed=True)),
    'dpo_apo_down': Adapter(_dpo('apo_down')),
    'dpo_apo_zero': Adapter(_dpo('apo_zero')),
    'dpo_bco_pair': Adapter(_dpo('bco_pair')),
    'dpo_discopop': Adapter(_dpo('discopop')),
    # Their float32 logarithms may also be wrong in the last digit.
    'dpo_exo_pair': Adapter(
        _dpo('exo_pair', smoothed=True, adjust=_single_precision_logarithms),
        tolerance=1e-6),
    'dpo_f_divergence': Adapter(
        dpo_f_divergence, tolerance=_f_tolerance),
    'dpo_hinge': Adapter(_dpo('hinge')),
    'dpo_ipo': Adapter(_dpo('ipo', average=True)),
    'dpo_nca_pair': Adapter(_dpo('nca_pair')),
    'dpo_robust': Adapter(_dpo('robust', smoothed=True)),
    'dpo_sigmoid': Adapter(_dpo('sigmoid')),
    'dpo_sigmoid_norm': Adapter(_dpo('sigmoid', average=True)),
    'dpo_sppo_hard': Adapter(_dpo('sppo_hard')),
    'kto': Adapter(kto, raw=True),
    # All of it is float32 there.
    'orpo': Adapter(orpo, tolerance=1e-5),
    'reward_model_pairwise': Adapter(reward_model_pairwise),
}
