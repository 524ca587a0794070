"""The sampler's own copy of the weights: its layout, its life, its numbers."""

import json
import re

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from policyopt import methods
from policyopt.models import parameters, partitioning, scoring
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
from policyopt.types import Prompts
from tests.training import factory
from tests.training.test_setup import assert_refused

pytestmark = pytest.mark.usefixtures('quick_compiles')
P = jax.sharding.PartitionSpec
STEPS = 3


def make_config(changes=None):
  config = common.base('quick')
  config.task, config.task_kw = 'arithmetic', ConfigDict(
      dict(digits=1, operators=('-',)), type_safe=False)
  config.model.kw.update(width=32, head_dim=8, mlp_width=32, num_layers=1)
  config.mesh.update(data=1, fsdp=8)
  config.warm_start.update(steps=20, examples=32, rows=8, length=32)
  config.warm_start.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  # Adam divides by the gradient: it would make much of rounding.
  config.optimizer.update(name='sgd', learning_rate=1e-1, warmup_steps=0)
  config.optimizer.kw = ConfigDict(dict(momentum=.9), type_safe=False)
  config.sampler.max_tokens = 4
  config.method_kw.update(beta=.1)  # Asks for a reference.
  config.update(prompts=8, samples=4, steps=STEPS, checkpoint_every=10)
  config.evaluation.update(problems=8, samples=4, every=2)
  config.update_from_flattened_dict(changes or {})
  return config


def run(workdir, changes):
  """(parameters at the end, rows of metrics)."""
  config = make_config(changes)
  loop.train(config, methods.from_config(config), str(workdir))
  parts = prepared(changes)
  params, _ = policies.restore_params(parts, str(workdir))
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return jax.device_get(params), [json.loads(line) for line in lines]


def prepared(changes=None):
  config = make_config(changes)
  parts = setup.prepare(config, methods.from_config(config))
  parts.close()
  return parts


@pytest.fixture(scope='module')
def plain(tmp_path_factory, quick_compiles):
  return run(tmp_path_factory.mktemp('plain'), {})


@pytest.fixture
def copies(monkeypatch):
  """What has been handed out, and what was there when an update began."""
  seen, held, call = [], [], serving.Serving.__call__
  learners = loop.make_parts

  def handed_out(self, params):
    found = call(self, params)
    seen.append(found)
    return found

  def watched(*args):
    parts = learners(*args)

    def update(*inputs):
      held.append(parts.serve._copy)
      return parts.learner.update(*inputs)
    return parts._replace(learner=parts.learner._replace(update=update))

  monkeypatch.setattr(serving.Serving, '__call__', handed_out)
  monkeypatch.setattr(loop, 'make_parts', watched)
  return seen, held


@pytest.mark.slow
def test_a_run_with_a_copy_equals_a_run_without(tmp_path, plain, copies):
  params, rows = run(tmp_path, {'rollout.mesh.tensor': 4})
  seen, held = copies
  for copy in seen:
    layers = copy['layers']
    assert layers['up'].sharding.spec == P(None, None, 'tensor')
    assert layers['query'].sharding.spec == P(None, None, 'tensor', None)
    assert layers['up'].sharding.mesh.shape == dict(
        data=2, fsdp=1, tensor=4, expert=1)
  # One before learning and one after each update, and none during it.
  assert len({id(copy) for copy in seen}) == STEPS + 2
  assert held == [None] * STEPS
  expected, expected_rows = plain
  factory.close(params, expected, rtol=1e-5, atol=1e-5)
  assert sum(row['grad_norm'] > 0 for row in rows) == STEPS
  for row, other in zip(rows, expected_rows, strict=True):
    assert row['sync/checksum'] == 1. and row['sync/probe_gap'] < 1e-4
    assert row['log_prob_gap'] < 1e-5
    for name in ('reward', 'length', 'loss', 'kl/reference', 'eval/pass@1'):
      if name in other:
        np.testing.assert_allclose(row[name], other[name], atol=1e-5)


