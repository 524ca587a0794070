"""Weights in 8 bits: what rounding may do, and the products that read them."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from policyopt.models import partitioning, quantized, scoring, transformer
from policyopt.models.matmul import product
from policyopt.models.presets import preset

KINDS = sorted(quantized.TOPS)
NANO = preset(
    'nano', vocab_size=40, width=32, num_layers=2, head_dim=8, mlp_width=48,
    max_length=32)
_EXPERTS = NANO.replace(num_experts=4, experts_per_token=2, expert_width=16)
MODELS = {
    'tied': NANO,
    'untied': NANO.replace(
        tied_embeddings=False, qkv_bias=True, value_head=True),
    'lora': NANO.replace(lora_rank=2),
    'experts': _EXPERTS,
    'capacity': _EXPERTS.replace(
        expert_dispatch='capacity', expert_capacity=2.)}
TOKENS = np.random.default_rng(0).integers(0, 40, (8, 12)).astype(np.int32)

_quantize = jax.jit(quantized.quantize, static_argnums=(1, 2))


@pytest.mark.parametrize('kind', KINDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_no_number_is_further_off_than_rounding_explains(kind, data):
  rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
  # Outputs of very different sizes, and entries of very different ones.
  sizes = 10. ** rng.integers(-20, 20, (1, 4, 3))
  x = rng.normal(size=(16, 4, 3)) * 10. ** rng.integers(-3, 1, (16, 1, 1))
  x = (x * sizes).astype(np.float32)
  found = _quantize(x, (0,), kind)
  scale = np.asarray(found.scale, np.float64)
  assert found.values.dtype == kind and scale.shape == (1, 4, 3)
  np.testing.assert_allclose(
      scale, np.abs(x).max(axis=0, keepdims=True) / quantized.TOPS[kind],
      rtol=1e-6)
  values = np.asarray(found.values).astype(np.float64)
  error = np.abs(values * scale - x.astype(np.float64))
  bound = scale / 2
  if kind != 'int8':
    bound = np.maximum(np.abs(x) / 16, scale / 1024)
  assert (error <= bound * (1 + 1e-5)).all()
  np.testing.assert_allclose(
      quantized.dequantize(found), values * scale, rtol=1e-6)
  opposite = _quantize(-x, (0,), kind)
  np.testing.assert_array_equal(
      np.asarray(opposite.values).astype(np.float64), -values)


@pytest.mark.parametrize('kind', KINDS)
def test_zeros_stay_and_numbers_that_fit_are_kept(kind):
  zeros = _quantize(jnp.zeros((3, 2)), (0,), kind)
  assert not np.asarray(quantized.dequantize(zeros)).any()
  top = quantized.TOPS[kind]
  numbers = np.arange(-127., 128.) if kind == 'int8' else np.unique(
      np.arange(256).astype(np.uint8).view(ml_dtypes.float8_e4m3fn).astype(
          np.float32))
  numbers = numbers[np.isfinite(numbers)]
  assert numbers.max() == top and len(numbers) > 250
  found = _quantize(jnp.asarray(numbers)[:, None], (0,), kind)
  np.testing.assert_array_equal(
      np.asarray(found.values).astype(np.float32)[:, 0], numbers)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_product_is_that_of_what_the_values_stand_for(kind, dtype):
  rng = np.random.default_rng(0)
  for x, w, inner in [((2, 5, 8), (8, 3, 4), 1), ((2, 5, 3, 4), (3, 4, 7), 2)]:
    x = jnp.asarray(rng.normal(size=x), dtype)
    w = _quantize(rng.normal(size=w), tuple(range(inner)), kind)
    found = jax.jit(product, static_argnums=2)(x, w, inner)
    assert found.dtype == dtype
    wanted = np.tensordot(np.asarray(x, np.float64),
                          np.asarray(quantized.dequantize(w), np.float64),
                          inner)
    np.testing.assert_allclose(
        np.asarray(found, np.float64), wanted, rtol=1e-2, atol=2e-2
        if dtype == 'bfloat16' else 1e-5)


@functools.cache
def _params(name):
  params = transformer.init(MODELS[name], jax.random.key(3))
  noise = iter(jax.random.split(jax.random.key(4), 99))
  params['layers'] = {  # Adapters and biases that do something, too.
      name: x + .1 * jax.random.normal(next(noise), x.shape)
      for name, x in params['layers'].items()}
  return params


@functools.partial(jax.jit, static_argnums=0)
def _score(config, params):
  return scoring.score(config, params, jnp.asarray(TOKENS)).log_probs[:, 1:]


@functools.partial(jax.jit, static_argnums=1)
def _rounded(params, kind):
  return quantized.quantize_params(params, kind)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', sorted(MODELS))
def test_every_layer_reads_the_scales(name, kind):
  config, params = MODELS[name], _params(name)
  narrow = _rounded(params, kind)
  wide = jax.tree.map(
      lambda x: quantized.dequantize(x) if quantized.is_quantized(x) else x,
      narrow, is_leaf=quantized.is_quantized)
  found = _score(config, narrow)
  np.testing.assert_allclose(found, _score(config, wide), atol=2e-4)
  gap = np.abs(np.asarray(found - _score(config, params)))
  assert 1e-4 < gap.mean() < (.05 if kind == 'int8' else .2)


def test_what_is_rounded_and_what_is_not():
  narrow = _rounded(_params('untied'), 'int8')
  kept = {name for name, x in narrow['layers'].items()
          if not quantized.is_quantized(x)}
  assert kept == {'attention_norm', 'mlp_norm', 'query_norm', 'key_norm',
                  'query_bias', 'key_bias', 'value_bias'}
  assert narrow['layers']['out'].scale.shape == (2, 1, 1, 32)
  assert quantized.is_quantized(narrow['head'])
  assert not quantized.is_quantized(narrow['embedding'])
  assert quantized.is_quantized(_rounded(_params('tied'), 'int8')['embedding'])
  assert {name for name, x in _rounded(_params('lora'), 'int8')[
      'layers'].items() if not quantized.is_quantized(x)} == {
          'attention_norm', 'mlp_norm', 'query_norm', 'key_norm'} | {
              f'{name}_lora_{side}' for side in 'ab'
              for name in MODELS['lora'].lora_targets}
  layers = _rounded(_params('experts'), 'int8')['layers']
  assert layers['expert_down'].scale.shape == (2, 4, 1, 32)
  assert not quantized.is_quantized(layers['router'])


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name, shape', [
    ('untied', (2, 2, 2, 1)), ('experts', (1, 2, 2, 2)),
    ('capacity', (2, 1, 2, 2))])
def test_a_mesh_has_the_same_bits_and_the_same_numbers(name, shape, kind):
  config, params = MODELS[name], _params(name)
  mesh = partitioning.make_mesh(shape)
  shardings = partitioning.param_shardings(config, mesh)
  places = quantized.quantize_shardings(shardings, kind)
  spread = jax.jit(
      lambda params: quantized.quantize_params(params, kind),
      out_shardings=places)(jax.device_put(params, shardings))
  one = _rounded(params, kind)
  for x, y in zip(jax.tree.leaves(spread), jax.tree.leaves(one), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
  # A scale is split as the outputs are, and whole where it is shared.
  up = spread['layers']['expert_up' if config.num_experts else 'up']
  assert up.values.sharding.spec[-1] == up.scale.sharding.spec[-1] == 'tensor'
  assert up.scale.sharding.spec[-2] is None
  with jax.set_mesh(mesh):
    found = _score(config, spread)
  np.testing.assert_allclose(found, _score(config, one), atol=1e-4)
