"""Tests of attention: the kernels against the mask written out, and refusals.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import attention, attention_kernels, partitioning


def draw(rng, batch=2, length=5, heads=4, kv_heads=2, dim=8, dtype=jnp.float32):
  """Random queries, keys and values."""
  return tuple(
      jnp.asarray(rng.normal(size=(batch, length, count, dim)), dtype)
      for count in (heads, kv_heads, kv_heads))


def packed(batch, length):
  """Segments of several lengths, with padding at the end."""
  index = np.arange(length)
  rows = [np.where(index < length - 3, 1 + index // (length // (2 + row)), 0)
          for row in range(batch)]
  return jnp.asarray(np.stack(rows), jnp.int32)


def by_hand(query, key, value, segments, window, scale, softcap):
  """The definition, one token at a time, in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  group = query.shape[2] // key.shape[2]
  out = np.zeros(query.shape)
  for b, s, h in np.ndindex(query.shape[:3]):
    seen = [t for t in range(s + 1)
            if (window is None or t > s - window)
            and (segments is None or segments[b, t] == segments[b, s])]
    scores = key[b, seen, h // group] @ query[b, s, h] * scale
    if softcap is not None:
      scores = softcap * np.tanh(scores / softcap)
    probs = np.exp(scores - scores.max())
    out[b, s, h] = probs / probs.sum() @ value[b, seen, h // group]
  return out


@pytest.mark.parametrize('window', [None, 1, 3])
@pytest.mark.parametrize('softcap', [None, 0.7])
@pytest.mark.parametrize('segmented', [False, True])
def test_the_definition(rng, window, softcap, segmented):
  inputs = draw(rng, length=9)
  segments = packed(2, 9) if segmented else None
  out = attention.causal(*inputs, segments=segments, window=window, scale=0.3,
                         softcap=softcap, implementation='xla')
  np.testing.assert_allclose(
      out, by_hand(*inputs, segments, window, 0.3, softcap), atol=2e-6)


def test_the_flag_of_the_window_may_be_traced(rng):
  inputs = draw(rng, length=9)
  run = jax.jit(lambda flag: attention.causal(
      *inputs, window=2, windowed=flag))
  near = attention.causal(*inputs, window=2)
  far = attention.causal(*inputs)
  assert jnp.abs(near - far).max() > 0.1
  np.testing.assert_allclose(run(True), near, atol=1e-6)
  np.testing.assert_allclose(run(False), far, atol=1e-6)
  np.testing.assert_array_equal(
      attention.causal(*inputs, window=2, windowed=False), far)


@pytest.mark.parametrize('length, block', [(13, 2), (16, 1), (26, 2)])
def test_long_rows_in_blocks_are_the_same(rng, monkeypatch, length, block):
  inputs, segments = draw(rng, length=length), packed(2, length)

  def gradients(*inputs):
    def loss(inputs):
      out = attention.causal(*inputs, segments=segments, window=6, softcap=2.)
      return jnp.sum(jnp.sin(out)), out
    return jax.jit(jax.grad(loss, has_aux=True))(inputs)

  def traced():  # Not a trace that is kept: of a new function.
    return str(jax.make_jaxpr(lambda *inputs: gradients(*inputs))(*inputs))

  whole, square = gradients(*inputs), f'{length},{length}]'
  assert square in traced()
  monkeypatch.setattr(attention, '_CPU_BLOCK', block)
  assert square not in traced()
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-6),
               gradients(*inputs), whole)


CASES = [
    dict(),
    dict(segmented=True),
    dict(window=40, segmented=True),
    dict(softcap=1.5, scale=0.2, window=130),
    pytest.param(dict(length=257, kv_heads=1, softcap=3., segmented=True),
                 marks=pytest.mark.slow),
    pytest.param(dict(window=40, windowed=False), marks=pytest.mark.slow)]


@pytest.mark.parametrize('case', CASES)
def test_splash_is_xla_with_gradients(rng, case):
  case = dict(case)
  length = case.pop('length', 150)
  inputs = draw(rng, length=length, kv_heads=case.pop('kv_heads', 2))
  segments = packed(2, length) if case.pop('segmented', False) else None
  case = dict(dict(windowed=True, window=None, scale=0.35, softcap=None) | case,
              segments=segments)
  if 'windowed' in case:
    case['windowed'] = jnp.asarray(case['windowed'])
  real = 1. if segments is None else (segments > 0)[:, :, None, None]

  def gradients(run, inputs):
    def loss(inputs):
      out = run(*inputs, **case) * real
      return jnp.sum(jnp.sin(3 * out)), out
    return jax.jit(jax.grad(loss, has_aux=True))(inputs)

  with jax.numpy_rank_promotion('allow'):  # Inside of the library.
    actual = gradients(
        functools.partial(attention_kernels.splash, interpret=True), inputs)
  expected = gradients(
      functools.partial(attention.causal, implementation='xla'), inputs)
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=2e-5, atol=1e-5), actual, expected)