@pytest.mark.slow
def test_the_gap_of_a_narrow_copy_is_reported(tmp_path, plain):
  _, rows = run(tmp_path, {'rollout.mesh.tensor': 4,
                           'rollout.dtype': 'bfloat16', 'steps': 6})
  for row in rows:
    assert row['sync/checksum'] == 1.
    assert 1e-5 < row['log_prob_gap'] < .1
    assert 1e-4 < row['sync/probe_gap'] < .5
  assert max(row['log_prob_gap'] for row in plain[1]) < 1e-5
  timing = (tmp_path / 'timing.jsonl').read_text().splitlines()
  assert len({json.loads(line)['compiles'] for line in timing}) == 1


def test_rows_do_not_depend_on_who_draws_them():
  drawn = []
  for tensor in None, 4:
    parts = prepared({'rollout.mesh.tensor': tensor})
    params = jax.device_put(
        factory.parameters(0, parts.model),
        partitioning.param_shardings(parts.model, parts.mesh))
    serve = serving.Serving(parts.model, parts.serving)
    with jax.set_mesh(parts.mesh):
      generate = steps.make_draw(parts)(serve(params), 4)
      drawn.append(generate.apply(
          Prompts(np.arange(24, dtype=np.int32).reshape(8, 3),
                  np.full(8, 3, np.int32)),
          np.arange(32), jax.random.key(1), np.zeros(32, np.int32)))
    # On the mesh of the update: every device has rows of its own.
    assert drawn[-1].tokens.sharding.mesh == parts.mesh
    assert drawn[-1].tokens.addressable_shards[0].data.shape[0] == 4
  one, other = drawn
  np.testing.assert_array_equal(one.tokens, other.tokens)
  np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-5)


def test_nothing_said_nothing_copied():
  for changes in ({}, {'rollout.dtype': 'float32'}, {
      'rollout.mesh.fsdp': 8, 'rollout.mesh.data': 1}):
    parts = prepared(changes)
    assert parts.serving.mesh is parts.mesh and not parts.serving.copied
    params, serve = {'w': object()}, serving.Serving(parts.model, parts.serving)
    assert serve(params) is params
    serve.release()
    assert serve(params) is params


def test_a_copy_is_made_once_for_the_same_parameters():
  parts = prepared({'rollout.mesh.tensor': 2})
  params = jax.device_put(
      factory.parameters(0, parts.model),
      partitioning.param_shardings(parts.model, parts.mesh))
  serve = serving.Serving(parts.model, parts.serving)
  first = serve(params)
  assert serve(params) is first
  factory.close(first, params, rtol=0, atol=0)
  serve.release()
  assert serve(params) is not first
  shapes = serving.abstract_copy(parts.model, parts.serving)
  jax.tree.map(lambda x, y: np.testing.assert_equal(
      (x.shape, x.dtype, x.sharding), (y.shape, y.dtype, y.sharding)),
      shapes, first)


def test_no_device_is_sent_what_it_does_not_keep():
  parts = prepared({'rollout.mesh.tensor': 4})
  shapes = serving.abstract_copy(
      parts.model, serving.Layout(parts.mesh))  # As the update has them.
  with jax.set_mesh(parts.mesh):
    copy = serving.make_copy(parts.model, parts.serving).lower(shapes).compile()
  # Else every device would gather the whole of each weight, and cut it.
  whole = re.escape('f32[1,32,32]{')
  assert re.search(r' = \(?f32\S+.* all-to-all\(', copy.as_text())
  assert not re.search(rf' = {whole}\S+ all-gather\(', copy.as_text())


def test_the_compute_dtype_says_the_same_bit_for_bit():
  config = factory.MODEL.replace(
      dtype='bfloat16', qk_norm=True, num_experts=4, experts_per_token=2,
      expert_width=16)
  params = factory.parameters(0, config)
  narrow = parameters.cast(params, 'bfloat16')
  assert narrow['layers']['expert_up'].dtype == jnp.bfloat16
  exact = {name for name, x in narrow['layers'].items()
           if x.dtype == jnp.float32}
  assert exact == {'attention_norm', 'mlp_norm', 'query_norm', 'key_norm',
                   'router'}
  tokens = factory.rollout().tokens
  score = jax.jit(lambda params: scoring.score(
      config, params, tokens, needs=frozenset({'values'})))
  mine, theirs = score(params), score(narrow)
  np.testing.assert_array_equal(mine.log_probs, theirs.log_probs)
  np.testing.assert_array_equal(mine.values, theirs.values)


