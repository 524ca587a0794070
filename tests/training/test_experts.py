"""A step of a mixture of experts, with the losses on its routers."""

import jax
import numpy as np
import pytest

from policyopt import losses
from policyopt.training.learner import Batching
from tests.training import factory

pytestmark = pytest.mark.usefixtures('quick_compiles')
MODEL = factory.MODEL.replace(
    num_experts=4, experts_per_token=2, expert_width=16)
BALANCE, Z = losses.load_balance_loss(0.1), losses.router_z_loss(0.01)


def _trainer(*extra, **kw):
  def change(method):
    return method._replace(loss=losses.add(method.loss, *extra))
  return factory.Trainer('grpo', model=MODEL, change=change, **kw)


@pytest.fixture(scope='module')
def one_device():
  trainer = _trainer(BALANCE, Z)
  return trainer, *trainer.step(trainer.state(), factory.rollout())


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(1, 2, 1, 4), (1, 2, 2, 2)])
def test_every_mesh_gives_the_same_step(shape, one_device):
  _, want, want_metrics = one_device
  sharded = _trainer(BALANCE, Z, where=factory.mesh(*shape))
  state, metrics = sharded.step(sharded.state(), factory.rollout())
  factory.close(factory.learned(state), factory.learned(want), atol=2e-6)
  factory.close(metrics, want_metrics, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(one_device):
  """Padding is routed too, but neither counted nor in anyone's way."""
  trainer, want, want_metrics = one_device
  padded = factory.pad_columns(factory.pad_rows(factory.rollout(), 8), 4)
  state, metrics = trainer.step(trainer.state(), padded)
  factory.close(factory.learned(state), factory.learned(want), atol=2e-6)
  factory.close(metrics, want_metrics, rtol=1e-4, atol=1e-5,
                drop=('rows/left_out',))
  assert metrics['router/load_balance'][1] < padded.mask.size / 2


@pytest.mark.slow
def test_the_z_loss_adds_over_microbatches():
  whole, pieces = _trainer(Z), _trainer(Z, batching=Batching(microbatches=4))
  state, metrics = whole.step(whole.state(), factory.rollout())
  got, got_metrics = pieces.step(pieces.state(), factory.rollout())
  factory.close(factory.learned(got), factory.learned(state), atol=2e-6)
  factory.close(got_metrics, metrics, rtol=1e-4, atol=1e-5)
  assert np.divide(*metrics['router/z']) > 0.1


def test_the_losses_reach_the_routers(one_device):
  trainer, state, metrics = one_device
  plain = _trainer(losses.load_balance_loss(0.))
  other, _ = plain.step(plain.state(), factory.rollout())
  router, without = (
      jax.device_get(s.params)['layers']['router'] for s in (state, other))
  assert np.abs(router - without).max() > 1e-4
  assert np.divide(*metrics['router/load_balance']) > 1.5
