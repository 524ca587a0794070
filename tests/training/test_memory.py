"""Memory of the compiled update: nothing runs, so the bytes are exact."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from policyopt import methods
from policyopt.models import unrolled
from policyopt.models.presets import preset
from policyopt.training import state as states
from policyopt.training.learner import make_learner
from policyopt.types import Rollout
from tests.training import factory

pytestmark = pytest.mark.slow
VOCAB, CHUNK = 4096, 64


@functools.cache
def update(rows, length, vocab=VOCAB, remat='full', layers=2):
  """The update of one microbatch, compiled."""
  config = preset(
      'nano', vocab_size=vocab, width=32, num_layers=layers, head_dim=8,
      mlp_width=64, max_length=16384, logit_chunk=CHUNK, remat=remat)
  method, optimizer = methods.build('grpo', dict(beta=0.1)), optax.adamw(1e-3)
  mesh = factory.mesh()
  learner = make_learner(
      config, method, optimizer, mesh,
      state_shardings=states.state_shardings(config, method, optimizer, mesh))
  shape = jax.ShapeDtypeStruct
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(lambda key: states.make_state(
      config, method, optimizer, mesh, states.init_params(config, mesh, key),
      key), key)
  numbers = shape((rows, length), jnp.float32)
  rollout = Rollout(
      tokens=shape((rows, length), jnp.int32),
      mask=shape((rows, length), jnp.bool_), log_probs=numbers,
      group=shape((rows,), jnp.int32), rewards={'reward': numbers},
      extras={'ref_log_probs': numbers})
  credit = jax.eval_shape(learner.credit, state.credit_state, rollout)[0]
  with jax.set_mesh(mesh):
    return learner.update.lower(state, credit, key).compile()


def temporaries(*args, **kw):
  """Bytes beyond arguments and results."""
  return update(*args, **kw).memory_analysis().temp_size_in_bytes


def exponent(small, large, times):
  """Of a power law through two sizes."""
  return math.log(large / small) / math.log(times)


def test_memory_grows_with_the_rows():
  few, many = temporaries(1, 1024), temporaries(16, 1024)
  assert 0.5 < exponent(few, many, 16) < 1.05


def test_memory_grows_with_the_length_and_not_with_its_square():
  short, long = temporaries(1, 1024), temporaries(1, 16384)
  assert 0.5 < exponent(short, long, 16) < 1.1


def test_what_a_token_takes_does_not_depend_on_the_vocabulary():
  # Of shorter rows and the large vocabulary the peak is the head's.
  tokens = 16384 - 8192
  small, large = (
      (temporaries(1, 16384, vocab) - temporaries(1, 8192, vocab)) / tokens
      for vocab in (VOCAB, 8 * VOCAB))
  # The logits of one more token would be 4 · 7 · VOCAB bytes more.
  assert abs(large - small) < 4 * 7 * VOCAB / 100


def test_what_is_computed_again_is_not_kept(monkeypatch):
  monkeypatch.setattr(unrolled, '_LARGE', 0)
  monkeypatch.setattr(unrolled, '_MANY', 0)
  kept, again = (temporaries(8, 96, vocab=256, remat=remat, layers=8)
                 for remat in ('none', 'full'))
  assert again < .5 * kept


def test_logits_exist_for_a_chunk_at_a_time():
  length = 2048
  text = update(1, length).as_text()
  sizes = {math.prod(map(int, dims.split(',')))
           for dims in re.findall(r'\b\w+\[([\d,]+)\]', text)
           if str(VOCAB) in dims.split(',')}
  # The embedding is 32 · VOCAB, the logits of a chunk 64 · VOCAB.
  assert CHUNK * VOCAB in sizes
  assert max(sizes) < length * VOCAB / 8