@pytest.mark.parametrize('changes, message', [
    ({'rollout.mesh.tensor': 3}, 'rollout.mesh: mesh shape (-1, 1, 3, 1) does '
     'not fit 8 devices: the product must be equal'),
    ({'rollout.mesh.tensor': 0}, 'rollout.mesh: mesh shape (-1, 1, 0, 1) must '
     'hold positive sizes'),
    ({'rollout.mesh.tensor': 4, 'rollout.mesh.data': 4},
     'rollout.mesh: mesh shape (4, 1, 4, 1) does not fit 8 devices'),
    ({'rollout.mesh.tensor': 8, 'model.kw.mlp_width': 36},
     "rollout.mesh: dimension 1 of parameter 'layers/down' ('mlp', size 36) "
     'must be divisible by mesh axes tensor of size 8'),
    ({'mesh.tensor': 8, 'mesh.fsdp': 1, 'prompts': 3,
      'rollout.mesh.tensor': 1}, 'prompts x samples is 12 rows; it must be a '
     "multiple of the 8 shards of rollout.mesh ('data' x 'fsdp')"),
    ({'rollout.dtype': 'bfloat61'},
     "unknown rollout.dtype 'bfloat61': did you mean 'bfloat16' or")])
def test_a_wrong_layout_is_said_at_once(changes, message):
  assert_refused(make_config(changes), message)


def test_one_program_has_one_layout():
  for changes in {'rollout.mesh.tensor': 2}, {'rollout.dtype': 'bfloat16'}:
    config = make_config(changes)
    with pytest.raises(ValueError, match='rollout is .* so all of it must be'):
      one_program.make_train(config, methods.from_config(config))


# --- the check of the copy ---------------------------------------------------


@pytest.fixture(scope='module')
def checked(quick_compiles):
  """(check, its layout, parameters, their copy)."""
  mesh = factory.mesh(1, 8, 1, 1)
  where = serving.Layout(
      partitioning.reshape_mesh(mesh, {'data': 4, 'tensor': 2}), 'bfloat16',
      True)
  check = sync.make_sync(factory.MODEL, None, where)
  params = jax.device_put(factory.parameters(0), partitioning.param_shardings(
      factory.MODEL, mesh))
  return check, where, params, serving.Serving(factory.MODEL, where)(params)


def test_a_copy_in_sync(checked):
  check, _, params, copy = checked
  before = check.probe(copy)
  metrics, now = check.compare(params, copy, before)
  assert metrics['sync/checksum'] == (1, 1)
  assert 0 < metrics['sync/probe_gap'][0] < .1
  assert metrics['sync/probe_moved'][0] == 0
  np.testing.assert_array_equal(before, now)
  check.verify(0, metrics)


def test_a_stale_copy_stops_the_run(checked):
  check, _, params, copy = checked
  moved = {**params, 'final_norm': params['final_norm'] * 1.0001}
  metrics, _ = check.compare(moved, copy, check.probe(copy))
  with pytest.raises(SyncError, match='the checksum of its parameters is not'):
    check.verify(3, metrics)


def test_a_copy_in_another_dtype_is_refused(checked):
  check, _, params, copy = checked
  with pytest.raises(SyncError, match=r"'embedding' is float32\[40, 32\] there "
                     r'and bfloat16\[40, 32\] in the learner'):
    check.compare(params, params, jnp.zeros(7))


def test_what_rounding_the_copy_may_do():
  for dtype, expected in (None, .1), ('bfloat16', .5), ('float32', .1):
    where = serving.Layout(factory.mesh(), dtype, dtype is not None)
    check = sync.make_sync(factory.MODEL, None, where)
    metrics = {'sync/checksum': (1., 1.), 'sync/probe_gap': (expected, 1.)}
    check.verify(0, metrics)
    metrics['sync/probe_gap'] = (expected * 1.01, 1.)
    with pytest.raises(SyncError):
      check.verify(0, metrics)
