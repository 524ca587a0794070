"""A small model with decided opinions, and prompts of several lengths."""

import jax
import jax.numpy as jnp
import optax
import pytest

from policyopt.models import scoring, transformer
from policyopt.models.config import ModelConfig
from policyopt.types import Prompts

CONFIG = ModelConfig(
    vocab_size=38, width=32, num_layers=2, num_heads=2, num_kv_heads=1,
    head_dim=16, mlp_width=48, max_length=64, tied_embeddings=False)


@pytest.fixture(scope='session')
def config():
  """38 tokens: the last word of a bit mask is not full."""
  return CONFIG


@pytest.fixture(scope='session')
def params():
  """At initialisation the logits are nearly equal; these spread by 2."""
  params = jax.jit(transformer.init, static_argnums=0)(
      CONFIG, jax.random.key(7))
  return {**params, 'head': params['head'] * 20}


@pytest.fixture(scope='session')
def prompts():
  """Four prompts; what lies behind their ends must not matter."""
  tokens = jax.random.randint(jax.random.key(3), (4, 6), 1, 38)
  return Prompts(tokens, jnp.array([6, 3, 1, 5], jnp.int32))


@pytest.fixture(scope='session')
def trained():
  """Weights that have learned a rule: nearly sure of it, at a loss elsewhere.

  Trained weights have activations and logits of another size than random ones.
  """
  key = jax.random.key(11)
  start = jax.random.randint(key, (32, 1), 0, 38)
  tokens = (start + 5 * jnp.arange(14)[None] ** 2) % 38
  optimizer = optax.adam(5e-3)

  def loss(params):
    return -scoring.score(CONFIG, params, tokens).log_probs.mean()

  def step(carry, _):
    params, state = carry
    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  params = transformer.init(CONFIG, jax.random.key(7))
  (params, _), _ = jax.jit(lambda carry: jax.lax.scan(
      step, carry, length=150))((params, optimizer.init(params)))
  assert loss(params) < .3
  return params
