"""Noise of the sampler: the numbers of JAX's generator, without its loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.rollouts import noise


def plain(keys, step, size, dtype):
  steps = jnp.broadcast_to(step, keys.shape)
  return jnp.stack([
      jax.random.gumbel(jax.random.fold_in(key, at), (size,), dtype)
      for key, at in zip(keys, steps)])


@pytest.mark.parametrize('impl', ['threefry2x32', 'rbg'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('size', [1, 2, 65, 1000])
def test_it_is_the_noise_of_jax(impl, dtype, size):
  if impl == 'rbg':  # Whose rows depend on each other under vmap.
    keys = jax.random.split(jax.random.key(7, impl=impl), 1)
  else:
    keys = jax.random.split(jax.random.key(7), 3)
  step = jnp.arange(len(keys)) * 100
  ours = jax.jit(noise.gumbel, static_argnums=(2, 3))(keys, step, size, dtype)
  assert ours.dtype == dtype
  np.testing.assert_array_equal(
      np.float32(ours), np.float32(plain(keys, step, size, dtype)))


def test_so_it_is_with_the_older_order_of_counts():
  keys = jax.random.split(jax.random.key(1), 2)
  with jax.threefry_partitionable(False):
    ours = noise.gumbel(keys, jnp.int32(5), 9, jnp.float32)
    np.testing.assert_array_equal(
        ours, plain(keys, jnp.int32(5), 9, jnp.float32))


def test_other_platforms_keep_their_generator(monkeypatch):
  keys = jax.random.split(jax.random.key(1), 2)
  run = lambda: str(jax.make_jaxpr(
      lambda keys: noise.gumbel(keys, jnp.int32(5), 9, jnp.float32))(keys))
  assert 'frw' in run()
  monkeypatch.setattr(noise, 'platform', lambda: 'tpu')
  assert 'frw' not in run()
