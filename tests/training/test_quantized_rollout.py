"""Rows drawn by a rounded policy: in sync, refused, warned of, corrected."""

import functools
import itertools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, methods
from policyopt.models import partitioning, quantized, scoring, transformer
from policyopt.models.config import ModelConfig
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.training import (
    loop,
    one_program,
    policies,
    serving,
    setup,
    steps,
    sync,
)
from policyopt.training.errors import SyncError
from policyopt.types import Prompts, Rollout
from tests.training import factory
from tests.training.test_serving import make_config
from tests.training.test_setup import assert_refused

pytestmark = pytest.mark.usefixtures('quick_compiles')
P = jax.sharding.PartitionSpec
CORRECTED = {'method_kw.old': 'old_log_probs', 'method_kw.importance': 'token'}
INT8 = {'rollout.weights': 'int8', 'rollout.cache': 'int8', **CORRECTED}


def prepared(changes):
  config = make_config(changes)
  parts = setup.prepare(config, methods.from_config(config))
  parts.close()
  return parts


# --- what is asked for -------------------------------------------------------


@pytest.mark.parametrize('changes, message', [
    ({'rollout.weights': 'int4'}, "unknown rollout.weights 'int4': did you "
     "mean 'int8'?"),
    ({'rollout.weights': 'bfloat16'}, "unknown rollout.weights 'bfloat16'"),
    ({'rollout.cache': 'float8'}, "unknown rollout.cache 'float8': did you "
     "mean 'bfloat16' or 'float8_e4m3fn'?"),
    ({'rollout.weights': 'int8', 'rollout.mesh.tensor': 3},
     'rollout.mesh: mesh shape (-1, 1, 3, 1) does not fit 8 devices')])
def test_a_wrong_dtype_is_said_at_once(changes, message):
  assert_refused(make_config(changes), message)


def test_one_program_has_no_rounded_sampler():
  for key in 'weights', 'cache':
    config = make_config({f'rollout.{key}': 'int8', **CORRECTED})
    with pytest.raises(ValueError, match='rollout is .* so all of it must be'):
      one_program.make_train(config, methods.from_config(config))


def test_a_method_that_corrects_nothing_is_warned_of_once():
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    prepared({'rollout.weights': 'int8', 'rollout.cache': 'bfloat16'})
  (line,) = [str(one.message) for one in caught]
  assert line.startswith(
      "rollout.weights = 'int8' and rollout.cache = 'bfloat16': a rounded "
      "policy draws the rows, and no weights of method 'grpo' correct for it")
  assert "method_kw.importance = 'token'" in line and '\n' not in line
  # Nothing to say: corrected, or not rounded (here a warning is an error).
  prepared(INT8)
  prepared({'rollout.dtype': 'bfloat16'})


def test_only_weights_take_a_copy():
  parts = prepared({'rollout.cache': 'int8', **CORRECTED})
  assert parts.serving.rounds and not parts.serving.copied
  assert parts.serving.model(parts.model).cache_dtype == 'int8'
  assert parts.model.cache_dtype is None
  assert not prepared({}).serving.rounds


# --- the copy and its check --------------------------------------------------


@pytest.fixture(scope='module')
def copied(quick_compiles):
  """(parts, parameters, their copy on a mesh of its own)."""
  parts = prepared(INT8 | {'rollout.mesh.tensor': 4})
  params = jax.device_put(
      factory.parameters(0, parts.model),
      partitioning.param_shardings(parts.model, parts.mesh))
  return parts, params, serving.Serving(parts.model, parts.serving)(params)


def test_the_copy_is_narrow_and_has_the_bits_of_one_device(copied):
  parts, params, copy = copied
  alone = quantized.quantize_params(
      jax.device_put(params, jax.devices()[0]), 'int8')
  for mine, other in zip(
      jax.tree.leaves(copy), jax.tree.leaves(alone), strict=True):
    np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
  up = copy['layers']['up']
  assert up.values.dtype == jnp.int8
  assert up.values.sharding.spec == P(None, None, 'tensor')
  assert up.scale.sharding.spec == P(None, None, 'tensor')
  shapes = serving.abstract_copy(parts.model, parts.serving)
  jax.tree.map(lambda x, y: np.testing.assert_equal(
      (x.shape, x.dtype, x.sharding), (y.shape, y.dtype, y.sharding)),
      shapes, copy)


@pytest.mark.slow
def test_a_mesh_draws_the_rows_of_one_device(copied):
  parts, params, copy = copied
  prompts = Prompts(np.arange(24, dtype=np.int32).reshape(8, 3),
                    np.full(8, 3, np.int32))
  ids = np.arange(32)
  with jax.set_mesh(parts.mesh):
    drawn = steps.make_draw(parts)(copy, 4).apply(
        prompts, ids, jax.random.key(1), np.zeros(32, np.int32))
  alone = jax.jit(sample, static_argnames=('config', 'sampler', 'samples'))(
      parts.serving.model(parts.model), parts.sampler,
      jax.device_put(copy, jax.devices()[0]), prompts, jax.random.key(1),
      samples=4, row_ids=ids)
  np.testing.assert_array_equal(drawn.tokens, alone.tokens)
  # A sum in another order may send a key to the next of the 255 numbers.
  np.testing.assert_allclose(drawn.log_probs, alone.log_probs, atol=5e-3)


