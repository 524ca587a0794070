"""Layers written out, with caches of their own, against the scan over layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import cache as cache_lib
from policyopt.models import (
    cache_layers,
    partitioning,
    quantized,
    scoring,
    transformer,
    unrolled,
)
from policyopt.models import config as config_lib
from tests.models import reference

FAMILIES = reference.FAMILIES
forward = reference.fast_jit(transformer.forward, static_argnames='config')

# Of three prompts of up to five tokens, two rows each.
LENGTH, WIDTH, SAMPLES = jnp.array([2, 5, 3]), 5, 2


@pytest.fixture(name='written_out')
def _written_out(monkeypatch):
  """Small models count as large."""
  monkeypatch.setattr(unrolled, '_LARGE', 0)
  monkeypatch.setattr(unrolled, '_MANY', 0)


def decoded(config, form, steps=4, dtype=None):
  """Hidden states of tokens behind prompts, with the cache in a form.

  Args:
    config: of the model.
    form: (the cache of the prompts) -> (parameters, the cache of the rows).
    steps: tokens of each row.
    dtype: of the cache.
  """
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(
      rng.integers(0, config.vocab_size, shape), jnp.int32)
  prompts, responses = draw(3, WIDTH), draw(steps, 3 * SAMPLES, 1)
  params = reference.params(config)
  _, cache = forward(
      config, params, prompts, jnp.broadcast_to(jnp.arange(WIDTH), (3, WIDTH)),
      slot=0, cache=cache_lib.init_cache(config, 3, WIDTH, dtype))
  params, cache = form(params, cache)
  out = []
  for step in range(steps):
    slot = jnp.repeat(LENGTH, SAMPLES) + step
    hidden, cache = forward(config, params, responses[step], slot[:, None],
                            cache=cache, slot=slot)
    out.append(hidden)
  return jnp.stack(out)


def rows(cache, steps=4):
  return cache_lib.extend(cache_lib.repeat(cache, SAMPLES), steps)


def forms(config, steps=4):
  """The cache of the scan, of layers, and of groups; as `decoded` wants it."""
  own = functools.partial(unrolled.weights, config, rows=3 * SAMPLES)
  return (
      lambda params, cache: (params, rows(cache, steps)),
      lambda params, cache: (
          own(params), unrolled.by_layer(
              config, rows(cache, steps), WIDTH + steps)),
      lambda params, cache: (
          own(params), cache_layers.share(cache, LENGTH, SAMPLES, steps)))


@pytest.mark.parametrize('name', [
    'llama3', 'gemma2', 'gemma3', 'windows', 'mixtral', 'lora'])
def test_decoding_gives_the_numbers_of_the_scan(name):
  config = FAMILIES[name]
  scanned, *others = (decoded(config, form) for form in forms(config))
  for other in others:
    np.testing.assert_allclose(other, scanned, atol=1e-5)


@pytest.mark.parametrize('name', ['llama3', 'gemma2', 'windows'])
def test_tiles_of_slots_give_the_same_numbers(name, written_out, monkeypatch):
  del written_out
  config = FAMILIES[name]
  scanned, *_ = (decoded(config, form, steps=7) for form in forms(config, 7))
  monkeypatch.setattr(cache_layers, '_TILE', 3)
  _, *others = forms(config, 7)
  for form in others:
    _, cache = form(reference.params(config),
                    cache_lib.init_cache(config, 3, WIDTH))
    assert cache.keys[0].shape[1] > 2
    np.testing.assert_allclose(
        decoded(config, form, steps=7), scanned, atol=1e-5)


@pytest.mark.parametrize('slots, width', [
    (1, None), (64, None), (65, 32), (96, 32), (97, 64), (128, 64), (160, 64)])
def test_tiles_are_wide_unless_much_would_be_added(slots, width):
  assert cache_layers.tile(slots) == width


def test_weights_are_cast_before_the_first_token():
  config = FAMILIES['llama3'].replace(dtype='bfloat16')
  own = unrolled.weights(config, reference.params(config), 6)
  assert own['layers'][1]['gate'].dtype == jnp.bfloat16
  scanned, *others = (np.float32(decoded(config, form))
                      for form in forms(config))
  for other in others:
    assert np.abs(other - scanned).max() < .05 * np.abs(scanned).mean()


@pytest.mark.parametrize('name', ['llama3', 'qwen3', 'gemma3', 'olmoe'])
def test_heads_of_few_rows_come_out_of_one_product(name, written_out):
  del written_out
  config = FAMILIES[name]
  params = reference.params(config)
  own = unrolled.weights(config, params, rows=6)['layers'][0]
  assert 'query' not in own and own['qkv'].shape == (
      config.width, config.num_heads + 2 * config.num_kv_heads, config.head_dim)
  scanned, *others = (decoded(config, form) for form in forms(config))
  for other in others:
    np.testing.assert_allclose(other, scanned, atol=1e-5)


@pytest.mark.parametrize('change', [
    dict(dtype='bfloat16'), dict(rows=2 ** 20), dict(bits='int8'),
    dict(lora_rank=2)])
def test_heads_stay_apart_where_cores_share_them_anyway(change, written_out):
  del written_out
  change = dict(change)
  rows, bits = change.pop('rows', 6), change.pop('bits', None)
  config = FAMILIES['llama3'].replace(**change)
  params = reference.params(config)
  if bits:
    params = quantized.quantize_params(params, bits)
  assert 'query' in unrolled.weights(config, params, rows)['layers'][0]


def test_a_narrow_cache_of_groups_holds_no_nan():
  config = FAMILIES['llama3']
  scanned, _, groups = (decoded(config, form, dtype='float8_e4m3fn')
                        for form in forms(config))
  np.testing.assert_allclose(groups, scanned, atol=1e-5)


def test_other_platforms_keep_one_array(monkeypatch, written_out):
  del written_out
  config = FAMILIES['llama3']
  assert unrolled.large(config)
  mesh = partitioning.make_mesh((2, 1, 1, 1), jax.devices()[:2])
  with jax.set_mesh(mesh):
    assert not unrolled.large(config)
  for other in (dict(num_layers=99), dict(cache_dtype='int8'),
                dict(decode_attention='ragged')):
    assert not unrolled.large(config.replace(**other))
  params = reference.params(config)
  monkeypatch.setattr(unrolled.attention_kernels, 'platform', lambda: 'tpu')
  assert unrolled.weights(config, params, 6) is params


def test_small_models_are_not_written_out():
  config = FAMILIES['llama3']
  assert not unrolled.large(config)
  config = config.replace(width=256, mlp_width=1024)
  assert unrolled.large(config) and unrolled.pays(config, 64)
  assert not unrolled.pays(config, 63)
  # Computing again saves memory in a loop alone: tests/training/test_memory.py.
  assert unrolled.large(config.replace(remat='full'))
  assert not unrolled.pays(config.replace(remat='full'), 64)


@pytest.mark.slow
@pytest.mark.parametrize('name,remat', [
    *(('gemma3', remat) for remat in config_lib.REMAT if remat != 'offload'),
    ('mixtral', 'none'), ('lora', 'none')])
def test_gradients_are_those_of_the_scan(name, remat, monkeypatch):
  config = FAMILIES[name].replace(remat=remat)
  params = reference.params(config)
  tokens = jnp.asarray(np.random.default_rng(1).integers(
      0, config.vocab_size, (3, 9)), jnp.int32)

  def loss(params):
    out = scoring.score(config, params, tokens).log_probs
    return jnp.sum(jnp.sin(out) * jnp.arange(9.)[None])

  gradient = lambda: reference.fast_jit(lambda x: jax.value_and_grad(loss)(x))(
      params)
  scanned = gradient()
  monkeypatch.setattr(unrolled, '_LARGE', 0)
  monkeypatch.setattr(unrolled, '_MANY', 0)
  apart = gradient()
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5),
               apart, scanned)


def test_what_is_written_out_has_no_loop(written_out):
  """That gradients are compared with another program than the scan's."""
  del written_out
  config = FAMILIES['llama3']
  tokens = jnp.zeros((2, 4), jnp.int32)
  run = functools.partial(transformer.forward, config)
  text = str(jax.make_jaxpr(run)(reference.params(config), tokens, tokens))
  assert 'scan[' not in text


