"""Tests of the warm start: packing, meshes, learning."""

import functools

import jax
import numpy as np
import optax
import pytest

from policyopt.envs import factory as envs
from policyopt.models import presets, tokenizer, transformer
from policyopt.training import warm_start
from policyopt.training.compiles import count_compiles
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')

MODEL = presets.preset(
    'nano', width=32, num_layers=1, head_dim=8, mlp_width=32, max_length=32)
SGD = optax.sgd(0.5, momentum=0.9)
ROWS, LENGTH, EXAMPLES = 8, 32, 16


@functools.cache
def env(**kw):
  return envs.environment('arithmetic', tokenizer.byte_tokenizer(), **kw)


@functools.cache
def params():
  return jax.device_get(jax.jit(transformer.init, static_argnums=0)(
      MODEL, jax.random.key(0)))


@functools.cache
def trainer(shape=(1, 1, 1, 1), microbatches=1, optimizer=SGD):
  """() -> state and the compiled step."""
  mesh = factory.mesh(*shape)
  shardings = warm_start.warm_shardings(MODEL, optimizer, mesh)
  step = warm_start.make_warm_step(
      MODEL, optimizer, mesh, microbatches, shardings)

  def run(state, batch):
    with jax.set_mesh(mesh):
      return step(state, batch)

  def fresh():
    with jax.set_mesh(mesh):
      return warm_start.make_warm_state(MODEL, optimizer, mesh, params())
  return fresh, run


def packed():
  return warm_start.warm_batch(env(), 0, EXAMPLES, ROWS, LENGTH)


def unpacked(batch):
  """The same examples, each in a row of its own from column 0."""
  rows = []
  for row in range(ROWS):
    for segment in range(1, batch.segments[row].max() + 1):
      here = batch.segments[row] == segment
      pad = (0, LENGTH - here.sum())
      rows.append([np.pad(x[row, here], pad) for x in batch])
  return warm_start.Batch(*(np.stack(column) for column in zip(*rows)))


@pytest.mark.slow
def test_packed_equals_unpacked():
  batch = packed()
  alone = unpacked(batch)
  assert alone.tokens.shape == (EXAMPLES, LENGTH)
  assert batch.segments.max() > 2
  fresh, step = trainer()
  together, metrics = step(fresh(), batch)
  apart, expected = step(fresh(), alone)
  factory.close(metrics, expected, rtol=1e-6)
  # Momentum is the gradient.
  factory.close(together.opt_state, apart.opt_state, atol=1e-6)
  assert optax.tree.norm(apart.opt_state) > 0.1


@pytest.mark.parametrize('shape', [
    (2, 2, 2, 1), pytest.param((1, 2, 4, 1), marks=pytest.mark.slow)])
def test_meshes_and_microbatches_change_nothing(shape):
  fresh, step = trainer()
  expected, expected_metrics = step(fresh(), packed())
  fresh, step = trainer(shape, 2)
  state, metrics = step(fresh(), packed())
  factory.close(metrics, expected_metrics, rtol=1e-5)
  factory.close((state.params, state.opt_state),
                (expected.params, expected.opt_state), atol=1e-5)


def test_the_loss_goes_down_without_compiling_again():
  fresh, step = trainer(optimizer=optax.adam(3e-3))
  state, losses = fresh(), []
  with count_compiles() as compiles:
    for index in range(12):
      batch = warm_start.warm_batch(env(), index, EXAMPLES, ROWS, LENGTH)
      state, metrics = step(state, batch)
      losses.append(float(metrics['loss'][0]))
      if index == 0:
        first = compiles.count
  # The loss of a model that knows nothing of 264 tokens.
  assert losses[0] == pytest.approx(np.log(264), abs=0.3)
  assert losses[-1] < losses[0] - 0.7
  assert state.step == 12
  assert compiles.count == first


def test_the_callers_parameters_stay():
  fresh, step = trainer()
  start = fresh()
  step(start, packed())
  assert start.params['embedding'].is_deleted()
  assert np.isfinite(params()['embedding']).all()


def test_a_step_that_is_not_finite_is_skipped():
  fresh, step = trainer()
  batch = packed()
  weights = batch.weights.copy()
  weights[3] = np.nan
  state, metrics = step(fresh(), batch._replace(weights=weights))
  assert metrics['skipped_updates'] == (1, 1)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params),
               params())
  assert state.step == 1


def test_a_batch_follows_from_its_step():
  again = warm_start.warm_batch(env(), 0, EXAMPLES, ROWS, LENGTH)
  other = warm_start.warm_batch(env(), 1, EXAMPLES, ROWS, LENGTH)
  for a, b in zip(packed(), again):
    np.testing.assert_array_equal(a, b)
  assert (other.tokens != again.tokens).any()


def test_weights_make_the_mean_over_answer_tokens():
  batch = packed()
  assert batch.weights.sum() == pytest.approx(1)
  weighed = batch.weights > 0
  words = tokenizer.byte_tokenizer()
  texts = {words.decode(row[chosen].tolist())
           for row, chosen in zip(batch.tokens, weighed)}
  # Digits of the answers and stop tokens, but neither '+' nor '='.
  assert all(set(text) <= set('0123456789') for text in texts)
  assert (batch.tokens[weighed] == words.eos_id).sum() == EXAMPLES


def test_a_finite_task_begins_again_in_another_order():
  small = env(size=6)
  first = warm_start.warm_batch(small, 0, 6, ROWS, LENGTH)
  second = warm_start.warm_batch(small, 1, 6, ROWS, LENGTH)
  np.testing.assert_array_equal(
      np.sort(first.tokens, axis=None), np.sort(second.tokens, axis=None))
  assert (first.tokens != second.tokens).any()
  again = warm_start.warm_batch(small, 0, 6, ROWS, LENGTH)
  np.testing.assert_array_equal(first.tokens, again.tokens)


def test_a_task_without_answers_is_refused():
  with pytest.raises(ValueError, match="'arithmetic' has no reference answers"
                     ', so it cannot be warm started: set warm_start.steps'):
    warm_start.warm_batch(
        env()._replace(answer=None), 0, EXAMPLES, ROWS, LENGTH)


def test_examples_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='but rows is 2'):
    warm_start.warm_batch(env(), 0, EXAMPLES, 2, LENGTH)
