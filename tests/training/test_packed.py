"""Tests of rows that share rows of the model, and of rows cut to few lengths.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.models import packed as packed_lib
from policyopt.rollouts.lengths import trim
from policyopt.training.compiles import count_compiles
from policyopt.training.learner import Batching
from policyopt.training.packed import make_planner
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')


@pytest.fixture(scope='module')
def batch():
  """A rollout with short rows, and some that take no part."""
  rollout = factory.rollout()
  short = np.arange(factory.TOKENS)[None, :] < 6
  rows = np.arange(16)[:, None]
  mask = rollout.mask & (short | (rows % 4 == 0)) & (rows != 6)
  zero = lambda x: jnp.where(
      mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)
  extras = rollout.extras | {'kept': zero(rollout.extras['kept'])}
  return rollout._replace(
      mask=mask, log_probs=zero(rollout.log_probs), extras=extras,
      group=jnp.where(rows[:, 0] == 6, -1, rollout.group))


def step(name, batching, batch, where=None):
  """(state, metrics) of one step."""
  trainer = factory.Trainer(name, where, batching=batching)
  return trainer.step(trainer.state(), batch)


@pytest.mark.parametrize('name', [
    'ppo',
    *(pytest.param(name, marks=pytest.mark.slow)
      for name in factory.METHODS if name != 'ppo')])
def test_packed_is_unpacked(name, batch):
  expected, expected_metrics = step(name, Batching(microbatches=2), batch)
  state, metrics = step(name, Batching(microbatches=2, packed=True), batch)
  # The momentum is the gradient itself.
  assert optax.tree.norm(expected.opt_state) > 0.1
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-6)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(2, 1, 1, 1), (1, 2, 2, 1)])
def test_packed_minibatches_over_a_mesh(shape, batch):
  several = dict(epochs=2, minibatches=2, microbatches=2)
  expected, expected_metrics = step('ppo', Batching(**several), batch)
  state, metrics = step('ppo', Batching(**several, packed=True), batch,
                        factory.mesh(*shape))
  # Each of the four updates makes the rounding of the one before larger.
  factory.close(factory.learned(state), factory.learned(expected), rtol=1e-5,
                atol=1e-4)
  # Rounding may carry a ratio over the edge of the clip, which is counted.
  smooth = [name for name in metrics if not name.startswith('clip_fraction')]
  factory.close([metrics[name] for name in smooth],
                [expected_metrics[name] for name in smooth],
                rtol=1e-4, atol=1e-4)


def test_fewer_rows_go_through_the_model(batch):
  packing = make_planner(factory.mesh())(batch.mask, 2)
  assert packing.row.shape[0] < batch.mask.shape[0]
  # Every token up to the last chosen one is somewhere, once.
  place = np.arange(1, factory.TOKENS + 1)
  lengths = np.where(batch.mask, place[None, :], 0).max(1)
  assert (np.asarray(packing.row) >= 0).sum() == lengths.sum()
  np.testing.assert_array_equal(packing.length, lengths)


def test_scores_are_laid_back_where_they_belong(batch):
  packing = make_planner(factory.mesh())(batch.mask, 1)
  needs = {'entropy', 'values', 'hidden', 'logits'}
  params = jax.tree.map(jnp.asarray, factory.parameters(0))
  score = jax.jit(lambda packing: packed_lib.score(
      factory.MODEL, params, batch.tokens, packing,
      temperature=0.8, kept=batch.extras['kept'], needs=needs))
  expected, actual = score(None), score(packing)
  real = np.arange(factory.TOKENS) < np.asarray(packing.length)[:, None]
  for name in needs | {'log_probs'}:
    a, b = (np.asarray(getattr(x, name)) for x in (actual, expected))
    np.testing.assert_allclose(a[real], b[real], atol=1e-5, err_msg=name)
    assert not a[~real].any()


def test_a_few_lengths_and_programs(batch):
  trainer = factory.Trainer('grpo')
  expected, expected_metrics = trainer.step(trainer.state(), batch)
  widths = set()
  with count_compiles() as compiles:
    for last in (4, 5, 7, 8, 11):
      mask = batch.mask & (np.arange(factory.TOKENS) < last)[None, :]
      widths.add(trim(batch._replace(mask=mask), 2).mask.shape)
  assert widths == {(16, 8), (16, 12)}
  # The length of each batch, and one cut.
  assert compiles.count <= 3

  padded = factory.pad_columns(batch, 12)
  cut = trim(padded, 3)
  assert cut.mask.shape == (16, 16)
  assert cut.extras['kept'].shape[:2] == (16, 16)
  assert cut.extras['length'].shape == (16,)
  state, metrics = trainer.step(trainer.state(), cut)
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-6)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-6)
  assert trim(padded, 1) is padded
