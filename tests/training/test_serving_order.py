"""The order in which the sampler's copy lies in memory on TPUs."""

import jax
import numpy as np
import pytest

from policyopt.training import serving, steps
from policyopt.types import Prompts
from tests.training import factory
from tests.training.test_serving import prepared

pytestmark = pytest.mark.usefixtures('quick_compiles')
TO_HEADS = {'query', 'key', 'value'}


def draw(changes):
  """(the copy, what it draws)."""
  parts = prepared(changes)
  params = factory.parameters(0, parts.model)
  copy = serving.Serving(parts.model, parts.serving)(params)
  with jax.set_mesh(parts.mesh):
    drawn = steps.make_draw(parts)(copy, 4).apply(
        Prompts(np.arange(24, dtype=np.int32).reshape(8, 3),
                np.full(8, 3, np.int32)),
        np.arange(32), jax.random.key(1), np.zeros(32, np.int32))
  return copy, drawn


def _order(x):
  return jax.tree.leaves(x)[0].format.layout.major_to_minor


@pytest.mark.filterwarnings('ignore:rollout.weights')
@pytest.mark.parametrize('weights', [None, 'int8'])
def test_the_order_changes_no_number(monkeypatch, weights):
  changes = {'rollout.mesh.tensor': 4, 'rollout.weights': weights}
  plain, expected = draw(changes)
  monkeypatch.setattr(serving, '_by_head', lambda model, where: True)
  copy, drawn = draw(changes)
  moved = {name for name, x in copy['layers'].items()
           if _order(x) == (0, 2, 1, 3)}
  assert moved == TO_HEADS
  factory.close(copy, plain, rtol=0, atol=0)
  np.testing.assert_array_equal(drawn.tokens, expected.tokens)
  np.testing.assert_allclose(drawn.log_probs, expected.log_probs, atol=1e-5)


def test_it_is_that_of_the_axes_elsewhere():
  parts = prepared({'rollout.mesh.tensor': 4})
  assert not serving._by_head(parts.model.replace(head_dim=128), parts.serving)
