"""Tests of optimizers by name: clipping, schedules, errors."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.training.optimizers import make_optimizer


def rates(optimizer, count):
  """The step of SGD at each update, for a gradient of 1."""
  params = jnp.zeros(1)
  state, found = optimizer.init(params), []
  for _ in range(count):
    update, state = optimizer.update(jnp.ones(1), state, params)
    found.append(-float(update[0]))
  return found


def test_constant_rate():
  assert rates(make_optimizer('sgd', 0.5), 3) == [0.5, 0.5, 0.5]


def test_warm_up_from_a_twentieth_of_the_peak():
  found = rates(make_optimizer('sgd', 1., warmup_steps=4), 6)
  np.testing.assert_allclose(
      found, [0.05, 0.2875, 0.525, 0.7625, 1., 1.], rtol=1e-6)


def test_cosine_to_zero_after_the_warm_up():
  found = rates(
      make_optimizer('sgd', 2., warmup_steps=1, decay_steps=2), 5)
  np.testing.assert_allclose(found, [0.1, 2., 1., 0., 0.], atol=1e-6)


def test_the_norm_of_the_whole_gradient_is_clipped():
  gradient = {'a': jnp.array([3.]), 'b': jnp.array([4.])}
  clipped, free = (make_optimizer('sgd', 1., clip_norm=norm)
                   for norm in (1., None))
  update, _ = clipped.update(gradient, clipped.init(gradient))
  assert float(update['a'][0]) == pytest.approx(-0.6)
  assert float(update['b'][0]) == pytest.approx(-0.8)
  update, _ = free.update(gradient, free.init(gradient))
  assert float(update['b'][0]) == -4


def test_arguments_reach_the_factory():
  params = jnp.ones(2)
  ours, theirs = (
      make_optimizer('adamw', 0.1, clip_norm=None,
                     kw=dict(b1=0.5, weight_decay=0.3)),
      optax.adamw(0.1, b1=0.5, weight_decay=0.3))
  for optimizer in (ours, theirs):
    update, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(update, [-0.13, -0.13], rtol=1e-5)


@pytest.mark.parametrize('kw, message', [
    (dict(name='adamm'), "unknown optimizer.name 'adamm': did you mean 'adam"),
    # Not an optimizer: it takes no learning rate.
    (dict(name='chain'), "unknown optimizer.name 'chain'"),
    (dict(name='_private'), "unknown optimizer.name '_private'"),
    (dict(kw=dict(beta1=0.9)),
     "unknown argument of optimizer adamw 'beta1': did you mean 'b1'")])
def test_errors_name_the_nearest(kw, message):
  with pytest.raises(ValueError) as error:
    make_optimizer(**kw)
  assert str(error.value).startswith(message)
  assert '\n' not in str(error.value)
