"""Tests of the compiled step: meshes, microbatches, padding, what is kept."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt import credit, methods
from policyopt.training import updates
from policyopt.training.compiles import count_compiles
from policyopt.training.learner import Batching
from policyopt.types import CreditTransform, Loss
from tests.training import factory

MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 4, 1), (2, 2, 2, 1)]
pytestmark = pytest.mark.usefixtures('quick_compiles')
# 'rows/left_out' counts the rows that a test adds.
LEFT_OUT = ('rows/left_out',)


def assert_same(actual, expected):
  """Bit for bit."""
  jax.tree.map(np.testing.assert_array_equal,
               *jax.device_get((actual, expected)))


@pytest.fixture(scope='module')
def on_one_device():
  """name -> (trainer, state, metrics) after a step on one device."""
  def step(name):
    trainer = factory.trainer(name, microbatches=2)
    return trainer, *trainer.step(trainer.state(), factory.rollout())
  return step


@pytest.mark.parametrize('name, shape', [
    ('ppo', MESHES[3]),
    *(pytest.param(name, shape, marks=pytest.mark.slow)
      for name, shape in [*(('grpo', shape) for shape in MESHES),
                          *(('ppo', shape) for shape in MESHES[:3])])])
def test_every_mesh_gives_the_same_step(name, shape, on_one_device):
  _, expected, expected_metrics = on_one_device(name)
  sharded = factory.Trainer(
      name, factory.mesh(*shape), batching=Batching(microbatches=2))
  state, metrics = sharded.step(sharded.state(), factory.rollout())
  # The momentum is the gradient itself, of a size that 1e-5 can measure.
  assert optax.tree.norm(expected.opt_state) > 0.1
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-5)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-5)
  # The state stays where it was, so that the next step compiles nothing.
  assert (jax.tree.map(lambda x: x.sharding, state.params)
          == sharded.shardings.params)
  with count_compiles() as compiles:
    sharded.step(state, factory.rollout())
  assert compiles.count == 0


def test_shards_hold_parts(on_one_device):
  trainer, *_ = on_one_device('grpo')
  sharded = factory.Trainer('grpo', factory.mesh(1, 2, 4, 1))
  whole, parts = (
      sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(s.params))
      for s in (trainer.state(), sharded.state()))
  assert parts < whole / 3


@pytest.mark.parametrize('name', ['grpo', 'ppo'])
def test_microbatches_equal_the_whole(name):
  whole = factory.trainer(name)
  expected, expected_metrics = whole.step(whole.state(), factory.rollout())
  for count in (2, 4):
    split = factory.trainer(name, microbatches=count)
    state, metrics = split.step(split.state(), factory.rollout())
    factory.close(factory.learned(state), factory.learned(expected))
    factory.close(metrics, expected_metrics, rtol=1e-5)


@pytest.mark.parametrize('name', ['grpo', 'ppo'])
def test_rows_may_come_in_any_order(name, rng):
  trainer, batch = factory.trainer(name), factory.rollout()
  expected, expected_metrics = trainer.step(trainer.state(), batch)
  moved = factory.take(batch, rng.permutation(16))
  state, metrics = trainer.step(trainer.state(), moved)
  factory.close(factory.learned(state), factory.learned(expected))
  factory.close(metrics, expected_metrics, rtol=1e-5)


@pytest.mark.parametrize('name', ['grpo', 'ppo'])
def test_padding_changes_nothing(name):
  trainer, batch = factory.trainer(name), factory.rollout()
  expected, expected_metrics = trainer.step(trainer.state(), batch)
  padded = factory.pad_columns(factory.pad_rows(batch, 8), 4)
  state, metrics = trainer.step(trainer.state(), padded)
  factory.close(factory.learned(state), factory.learned(expected))
  factory.close(metrics, expected_metrics, rtol=1e-5, drop=LEFT_OUT)
  assert metrics['rows/left_out'][0] == 8


def test_same_shapes_compile_once():
  trainer = factory.trainer('grpo')
  state, _ = trainer.step(trainer.state(), factory.rollout())
  factory.rollout(1)
  with count_compiles() as compiles:
    for seed in range(3):
      state, _ = trainer.step(state, factory.rollout(1), seed)
  assert compiles.count == 0
  assert state.step == 4


def test_the_state_is_donated():
  trainer = factory.trainer('grpo')
  old = trainer.state()
  credit, old, _ = trainer.credit(old, factory.rollout())
  with jax.set_mesh(trainer.mesh):
    compiled = trainer.learner.update.lower(
        old, credit, jax.random.key(3)).compile()
  size = sum(x.nbytes for x in jax.tree.leaves(factory.learned(old)))
  assert compiled.memory_analysis().alias_size_in_bytes >= size
  trainer.update(old, credit)
  assert all(x.is_deleted() for x in jax.tree.leaves(factory.learned(old)))
  assert not any(x.is_deleted() for x in jax.tree.leaves(credit))


def test_scores_are_zero_outside_the_mask():
  trainer, batch = factory.trainer('ppo'), factory.rollout()
  assigned, *_ = trainer.credit(trainer.state(), batch)
  for name in ('values', 'old_log_probs'):
    scored = np.asarray(assigned.rollout.extras[name])
    assert (scored[~np.asarray(batch.mask)] == 0).all()
    assert (scored[np.asarray(batch.mask)] != 0).all()


def test_the_reference_is_another_policy():
  trainer, batch = factory.trainer('grpo'), factory.rollout()
  assigned, *_ = trainer.credit(trainer.state(), batch)
  reference = np.asarray(assigned.rollout.extras['ref_log_probs'])
  # The sampler's are those of the policy itself, moved by 0.2.
  far = np.abs(reference - np.asarray(batch.log_probs))
  assert far[np.asarray(batch.mask)].mean() > 0.4


def test_an_epoch_takes_the_groups_in_some_order():
  """Two minibatches are two updates of half the groups each, in a row."""
  trainer = factory.trainer('grpo', minibatches=2)
  assigned, state, _ = trainer.credit(trainer.state(), factory.rollout())
  actual, metrics = trainer.update(state, assigned)
  assert actual.step == 1
  one = factory.trainer('grpo')
  twice = assigned._replace(weights=2 * assigned.weights)
  group = np.asarray(assigned.rollout.group)

  def by_hand(first):
    state, total = one.state(), []
    for half in (np.isin(group, first), ~np.isin(group, first)):
      state, metrics = one.update(state, factory.take(twice, half))
      total.append(metrics)
    return state, jax.tree.map(jnp.add, *total)

  found = []
  for first in itertools.combinations(range(4), 2):
    state, total = by_hand(first)
    difference = optax.tree.norm(
        optax.tree.sub(state.params, actual.params), ord=jnp.inf)
    if difference < 1e-6:
      found.append(first)
      factory.close(metrics, total, rtol=1e-5, drop=('skipped_in_a_row',))
  assert len(found) == 1


def test_two_epochs_are_two_updates():
  trainer, batch = factory.trainer('grpo', epochs=2), factory.rollout()
  actual, metrics = trainer.step(trainer.state(), batch)
  one = factory.trainer('grpo')
  assigned, state, _ = one.credit(one.state(), batch)
  for _ in range(2):
    state, _ = one.update(state, assigned)
  factory.close(factory.learned(actual), factory.learned(state), atol=2e-6)
  assert (actual.step, state.step) == (1, 2)
  assert metrics['loss'][1] == 2


def test_no_group_is_cut():
  group = jnp.array([5, 0, 7, 5, 0, 7, -1, 2, 2, 5, 0, 7, 2, -1, -1, -1])
  order = jax.jit(jax.vmap(updates._group_order, (0, None)))(
      jax.random.split(jax.random.key(0), 64), group)
  assert (np.sort(order) == np.arange(16)).all()
  ordered = np.asarray(group)[order].reshape(64, 4, 4)
  assert not (ordered[:, -1] != -1).any()
  triples = ordered.reshape(64, 16)[:, :12].reshape(64, 4, 3)
  assert (triples == triples[:, :, :1]).all()
  assert len({tuple(row) for row in triples[:, :, 0].tolist()}) > 12


def test_an_update_that_is_not_finite_is_skipped():
  trainer = factory.trainer('grpo')
  assigned, state, _ = trainer.credit(trainer.state(), factory.rollout())
  state, _ = trainer.update(state, assigned)
  before = jax.device_get(state)
  row, column = np.argwhere(np.asarray(assigned.rollout.mask))[5]
  for count, bad in enumerate((jnp.nan, jnp.inf, -jnp.inf), start=1):
    broken = assigned._replace(
        advantages=assigned.advantages.at[row, column].set(bad))
    state, metrics = trainer.update(state, broken)
    assert_same(factory.learned(state), factory.learned(before))
    assert state.skipped == count
    assert metrics['skipped_updates'] == (1, 1)
    assert metrics['skipped_in_a_row'] == (count, 1)
  assert state.step == before.step + 3
  state, metrics = trainer.update(state, assigned)
  assert state.skipped == 0 and metrics['skipped_updates'][0] == 0
  assert (np.asarray(state.params['embedding'])
          != before.params['embedding']).any()


def test_only_the_broken_minibatch_is_skipped():
  trainer = factory.trainer('grpo', minibatches=2)
  assigned, state, _ = trainer.credit(trainer.state(), factory.rollout())
  before = jax.device_get(state)
  broken = assigned._replace(advantages=jnp.where(
      (assigned.rollout.group == 1)[:, None], jnp.nan, assigned.advantages))
  state, metrics = trainer.update(state, broken)
  assert metrics['skipped_updates'] == (1, 2)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
  assert (np.asarray(state.params['embedding'])
          != before.params['embedding']).any()


def test_credit_state_is_carried():
  """A transform that counts its calls sees every step, and only once."""
  def counting(method):
    count = CreditTransform(
        lambda: jnp.int32(0), lambda x, state, rollout: (x, state + 1))
    silent = Loss(lambda policy, a, w, rollout: (0. * jnp.sum(w), {}))
    return method._replace(
        advantages=credit.chain(method.advantages, count), loss=silent)

  trainer = factory.Trainer('rloo', change=counting)
  state = trainer.state()
  for _ in range(3):
    _, state, _ = trainer.credit(state, factory.rollout())
  assert state.credit_state[1][1] == 3


def test_one_update_does_not_score_what_it_computes():
  """The policy before the update is the one that it differentiates."""
  def make(early, **batching):
    def change(_):
      method = methods.grpo(beta=0., old='old_log_probs')
      needs = method.advantages.needs | set(early)
      return method._replace(
          advantages=method.advantages._replace(needs=needs))
    return factory.Trainer('grpo', change=change, batching=Batching(**batching))

  batch = factory.rollout()
  trainer, other = make(()), make(['old_log_probs'])
  assigned, state, _ = trainer.credit(trainer.state(), batch)
  assert 'old_log_probs' not in assigned.rollout.extras
  state, metrics = trainer.update(state, assigned)
  expected, expected_metrics = other.step(other.state(), batch)
  factory.close(factory.learned(state), factory.learned(expected))
  for name, value in metrics.items():
    factory.close(value, expected_metrics[name], rtol=1e-5)
  again, *_ = make((), minibatches=2).credit(trainer.state(), batch)
  assert 'old_log_probs' in again.rollout.extras
