"""Losses on routers against the formulas over all the routers' logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import losses
from policyopt.models import moe, presets
from policyopt.types import PolicyOutput, Rollout

LAYERS, ROWS, TOKENS = 3, 2, 5
CONFIG = presets.preset(
    'nano', width=16, num_experts=6, experts_per_token=2, expert_width=8)
MASK = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]], bool)
# Tokens up to the last chosen one.
COUNTED = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)


def _params(rng):
  e, d, f = CONFIG.num_experts, CONFIG.width, CONFIG.expert_width
  return [{name: jnp.asarray(rng.normal(size=shape), jnp.float32)
           for name, shape in (
               ('router', (d, e)), ('expert_gate', (e, d, f)),
               ('expert_up', (e, d, f)), ('expert_down', (e, f, d)))}
          for _ in range(LAYERS)]


def _policy(params, inputs):
  found = [moe.mlp(CONFIG, p, x, jnp.asarray(COUNTED))[1]
           for p, x in zip(params, inputs)]
  found = jax.tree.map(lambda *x: jnp.stack(x), *found)
  return PolicyOutput(jnp.zeros((ROWS, TOKENS)), router={
      'assigned': found.assigned, 'probs': found.probs,
      'tokens': found.tokens[0], 'z': found.z.mean(0)})


def _logits(params, inputs):
  """Of the counted tokens, [L, N, E]."""
  return np.stack([(np.float64(x) @ np.float64(p['router']))[COUNTED]
                   for p, x in zip(params, inputs)])


def _balance(logits):
  """As transformers' load_balancing_loss_func, over all rows of logits."""
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  chosen = np.argsort(-probs, axis=-1)[:, :CONFIG.experts_per_token]
  one_hot = np.eye(CONFIG.num_experts)[chosen]
  return (one_hot.mean(0) * probs.mean(0)[None]).sum() * CONFIG.num_experts


@pytest.fixture
def case(rng):
  params = _params(rng)
  inputs = [jnp.asarray(rng.normal(size=(ROWS, TOKENS, CONFIG.width)),
                        jnp.float32) for _ in range(LAYERS)]
  weights = jnp.asarray(rng.uniform(size=MASK.shape) * MASK, jnp.float32)
  rollout = Rollout(jnp.zeros(MASK.shape, jnp.int32), jnp.asarray(MASK),
                    jnp.zeros(MASK.shape), jnp.zeros(ROWS, jnp.int32), {})
  return params, inputs, weights, rollout


@pytest.mark.parametrize('per_layer', [False, True])
def test_load_balance_is_that_of_transformers(per_layer, case):
  params, inputs, weights, rollout = case
  loss, metrics = losses.load_balance_loss(0.3, per_layer=per_layer).apply(
      _policy(params, inputs), None, weights, rollout)
  logits = _logits(params, inputs)
  want = (np.mean([_balance(z) for z in logits]) if per_layer
          else _balance(logits.reshape(-1, CONFIG.num_experts)))
  np.testing.assert_allclose(
      loss, 0.3 * want * weights.sum(), rtol=1e-5)
  total, count = metrics['router/load_balance']
  assert count == COUNTED.sum()
  np.testing.assert_allclose(total / count, want, rtol=1e-5)
  assert metrics['router/max_load'][0] >= count  # nothing is more even


def test_z_loss_is_a_sum_over_chosen_tokens(case):
  params, inputs, weights, rollout = case
  loss, metrics = losses.router_z_loss(0.3).apply(
      _policy(params, inputs), None, weights, rollout)
  z = np.zeros(MASK.shape)
  z[COUNTED] = np.mean(
      np.log(np.exp(_logits(params, inputs)).sum(-1)) ** 2, axis=0)
  np.testing.assert_allclose(loss, 0.3 * (z * weights).sum(), rtol=1e-5)
  total, count = metrics['router/z']
  np.testing.assert_allclose(total / count, z[MASK].mean(), rtol=1e-5)


def test_descent_evens_the_load_and_shrinks_the_logits(case):
  params, inputs, weights, rollout = case
  both = losses.add(losses.load_balance_loss(1.), losses.router_z_loss(0.01))

  @jax.jit
  def step(params):
    def loss(params):
      return both.apply(_policy(params, inputs), None, weights, rollout)
    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), metrics

  def read(metrics):
    return [float(np.divide(*metrics[name]))
            for name in ('router/load_balance', 'router/z')]

  _, first = step(params)
  for _ in range(50):
    params, last = step(params)
  assert all(a < b for a, b in zip(read(last), read(first)))
  assert read(last)[0] < CONFIG.experts_per_token * 1.05


def test_nothing_counted_costs_nothing(case):
  params, inputs, weights, rollout = case
  policy = _policy(params, inputs)
  policy = policy._replace(router=jax.tree.map(jnp.zeros_like, policy.router))
  loss, metrics = losses.load_balance_loss(1.).apply(
      policy, None, 0 * weights, rollout)
  assert loss == 0
  assert metrics['router/load_balance'] == (0, 0)


@pytest.mark.parametrize('make', [
    losses.load_balance_loss, losses.router_z_loss])
def test_a_model_without_experts_is_named(make, case):
  *_, weights, rollout = case
  assert make(1.).needs == {'router'}
  with pytest.raises(ValueError, match="'router', which is missing.*experts"):
    make(1.).apply(PolicyOutput(weights), None, weights, rollout)