@pytest.mark.parametrize('form', ['layers', 'groups'])
def test_a_loop_updates_the_cache_in_place(form):
  config = FAMILIES['llama3']
  params, slots = reference.params(config), 2048

  @functools.partial(jax.jit, donate_argnums=1)
  def run(params, cache):
    params = unrolled.weights(config, params, 4)

    def body(step, carry):
      token, cache = carry
      slot = jnp.full(4, step)
      hidden, cache = transformer.forward(
          config, params, token, slot[:, None], cache=cache, slot=slot)
      return (hidden[:, :, 0] > 0).astype(jnp.int32), cache

    start = jnp.zeros((4, 1), jnp.int32)
    return jax.lax.fori_loop(0, slots, body, (start, cache))

  empty = functools.partial(cache_lib.init_cache, config)
  cache = (unrolled.by_layer(config, empty(4, slots), slots) if form == 'layers'
           else cache_layers.share(empty(2, 1), jnp.zeros(2, int), 2, slots))
  size = sum(x.nbytes for x in jax.tree.leaves(cache))
  memory = run.lower(params, cache).compile().memory_analysis()
  assert memory.alias_size_in_bytes >= size
  assert memory.temp_size_in_bytes < .5 * size


def test_layers_are_traced_once(written_out, monkeypatch):
  del written_out
  config = FAMILIES['llama3'].replace(max_length=77)  # Traced by no one yet.
  params, traced, layer = reference.params(config), [], unrolled.layers.layer
  monkeypatch.setattr(unrolled.layers, 'layer', lambda *args: (
      traced.append(1), layer(*args))[1])
  tokens = jnp.zeros((2, 4), jnp.int32)
  jax.make_jaxpr(jax.grad(lambda params: transformer.forward(
      config, params, tokens, tokens)[0].sum()))(params)
  assert config.num_layers > 1 and len(traced) == 1
