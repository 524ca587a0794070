"""Tests of the counter of compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from policyopt.training.compiles import count_compiles


def test_programs_are_counted_not_calls():
  double = jax.jit(lambda x: 2 * x)
  small, large = jnp.ones(3), jnp.ones(4)
  with count_compiles() as compiles:
    double(small)
    assert compiles.count == 1
    double(small)
    assert compiles.count == 1
    double(large)
    assert compiles.count == 2


def test_counting_ends_with_the_block():
  x = jnp.ones(5)
  with pytest.raises(RuntimeError), count_compiles() as compiles:
    jax.jit(lambda x: x + 3)(x)
    raise RuntimeError
  jax.jit(lambda x: x + 4)(x)
  assert compiles.count == 1


def test_blocks_may_overlap():
  x = jnp.ones(6)
  with count_compiles() as outer:
    jax.jit(lambda x: x + 5)(x)
    with count_compiles() as inner:
      jax.jit(lambda x: x + 6)(x)
  assert (outer.count, inner.count) == (2, 1)
