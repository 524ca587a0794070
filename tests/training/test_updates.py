"""Tests of gradients summed over microbatches, and of skipped updates."""

import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from configs import common
from policyopt import credit, methods
from policyopt.training import loop, policies, setup
from policyopt.training.credit import assign_credit, init_credit
from policyopt.training.errors import NonFiniteError
from policyopt.training.updates import (
  apply_if_finite,
  microbatch,
  summed_gradient,
)
from policyopt.types import PolicyOutput
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')


def table_policy(params, rollout):
  """Logits and values from a table by the token before: no model to compile."""
  before = jnp.pad(rollout.tokens[:, :-1], [(0, 0), (1, 0)])
  log_p = jax.nn.log_softmax(params['logits'][before])
  chosen = rollout.tokens[:, :, None]
  return PolicyOutput(
      log_probs=jnp.take_along_axis(log_p, chosen, axis=-1)[:, :, 0],
      entropy=-(jnp.exp(log_p) * log_p).sum(-1),
      values=params['values'][before])


def test_a_microbatch_is_traced_once():
  """For its shapes and for the loop together: tracing a model takes long."""
  calls = []

  def loss(params, piece):
    calls.append(piece.shape)
    return jnp.sum(params * piece), {}

  jax.jit(lambda *args: summed_gradient(loss, *args, 4)).lower(
      jnp.ones(()), jnp.ones(8))
  assert calls == [(2,)]


@pytest.mark.parametrize('name', [
    'ppo',
    *(pytest.param(name, marks=pytest.mark.slow)
      for name in factory.METHODS if name != 'ppo')])
def test_microbatches_equal_the_whole(name, rng):
  method = factory.method(name)
  shape = (factory.VOCAB, factory.VOCAB)
  params, other = (
      {'logits': jnp.asarray(rng.normal(size=shape), jnp.float32),
       'values': jnp.asarray(rng.normal(size=shape[:1]), jnp.float32)}
      for _ in range(2))
  rollout = factory.rollout()
  sampled = table_policy(params, rollout).log_probs
  rollout = rollout._replace(
      log_probs=jnp.where(rollout.mask, sampled + 0.1 * rollout.log_probs, 0),
      extras={**rollout.extras, 'old_log_probs': sampled + 0.05,
              'ref_log_probs': table_policy(other, rollout).log_probs,
              'values': table_policy(other, rollout).values})
  assigned, _ = assign_credit(method, init_credit(method), rollout)

  def loss(params, piece):
    return method.loss.apply(
        table_policy(params, piece.rollout), piece.advantages, piece.weights,
        piece.rollout)

  whole, *split = jax.jit(lambda *args: [
      summed_gradient(loss, *args, count) for count in (1, 2, 4)])(
          params, assigned)
  assert optax.tree.norm(whole[2]) > 1e-3
  for sums in split:
    factory.close(sums, whole, rtol=1e-6)


def test_microbatch_cuts_rows_of_every_rank():
  tree = {'a': jnp.arange(8), 'b': jnp.arange(16).reshape(8, 2),
          'c': jnp.zeros((8, 3, 2))}
  shapes = jax.tree.map(lambda x: x.shape, microbatch(tree, 4))
  assert shapes == {'a': (4, 2), 'b': (4, 2, 2), 'c': (4, 2, 3, 2)}


def test_microbatch_on_a_mesh_spreads_each_piece():
  mesh = factory.mesh(2, 2, 1, 1)
  tree = {'a': jnp.arange(8), 'b': jnp.arange(16).reshape(8, 2),
          'c': jnp.zeros((8, 3, 2))}
  with jax.set_mesh(mesh):
    pieces = jax.jit(lambda x: microbatch(x, 2))(tree)
  for name, piece in pieces.items():
    np.testing.assert_array_equal(
        piece.reshape(tree[name].shape), tree[name])
    assert piece.addressable_shards[0].data.shape[:2] == (2, 1)


PARAMS = {'w': np.array([1., 2.], np.float32)}


@pytest.mark.parametrize('loss, gradient, ok', [
    (0.5, [1., 1.], True), (np.nan, [1., 1.], False),
    (np.inf, [1., 1.], False), (0.5, [np.nan, 1.], False),
    (0.5, [1., -np.inf], False)])
def test_what_is_not_finite_changes_nothing(loss, gradient, ok):
  optimizer = optax.adam(0.1)
  opt_state = optimizer.init(PARAMS)
  gradient = {'w': jnp.asarray(gradient, jnp.float32)}
  params, new_opt_state, applied, metrics = jax.jit(
      lambda *args: apply_if_finite(optimizer, *args))(
          jnp.float32(loss), gradient, PARAMS, opt_state)
  assert bool(applied) == ok
  assert metrics['skipped_updates'] == (not ok, 1)
  same = jax.tree.map(
      lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()),
      (params, new_opt_state), (PARAMS, opt_state))
  assert all(jax.tree.leaves(same)) == (not ok)
  assert optax.tree.get(new_opt_state, 'count') == ok


def test_the_metrics_are_those_of_the_gradient():
  optimizer = optax.sgd(1.)
  params, _, _, metrics = apply_if_finite(
      optimizer, jnp.float32(2.), {'w': jnp.array([3., 4.])}, PARAMS,
      optimizer.init(PARAMS))
  assert params['w'].tolist() == [-2., -2.]
  assert metrics['loss'] == (2., 1.) and metrics['grad_norm'] == (5., 1.)


def breaking(method, step):
  """The method with advantages that are not finite from some step on."""
  scale = lambda by: credit.stateless(lambda x, rollout: x * by)
  broken = credit.scheduled(
      scale, by=lambda count: jnp.where(count < step, 1., jnp.nan))
  return method._replace(advantages=credit.chain(method.advantages, broken))


@pytest.mark.slow
def test_a_run_that_has_gone_astray_stops(tmp_path):
  config = common.base('quick')
  config.task, config.task_kw = 'arithmetic', ConfigDict()
  config.update(steps=20, max_skipped=3, checkpoint_every=50)
  config.warm_start.steps = 1
  config.evaluation.update(problems=8, samples=4)
  config.model.kw = dict(num_layers=1, width=32, head_dim=8, mlp_width=32)
  # The bonus moves the policy where no reward does.
  method = breaking(methods.grpo(entropy_coef=0.01), step=2)
  with pytest.raises(NonFiniteError) as error:
    loop.train(config, method, str(tmp_path))
  # Two good steps, three bad ones, and one until the third is looked at.
  assert str(error.value).startswith(
      '3 updates in a row were skipped because the loss or gradient was not '
      'finite (max_skipped = 3); stopped after step 6 with a checkpoint in '
      f'{tmp_path / "checkpoints"}. Lower optimizer.learning_rate')
  assert '\n' not in str(error.value)
  parts = setup.prepare(config, method)
  with jax.set_mesh(parts.mesh):
    params, step = policies.restore_params(parts, str(tmp_path))
    start, _ = policies.restore_params(parts, str(tmp_path), 0)
  assert step == 6
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  assert (params['embedding'] != start['embedding']).any()
  rows = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  skipped = [json.loads(row)['skipped_in_a_row'] for row in rows]
  assert skipped == [0, 0, 1, 2, 3, 4]
  assert not (tmp_path / 'result.json').exists()
