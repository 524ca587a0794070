"""A small model with decided opinions, and prompts of several lengths."""

import jax
import jax.numpy as jnp
import pytest

from policyopt.models import transformer
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
