"""Options of the CPU's compiler."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.training import compiling


@pytest.fixture
def in_a_run():
  """Nothing is compiled in haste, as the other tests do."""
  name = 'jax_disable_most_optimizations'
  before = jax.config.read(name)
  jax.config.update(name, False)
  yield
  jax.config.update(name, before)


@pytest.mark.skipif(not jax.__version__.startswith('0.10.'),
                    reason='the options are those of jax 0.10')
@pytest.mark.parametrize('loops', [False, True])
def test_the_compiler_knows_them(in_a_run, loops):
  options = compiling.options(None, loops)
  assert options['xla_backend_optimization_level'] == 2
  x = jnp.linspace(0., 1., 7)
  got = jax.jit(lambda x: jnp.exp(x) @ x, compiler_options=options)(x)
  np.testing.assert_allclose(got, np.exp(x) @ np.asarray(x), rtol=1e-6)


@pytest.mark.skipif(not jax.__version__.startswith('0.10.'),
                    reason='the options are those of jax 0.10')
def test_what_has_large_arrays_needs_fewer_at_a_time(in_a_run):
  def many(x):
    return sum((jnp.sin(x * i) @ x).max() for i in range(1, 13))

  def temporaries(loops):
    compiled = jax.jit(
        many, compiler_options=compiling.options(None, loops)).lower(
            jnp.ones((256, 256))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(True) < .5 * temporaries(False)


def test_not_off_the_cpu(in_a_run):
  tpu = types.SimpleNamespace(platform='tpu')
  mesh = types.SimpleNamespace(devices=np.array([[tpu]], dtype=object))
  assert compiling.options(mesh) is None


def test_haste_is_left_alone(in_a_run):
  jax.config.update('jax_disable_most_optimizations', True)
  assert compiling.options(None) is None
