"""What rlax computes: returns, V-trace, a surrogate, distributions, V-MPO."""

import jax
import jax.numpy as jnp

from policyopt import ops
from tests.golden_adapters.common import Adapter, array, whole


def _row(inputs, *names):
  return [jnp.asarray(inputs[name])[None] for name in names]


def rlax_gae_lambda_returns(inputs, params):
  rewards, discounts, values = _row(inputs, 'r_t', 'discount_t', 'values')
  lam = array(params['lambda_'])
  returns = ops.lambda_returns(rewards, discounts, values[:, 1:], lam=lam)
  discounted = ops.lambda_returns(rewards, discounts, values[:, 1:])
  traced = ops.vtrace(
      values[:, :-1], rewards, discounts, jnp.ones_like(rewards),
      values[:, 1:], lam=lam)
  return {'gae': traced.errors[0], 'lambda_returns': returns[0],
          'discounted_returns': discounted[0]}, None


def rlax_vtrace(inputs, params):
  now, after, rewards, discounts, ratios = _row(
      inputs, 'v_tm1', 'v_t', 'r_t', 'discount_t', 'rho_tm1')
  traced = ops.vtrace(
      now, rewards, discounts, ratios, after, lam=array(params['lambda_']),
      clip_rho=params['clip_rho_threshold'],
      clip_pg_rho=params['clip_pg_rho_threshold'])
  return {'errors': traced.errors[0], 'pg_advantage': traced.advantages[0],
          'q_estimate': traced.q[0]}, None


def rlax_clipped_surrogate(inputs, params):
  ratio, advantages = inputs['prob_ratios_t'], inputs['adv_t']

  def loss(ratio):
    return -jnp.mean(ops.clipped_objective(
        ratio, advantages, params['epsilon'], params['epsilon']))

  value, gradient = jax.value_and_grad(loss)(ratio)
  return {'loss': value, 'grad_prob_ratios': gradient}, None


def rlax_categorical(inputs, params):
  del params
  p, q, action = inputs['p_logits'], inputs['q_logits'], inputs['a_t']
  own = jnp.arange(len(p)), action.astype(int)
  log_p, log_q = (jax.nn.log_softmax(x)[own] for x in (p, q))
  there = jnp.ones(len(p), bool)
  return {
      'kl': ops.categorical_kl(p, q),
      'entropy_loss': -jnp.mean(inputs['w_t'] * ops.entropy_from_logits(p)),
      'is_ratio': jnp.exp(ops.log_ratio(log_p, log_q, there, limit=None)),
  }, None


def rlax_vmpo_weights(inputs, params):
  advantages = inputs['advantages']
  weights, loss = ops.vmpo_weights(
      advantages, jnp.ones(advantages.shape, bool), params['temperature'],
      params['epsilon'], top_fraction=params['top_k_fraction'])
  return {'weights': weights, 'temperature_loss': loss}, None


ADAPTERS = {name: Adapter(whole(run), raw=True) for name, run in {
    'rlax_categorical': rlax_categorical,
    'rlax_clipped_surrogate': rlax_clipped_surrogate,
    'rlax_gae_lambda_returns': rlax_gae_lambda_returns,
    'rlax_vmpo_weights': rlax_vmpo_weights,
    'rlax_vtrace': rlax_vtrace,
}.items()}
