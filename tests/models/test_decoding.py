"""Layers written out with caches of their own, against the scan over layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import cache as cache_lib
from policyopt.models import decoding, partitioning, transformer
from tests.models import reference

FAMILIES = reference.FAMILIES
forward = reference.fast_jit(transformer.forward, static_argnames='config')


def both(config, steps=2, rows=3, width=5):
  """Hidden states of some tokens behind prompts, by either form of decoding."""
  params = reference.params(config)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(
      rng.integers(0, config.vocab_size, (rows, width + steps)), jnp.int32)
  place = jnp.broadcast_to(jnp.arange(width)[None], (rows, width))
  _, filled = forward(
      config, params, tokens[:, :width], place, slot=0,
      cache=cache_lib.init_cache(config, rows, width + steps))
  own, form = decoding.best_form(config, params)
  assert isinstance(own['layers'], list)
  for weights, cache in (params, filled), (own, form(filled)):
    out = []
    for step in range(steps):
      slot = jnp.array([2, 5, 3]) + step
      hidden, cache = forward(config, weights, tokens[:, width + step, None],
                              slot[:, None], cache=cache, slot=slot)
      out.append(hidden)
    yield jnp.stack(out)


@pytest.mark.parametrize('name', ['llama3', 'gemma3', 'mixtral', 'lora'])
def test_the_numbers_are_those_of_the_scan(name):
  scanned, apart = both(FAMILIES[name])
  np.testing.assert_allclose(apart, scanned, atol=1e-5)


def test_weights_are_cast_before_the_first_token():
  config = FAMILIES['llama3'].replace(dtype='bfloat16')
  own, _ = decoding.best_form(config, reference.params(config))
  assert own['layers'][1]['gate'].dtype == jnp.bfloat16
  scanned, apart = (np.float32(x) for x in both(config))
  assert np.abs(apart - scanned).max() < .05 * np.abs(scanned).mean()


def test_other_platforms_keep_one_array(monkeypatch):
  config = FAMILIES['llama3']
  params = reference.params(config)
  mesh = partitioning.make_mesh((2, 1, 1, 1), jax.devices()[:2])
  with jax.set_mesh(mesh):
    assert decoding.best_form(config, params)[0] is params
  monkeypatch.setattr(decoding.attention_kernels, 'platform', lambda: 'tpu')
  assert decoding.best_form(config, params)[0] is params
  deep = config.replace(num_layers=99)
  monkeypatch.undo()
  assert decoding.best_form(deep, params)[0] is params


def test_a_loop_updates_the_cache_in_place():
  config = FAMILIES['llama3']
  params, rows, slots = reference.params(config), 4, 2048

  @functools.partial(jax.jit, donate_argnums=1)
  def run(params, cache):
    params, _ = decoding.best_form(config, params)

    def body(step, carry):
      token, cache = carry
      slot = jnp.full(rows, step)
      hidden, cache = transformer.forward(
          config, params, token, slot[:, None], cache=cache, slot=slot)
      return (hidden[:, :, 0] > 0).astype(jnp.int32), cache

    start = jnp.zeros((rows, 1), jnp.int32)
    return jax.lax.fori_loop(0, slots, body, (start, cache))

  cache = decoding.best_form(config, params)[1](
      cache_lib.init_cache(config, rows, slots))
  size = sum(x.nbytes for x in jax.tree.leaves(cache))
  memory = run.lower(params, cache).compile().memory_analysis()
  assert memory.alias_size_in_bytes >= size
  assert memory.temp_size_in_bytes < .5 * size