def test_the_copy_is_in_sync_and_a_stale_one_is_not(copied):
  parts, params, copy = copied
  check = sync.make_sync(parts.model, None, parts.serving)
  before = check.probe(copy)
  metrics, now = check.compare(params, copy, before)
  assert metrics['sync/checksum'][0] == 1
  assert 1e-4 < metrics['sync/probe_gap'][0] < .3
  np.testing.assert_array_equal(before, now)
  check.verify(0, metrics)
  # All but one of the values stay; the scale does not.
  moved = {**params, 'layers': {
      **params['layers'], 'up': params['layers']['up'] * 1.001}}
  metrics, _ = check.compare(moved, copy, before)
  with pytest.raises(SyncError, match='the checksum of its parameters is not'):
    check.verify(3, metrics)


@pytest.mark.parametrize('weights, cache, expected', [
    (None, 'bfloat16', .5), ('int8', None, 1.), (None, 'int8', 1.),
    ('int8', 'float8_e4m3fn', 2.)])
def test_what_rounding_may_do(weights, cache, expected):
  where = serving.Layout(
      factory.mesh(), None, weights is not None, None, weights, cache)
  check = sync.make_sync(factory.MODEL, None, where)
  metrics = {'sync/checksum': (1., 1.), 'sync/probe_gap': (expected, 1.)}
  check.verify(0, metrics)
  metrics['sync/probe_gap'] = (expected * 1.01, 1.)
  with pytest.raises(SyncError):
    check.verify(0, metrics)


# --- learning from it --------------------------------------------------------


def train(workdir, changes):
  config = make_config(INT8 | changes)
  loop.train(config, methods.from_config(config), str(workdir))
  parts = prepared(INT8)
  params, _ = policies.restore_params(parts, str(workdir))
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return jax.device_get(params), [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_run_learns_reports_its_gap_and_resumes(tmp_path):
  whole, rows = train(tmp_path / 'whole', {'steps': 4})
  for row in rows:
    assert row['sync/checksum'] == 1. and row['sync/probe_gap'] < 1.
    assert 1e-4 < row['log_prob_gap'] < .2
    assert .8 < row['importance/weight'] < 1.2
    assert .5 < row['importance/ess'] <= 1.
  assert sum(row['grad_norm'] > 0 for row in rows) >= 3
  assert np.mean([row['sync/probe_moved'] for row in rows]) > 0
  for count in 2, 4:
    params, _ = train(tmp_path / 'parts', {'steps': count})
  jax.tree.map(np.testing.assert_array_equal, params, whole)


TINY = ModelConfig(
    vocab_size=6, width=16, num_layers=2, num_heads=2, num_kv_heads=1,
    head_dim=8, mlp_width=24, max_length=8, tied_embeddings=False)
ROWS = 2**16


@pytest.mark.slow
def test_weighted_rows_of_a_rounded_policy_give_the_exact_gradient():
  """On all 36 responses: Σ π R ∇log π against means over sampled rows."""
  params = transformer.init(TINY, jax.random.key(4))
  # With decided opinions, which rounding changes by up to a factor of 3.
  params = {name: 15 * x if name == 'head' else jax.tree.map(
      lambda x: 3 * x, x) for name, x in params.items()}
  rounded = jax.jit(functools.partial(
      quantized.quantize_params, kind='float8_e4m3fn'))(params)
  prompt = (1, 4)
  every = jnp.asarray([
      (*prompt, *rest) for rest in itertools.product(range(6), repeat=2)])
  rewards = jnp.asarray(np.random.default_rng(0).choice((-1., 1.), 36))

  def log_probs(params):
    return scoring.score(TINY, params, every).log_probs[:, 2:]

  flat, unravel = jax.flatten_util.ravel_pytree(params)
  learner, drawn = jax.jit(log_probs)(params), jax.jit(log_probs)(rounded)
  gradients = rewards[:, None] * jax.jit(jax.jacrev(
      lambda x: log_probs(unravel(x)).sum(axis=1)))(flat)
  policy, other = (np.exp(np.asarray(x.sum(axis=1), np.float64))
                   for x in (learner, drawn))
  # Along the parameters by which rows that are not weighted are most wrong.
  along, *_ = np.linalg.lstsq(
      np.asarray(gradients, np.float64), 1 - policy / other, rcond=1e-3)
  slope = gradients @ along
  exact = float(policy @ slope)

  out = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')(
      TINY.replace(cache_dtype='int8'), SamplerConfig(max_tokens=2, pad_id=0),
      rounded, Prompts(jnp.array([prompt]), jnp.array([2])),
      jax.random.key(5), samples=ROWS, row_ids=jnp.arange(ROWS))
  index = out.tokens[:, 2] * 6 + out.tokens[:, 3]
  rollout = Rollout(
      tokens=out.tokens, mask=out.mask, log_probs=out.log_probs,
      group=jnp.zeros(ROWS, jnp.int32), rewards={}, extras={
          'old_log_probs': jnp.pad(learner[index], ((0, 0), (2, 0)))})

  def estimate(transform):
    weights, _ = transform.update(out.mask.astype(jnp.float32), (), rollout)
    found = np.asarray(weights[:, 3] * slope[index], np.float64)
    return found.mean() - exact, found.std() / ROWS ** .5

  wrong, error = estimate(credit.stateless(lambda x, _: x))
  assert abs(wrong) > 20 * error
  right, error = estimate(credit.importance_weights('sequence', bound='none'))
  assert abs(right) < 4 * error
  # A cap that few tokens reach leaves little of the error.
  capped, error = estimate(credit.importance_weights('sequence', cap=2.))
  assert abs(capped) < abs(wrong) / 2
