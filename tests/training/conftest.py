"""Fixtures of the tests of training."""

import jax
import pytest


@pytest.fixture(scope='module')
def quick_compiles():
  """For programs that run once or twice: most of their time is LLVM's."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
