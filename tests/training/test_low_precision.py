"""Tests of optimizers that store less than they compute with."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt.models import partitioning
from policyopt.training import state as states
from policyopt.training.low_precision import (
    low_precision,
    round_stochastically,
)
from policyopt.training.optimizers import make_optimizer
from policyopt.training.updates import summed_gradient
from tests.training import factory

COUNT = 4096
many = jax.jit(lambda seed, x: round_stochastically(
    jax.random.key(seed), jnp.full(COUNT, x, jnp.float32)))


@given(st.floats(1, 2), st.integers(-90, 90), st.booleans(),
       st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_rounding_is_to_a_neighbour_and_right_on_average(
    digits, power, negative, seed):
  x = float(np.float32(digits) * (-1. if negative else 1.)) * 2. ** power
  rounded = np.asarray(many(seed, x).astype(jnp.float32), np.float64)
  gap = 2. ** (power - 7) * (2 if digits == 2 else 1)
  assert len(set(rounded)) <= 2
  assert (np.abs(rounded - x) <= gap).all()
  # Five standard deviations of a mean of draws from the two neighbours.
  assert abs(rounded.mean() - x) <= 5 * gap / 2 / COUNT ** 0.5


def test_what_is_in_bfloat16_and_what_is_not_finite_stays():
  x = jnp.array([0., -0., 1., -2.5, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
  rounded = round_stochastically(jax.random.key(0), x)
  assert rounded.dtype == jnp.bfloat16
  np.testing.assert_array_equal(rounded.astype(jnp.float32), x)
  # All ones: a carry would make it -0.
  loud = jax.lax.bitcast_convert_type(jnp.uint32(0x7FFFFFFF), jnp.float32)
  assert jnp.isnan(round_stochastically(jax.random.key(0), loud))


def run(optimizer, params, grads, steps, state=None):
  """Parameters and state after equal updates, with a restart at `state`."""
  state = optimizer.init(params) if state is None else state

  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(steps):
    params, state = step(params, state)
  return params, state


def test_small_updates_count_on_average_only_when_rounded_at_random():
  # A step of 1e-4 is far below the last bit of 1 in bfloat16, 2^-7.
  params = {'w': jnp.ones(COUNT, jnp.bfloat16)}
  grads = {'w': jnp.ones(COUNT, jnp.bfloat16)}
  kw = dict(name='sgd', learning_rate=1e-4, clip_norm=None)
  lost, _ = run(make_optimizer(**kw), params, grads, 100)
  np.testing.assert_array_equal(lost['w'], params['w'])
  kept, _ = run(make_optimizer(**kw, rounding='stochastic'), params, grads, 100)
  assert kept['w'].dtype == jnp.bfloat16
  mean = np.asarray(kept['w'], np.float64).mean()
  # The sum of 100 draws, each of variance below 1e-4 · 2^-8 · 2.
  assert mean == pytest.approx(0.99, abs=5 * (1e-2 * 2**-7 / COUNT) ** 0.5)


def test_a_resumed_run_has_the_same_bits():
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=50), jnp.bfloat16)}
  grads = {'w': jnp.asarray(rng.normal(size=50), jnp.bfloat16)}
  optimizer = make_optimizer('adamw', 1e-3, rounding='stochastic')
  whole, _ = run(optimizer, params, grads, 6)
  half, state = run(optimizer, params, grads, 3)
  resumed, _ = run(optimizer, half, grads, 3, jax.device_get(state))
  np.testing.assert_array_equal(resumed['w'], whole['w'])


@pytest.mark.parametrize('moments, expected', [
    (None, 'bfloat16'), ('float32', 'float32'), ('bfloat16', 'bfloat16')])
def test_the_dtype_of_the_moments(moments, expected):
  params = {'w': jnp.ones(3, jnp.bfloat16)}
  optimizer = make_optimizer('adamw', rounding='stochastic', moments=moments)
  _, state = run(optimizer, params, params, 2)
  for name in 'mu', 'nu':
    (_, leaf), = optax.tree.get_all_with_path(state, name)
    assert leaf['w'].dtype == expected
  wide = {'w': jnp.ones(3, jnp.float32)}
  _, state = run(make_optimizer('adamw', moments='bfloat16'), wide, wide, 2)
  (_, leaf), = optax.tree.get_all_with_path(state, 'nu')
  assert leaf['w'].dtype == jnp.bfloat16


def test_float32_is_not_touched():
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=50), jnp.float32)}
  plain, _ = run(make_optimizer('adamw'), params, params, 4)
  wrapped, _ = run(make_optimizer('adamw', rounding='stochastic'), params,
                   params, 4)
  np.testing.assert_array_equal(plain['w'], wrapped['w'])


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="optimizer.rounding = 'up' must be one"):
    make_optimizer(rounding='up')
  with pytest.raises(ValueError, match="optimizer.moments = 'int8' must be "
                     'one of None, float32, bfloat16'):
    make_optimizer(moments='int8')
  optimizer = low_precision(optax.sgd(1.))
  with pytest.raises(ValueError, match='needs the parameters'):
    optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))


@pytest.mark.parametrize('experts', [0, 4])
@pytest.mark.parametrize('rounding', ['nearest', 'stochastic'])
def test_moments_lie_where_their_parameter_lies(experts, rounding):
  config = factory.MODEL
  if experts:
    config = config.replace(
        num_experts=experts, experts_per_token=2, expert_width=32)
  mesh = factory.mesh(1, 2, 2, 2)
  optimizer = make_optimizer('adamw', rounding=rounding)
  shardings = states.optimizer_shardings(config, optimizer, mesh)
  expected = partitioning.param_shardings(config, mesh)
  for name in 'mu', 'nu':
    (_, found), = optax.tree.get_all_with_path(shardings, name)
    assert found == expected
  if experts:
    spec = expected['layers']['expert_gate'].spec
    assert 'expert' in spec and 'tensor' in spec


def test_a_sum_of_gradients_in_bfloat16_keeps_the_small_ones():
  batch = jnp.concatenate([jnp.ones(1), jnp.full(255, 2.**-9)])
  params = jnp.ones((), jnp.bfloat16)
  loss = lambda w, x: ((w * x.astype(w.dtype)).sum(), {})
  _, _, gradient = summed_gradient(loss, params, batch, 256)
  assert gradient.dtype == jnp.bfloat16
  assert float(gradient) == pytest.approx(1 + 255 / 512, rel=2**-8)


@pytest.mark.slow
@pytest.mark.parametrize('dtypes, rounding', [
    (dict(dtype='bfloat16'), 'nearest'),
    (dict(dtype='bfloat16', param_dtype='bfloat16'), 'stochastic')])
def test_it_trains(dtypes, rounding, monkeypatch):
  monkeypatch.setattr(factory, 'MODEL', factory.MODEL.replace(**dtypes))
  optimizer = make_optimizer('adamw', 3e-3, rounding=rounding)
  trainer = factory.Trainer('grpo', optimizer=optimizer)
  dtype = dtypes.get('param_dtype', 'float32')
  # Numpy's: donating the state leaves them alone.
  params = jax.tree.map(
      lambda x: x.astype(jnp.dtype(dtype)), factory.parameters(0))
  trainer.reference = jax.device_put(params, trainer.shardings.params)
  state = trainer.state()._replace(
      params=jax.device_put(params, trainer.shardings.params),
      opt_state=jax.device_put(
          optimizer.init(jax.tree.map(jnp.asarray, params)),
          trainer.shardings.opt_state))
  batch = factory.rollout()
  losses = []
  for _ in range(8):
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss'][0] / metrics['loss'][1]))
    assert not float(metrics['skipped_updates'][0])
  assert all(x.dtype == dtype for x in jax.tree.leaves(state.params))
  # The same rows again and again: what they earned grows more likely.
  assert losses[-1] < losses[0] - 0.01
