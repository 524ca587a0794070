"""Products with weights, and the orientation of their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models.matmul import contract

SHAPES = [((2, 5, 8), (8, 6), 1), ((2, 5, 8), (8, 3, 4), 1),
          ((2, 5, 3, 4), (3, 4, 7), 2), ((5, 8), (8, 6), 1)]


def _operands(x_shape, w_shape, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0))
  return (jax.random.normal(keys[0], x_shape, dtype),
          jax.random.normal(keys[1], w_shape, dtype))


@pytest.mark.parametrize('x_shape, w_shape, inner', SHAPES)
def test_it_is_tensordot_and_so_is_its_gradient(x_shape, w_shape, inner):
  x, w = _operands(x_shape, w_shape)

  def loss(product):
    return lambda x, w: jnp.sin(product(x, w)).sum()

  ours = lambda x, w: contract(x, w, inner)
  theirs = lambda x, w: jnp.tensordot(x, w, inner)
  np.testing.assert_array_equal(ours(x, w), theirs(x, w))
  for own, other in zip(jax.grad(loss(ours), (0, 1))(x, w),
                        jax.grad(loss(theirs), (0, 1))(x, w)):
    np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


def test_the_weights_gradient_needs_no_transposition():
  x, w = _operands((2, 5, 8), (8, 6))
  grad = jax.grad(lambda w: contract(x, w, 1).sum())
  jaxpr = str(jax.make_jaxpr(grad)(w))
  assert 'transpose[' not in jaxpr
  # Else the rewrite is needed no more.
  plain = jax.grad(lambda w: jnp.tensordot(x, w, 1).sum())
  assert 'transpose[' in str(jax.make_jaxpr(plain)(w))


def test_bfloat16_runs_under_jit_and_vmap():
  x, w = _operands((3, 2, 4, 8), (8, 6), jnp.bfloat16)
  grad = jax.jit(jax.vmap(jax.grad(
      lambda x, w: contract(x, w, 1).astype(jnp.float32).sum(), 1), (0, None)))
  found = grad(x, w)
  assert found.dtype == jnp.bfloat16 and found.shape == (3, 8, 6)
  wanted = jnp.broadcast_to(
      x.astype(jnp.float32).sum((1, 2))[:, :, None], found.shape)
  np.testing.assert_allclose(
      found.astype(np.float32), wanted, rtol=.02, atol=.05)