@pytest.mark.parametrize('shape', [(2, 1, 2, 1), (1, 2, 4, 1)])
def test_splash_over_a_mesh(rng, shape):
  inputs = draw(rng, length=150)
  segments = packed(2, 150)
  options = dict(segments=segments, windowed=None, window=None, scale=0.3,
                 softcap=None)
  mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])

  def loss(inputs):
    out = attention_kernels.splash(*inputs, **options, interpret=True)
    return jnp.sum(jnp.where((segments > 0)[:, :, None, None], out, 0) ** 2)

  def expected_loss(inputs):
    out = attention.causal(*inputs, **options, implementation='xla')
    return jnp.sum(jnp.where((segments > 0)[:, :, None, None], out, 0) ** 2)

  with jax.set_mesh(mesh), jax.numpy_rank_promotion('allow'):
    actual = jax.jit(jax.grad(loss))(jax.device_put(
        inputs, partitioning.rows(mesh)))
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=2e-5, atol=1e-5),
               jax.device_get(actual), jax.jit(jax.grad(expected_loss))(inputs))


def test_a_choice_that_cannot_be_made_says_why(rng, monkeypatch):
  inputs = draw(rng)
  for name, word in ('cudnn', 'gpu'), ('splash', 'tpu'):
    with pytest.raises(ValueError, match=f"'{name}'.*platform is cpu, not "
                       f"{word}; 'auto'"):
      attention.causal(*inputs, implementation=name)
  with pytest.raises(ValueError, match="'flash' must be one of auto, xla"):
    attention.causal(*inputs, implementation='flash')

  choose = attention_kernels.choose
  monkeypatch.setattr(attention_kernels, 'platform', lambda: 'gpu')
  with pytest.raises(ValueError, match='dtype is float32, not bfloat16'):
    choose('cudnn', *inputs[:2])
  half = draw(rng, length=256, dtype=jnp.bfloat16)
  with pytest.raises(ValueError, match='no soft cap'):
    choose('cudnn', *half[:2], softcap=30.)
  with pytest.raises(ValueError, match='head_dim is 6'):
    choose('cudnn', *draw(rng, dim=6, dtype=jnp.bfloat16)[:2])
  with pytest.raises(ValueError, match='5 tokens, an odd number'):
    choose('cudnn', *draw(rng, dtype=jnp.bfloat16)[:2],
           segments=packed(2, 5))
  assert choose('auto', *half[:2]) == 'cudnn'
  assert choose('auto', *half[:2], softcap=30.) == 'xla'

  monkeypatch.setattr(attention_kernels, 'platform', lambda: 'tpu')
  assert choose('auto', *half[:2]) == 'splash'
  assert choose('auto', *inputs[:2]) == 'xla'  # Five tokens.
  with pytest.raises(ValueError, match='dtype is float16'):
    choose('splash', *draw(rng, dtype=jnp.float16)[:2])
  mesh = partitioning.make_mesh((4, 1, 2, 1), jax.devices()[:8])
  with jax.set_mesh(mesh), pytest.raises(
      ValueError, match='2 rows are not a multiple of 4 shards'):
    choose('splash', *half[:2])
  mesh = partitioning.make_mesh((1, 1, 8, 1), jax.devices()[:8])
  with jax.set_mesh(mesh), pytest.raises(
      ValueError, match='4 heads over 2 key heads do not divide into 8'):
    choose('splash', *half[:2])


def test_the_platform_is_that_of_the_mesh():
  assert attention_kernels.platform() == 'cpu'
  device = jax.sharding.AbstractDevice('TPU v5', 1, 'tpu') if hasattr(
      jax.sharding, 'AbstractDevice') else None
  if device is None:
    from jax._src.mesh import AbstractDevice
    device = AbstractDevice(device_kind='TPU v5', num_cores=1, platform='tpu')
  mesh = jax.sharding.AbstractMesh((1,), ('data',), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):
    assert attention_kernels.platform() == 'tpu'
