"""A narrow cache: what it holds, and that every way of decoding reads it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import attention, partitioning, quantized, scoring
from policyopt.models import cache as kv_cache
from policyopt.rollouts.sampler import SamplerConfig, sample
from tests.compiling import AS_JAX_DOES

DTYPES = ('bfloat16', 'int8', 'float8_e4m3fn')
SAMPLER = SamplerConfig(max_tokens=7, stop_tokens=(3, 9, 20), pad_id=37)
draw = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')
exactly = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples',
                  compiler_options=AS_JAX_DOES)


def run(config, params, prompts, slots=0, chunk=0, draw=draw):
  rows = 5 * len(prompts.length)
  sampler = dataclasses.replace(SAMPLER, slots=slots, prefill_chunk=chunk)
  return draw(config, sampler, params, prompts, jax.random.key(1), samples=5,
              row_ids=3 * jnp.arange(rows))


def assert_same(ours, other, gap):
  for field in dataclasses.fields(other):
    a, b = getattr(ours, field.name), getattr(other, field.name)
    if field.name in ('log_probs', 'policy_log_probs', 'entropy'):
      np.testing.assert_allclose(a, b, rtol=0, atol=gap, err_msg=field.name)
    elif field.name != 'steps' and b is not None:
      np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize('compute, dtype', [
    ('float32', 'int8'),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (
        ('float32', 'bfloat16'), ('float32', 'float8_e4m3fn'),
        ('bfloat16', 'int8')))])
def test_the_log_probs_are_those_of_the_rounded_policy(
    config, params, prompts, compute, dtype):
  config = config.replace(dtype=compute)
  drawn = params
  if compute == 'bfloat16':  # Weights in 8 bits, too.
    drawn = quantized.quantize_params(params, 'int8')
  out = run(config.replace(cache_dtype=dtype), drawn, prompts)
  exact = jax.jit(scoring.score, static_argnums=0)(config, params, out.tokens)
  gap = np.abs(np.asarray(out.log_probs - exact.log_probs))[out.mask]
  wide = compute == 'float32' and dtype != 'float8_e4m3fn'
  assert 1e-6 < gap.mean() < (.02 if wide else .1)


@pytest.mark.slow
@pytest.mark.parametrize('slots', [4, 8])
@pytest.mark.parametrize('dtype', ['int8', 'float8_e4m3fn'])
def test_slots_draw_the_same_bits(config, params, prompts, dtype, slots):
  config = config.replace(cache_dtype=dtype)
  other = run(config, params, prompts, draw=exactly)
  assert_same(run(config, params, prompts, slots, draw=exactly), other, 0)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['int8', 'float8_e4m3fn'])
def test_a_mesh_draws_the_same_rows(config, params, prompts, dtype):
  config = config.replace(cache_dtype=dtype)
  other = run(config, params, prompts, 4, 2)
  mesh = partitioning.make_mesh((2, 1, 2, 1), jax.devices()[:4])
  placed = jax.device_put(params, partitioning.param_shardings(config, mesh))
  with jax.set_mesh(mesh):
    ours = run(config, placed, prompts, 4, 2)
  # A sum in another order may send a key to the next of the 255 numbers.
  assert_same(ours, other, 5e-3)


def test_a_cache_of_8_bits_holds_a_scale_for_each_token_and_head(config):
  cache = kv_cache.init_cache(config.replace(cache_dtype='int8'), 2, 5)
  heads, dim = config.num_kv_heads, config.head_dim
  rng = np.random.default_rng(0)
  key, value = (jnp.asarray(rng.normal(size=(2, 3, heads, dim)) * size,
                            jnp.float32) for size in (1e3, 1e-3))
  cache = kv_cache.write(cache, key, value, jnp.int32(1), jnp.int32(1))
  assert cache.keys.dtype == cache.values.dtype == jnp.int8
  assert cache.key_scales.shape == cache.keys.shape[:-1]
  held = kv_cache.read(cache, jnp.int32(1))
  scales = kv_cache.read_scales(cache, jnp.int32(1))
  for found, scale, new in zip(held, scales.values(), (key, value)):
    found = found.astype(jnp.float32) * scale[..., None]
    top = np.abs(new).max(axis=-1, keepdims=True)
    error = np.abs(found[:, 1:4] - new)
    assert (error <= top / 254 * 1.0001).all() and error.max() > 0
    assert not np.asarray(found)[:, [0, 4]].any()
  # A row that is copied, repeated or taken keeps its scales.
  for moved in (kv_cache.take(cache, jnp.array([1])),
                kv_cache.copy_row(
                    kv_cache.init_cache(
                        config.replace(cache_dtype='int8'), 1, 6),
                    jnp.int32(0), cache, jnp.int32(1))):
    np.testing.assert_array_equal(
        moved.key_scales[:, :5, 0], cache.key_scales[:, :, 1])
    np.testing.assert_array_equal(moved.keys[:, :5, 0], cache.keys[:, :, 1])
  longer = kv_cache.extend(kv_cache.repeat(cache, 2), 2)
  assert longer.key_scales.shape == longer.keys.shape[:-1]
  assert longer.keys.shape[1:3] == (7, 4)


def test_float8_says_its_largest_number_and_never_nan(config):
  cache = kv_cache.init_cache(config.replace(cache_dtype='float8_e4m3fn'), 1, 2)
  loud = jnp.full((1, 1, config.num_kv_heads, config.head_dim), 1e4)
  cache = kv_cache.write(cache, loud, -loud, jnp.int32(0), jnp.int32(0))
  key, value = kv_cache.read(cache, jnp.int32(0))
  assert float(key[0, 0, 0, 0]) == 448 and float(value[0, 0, 0, 0]) == -448


def test_scales_act_on_scores_and_weights():
  rng = np.random.default_rng(0)
  query, key, value = (jnp.asarray(rng.normal(size=shape), jnp.float32)
                       for shape in ((2, 3, 4, 8), (2, 5, 2, 8), (2, 5, 2, 8)))
  key_scale, value_scale = (jnp.asarray(
      rng.uniform(.1, 2, (2, 5, 2)), jnp.float32) for _ in range(2))
  mask = jnp.ones((1, 3, 5), bool)
  found = attention.attend(query, key, value, mask, softcap=2.,
                           key_scale=key_scale, value_scale=value_scale)
  wanted = attention.attend(
      query, key * key_scale[..., None], value * value_scale[..., None], mask,
      softcap=2.)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
