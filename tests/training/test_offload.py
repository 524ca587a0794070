"""Tests of what waits in host memory: equal numbers, and where they lie."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.training import state as states
from policyopt.training.checkpoints import Checkpoints
from policyopt.training.learner import Batching, make_learner
from policyopt.training.offload import Offload, to_host
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')
ADAMW = optax.adamw(1e-2)


def kinds(tree):
  """Kinds of memory of the arrays of a tree that are not numbers."""
  return {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}


@pytest.mark.parametrize('batching', [
    Batching(microbatches=2),
    pytest.param(Batching(epochs=2, minibatches=2), marks=pytest.mark.slow)])
def test_numbers_do_not_change(batching):
  where = factory.mesh(1, 2, 1, 1)
  resident = factory.Trainer('grpo', where, ADAMW, batching)
  waiting = factory.Trainer('grpo', where, ADAMW, batching)
  waiting.shardings = states.state_shardings(
      factory.MODEL, waiting.method, ADAMW, where, offload=True)
  reference = to_host(waiting.shardings.params)
  waiting.reference = jax.device_put(waiting.reference, reference)
  waiting.learner = make_learner(
      factory.MODEL, waiting.method, ADAMW, where, batching=batching,
      temperature=factory.TEMPERATURE, state_shardings=waiting.shardings,
      reference_shardings=reference)
  state, expected = waiting.state(), resident.state()
  assert kinds(state.opt_state) == kinds(waiting.reference) == {'pinned_host'}
  for _ in range(2):
    state, metrics = waiting.step(state, factory.rollout())
    expected, expected_metrics = resident.step(expected, factory.rollout())
  assert kinds(state.opt_state) == {'pinned_host'}
  assert kinds(state.params) == {'device'}
  factory.close(factory.learned(state), factory.learned(expected), atol=1e-6)
  factory.close(metrics, expected_metrics, rtol=1e-5, atol=1e-6)


def test_a_state_is_made_where_it_waits():
  trainer = factory.Trainer('grpo', optimizer=ADAMW)
  params = jax.device_put(factory.parameters(0), trainer.shardings.params)
  state = states.make_state(
      factory.MODEL, trainer.method, ADAMW, trainer.mesh, params,
      jax.random.key(0), offload=True)
  assert kinds(state.opt_state) == {'pinned_host'}
  # The number of updates is read without fetching the moments.
  counts = optax.tree.get_all_with_path(state.opt_state, 'count')
  assert counts[0][1].sharding.memory_kind == 'device'


def test_a_checkpoint_comes_back_to_where_it_waited(tmp_path):
  trainer = factory.Trainer('grpo', factory.mesh(1, 2, 1, 1), ADAMW)
  trainer.shardings = states.state_shardings(
      factory.MODEL, trainer.method, ADAMW, trainer.mesh, offload=True)
  state, checkpoints = trainer.state(), Checkpoints(tmp_path / 'checkpoints')
  checkpoints.save(1, state)
  found, step = checkpoints.restore(states.abstract_state(state))
  assert step == 1 and kinds(found.opt_state) == {'pinned_host'}
  factory.close(factory.learned(found), factory.learned(state), atol=0.)


def test_devices_without_host_memory_are_refused():
  memory = types.SimpleNamespace(kind='device')
  device = types.SimpleNamespace(
      platform='metal', addressable_memories=lambda: [memory])
  mesh = types.SimpleNamespace(devices=np.array([device]))
  Offload().check(mesh)
  with pytest.raises(ValueError, match=r"offload.optimizer is True.*'metal' "
                     r'has no pinned host memory \(its memories: device\)'):
    Offload(optimizer=True).check(mesh)
  Offload(True, True).check(factory.mesh())
  assert jnp.zeros(()).sharding.memory_kind == 'device'
