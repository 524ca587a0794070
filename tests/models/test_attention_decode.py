"""The kernel for one token in each row against plain attention, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import (
  attention,
  attention_decode,
  attention_kernels,
  partitioning,
)
from policyopt.models import cache as cache_lib

LAYER = 1


def draw(rng, batch=4, slots=40, heads=4, kv_heads=2, dim=8,
         dtype=jnp.float32):
  """Queries, and a cache whose unfilled slots hold what must not be seen."""
  query = jnp.asarray(rng.normal(size=(batch, 1, heads, dim)), dtype)
  held = [np.asarray(rng.normal(size=(3, slots, batch, kv_heads, dim)))
          for _ in range(2)]
  last = rng.integers(0, slots, batch)
  for x in held:
    for row, end in enumerate(last):
      x[:, end + 1:, row] = 1e4
  cache = cache_lib.Cache(*(jnp.asarray(x, dtype) for x in held))
  return query, cache, jnp.asarray(last, jnp.int32)


def seen(cache, last, window, windowed):
  """bool[B, 1, T] of the definition."""
  place, last = np.arange(cache.slots)[None], np.asarray(last)[:, None]
  mask = place <= last
  if window is not None and windowed is not False:
    mask &= place > last - window
  return jnp.asarray(mask)[:, None]


def interpreted(monkeypatch):
  """As on a TPU, whose kernel is run step by step."""
  monkeypatch.setattr(attention_decode, 'choose', lambda *_: 'ragged')
  monkeypatch.setattr(attention_decode, 'ragged', functools.partial(
      attention_decode.ragged, interpret=True))


@pytest.mark.slow
@pytest.mark.parametrize('shape, case', [
    (dict(), dict()),
    # Several blocks of slots, the last of them not whole.
    (dict(slots=300, batch=6), dict(window=90, scale=.3)),
    (dict(slots=300, batch=11, kv_heads=1), dict(softcap=1.5)),
    (dict(slots=257, kv_heads=4),
     dict(window=40, windowed=False, softcap=2.)),
])
def test_the_kernel_is_plain_attention(rng, monkeypatch, shape, case):
  monkeypatch.setattr(attention_decode, '_BLOCK_BYTES', 1)
  query, cache, last = draw(rng, **shape)
  case = dict(dict(window=None, windowed=None, scale=.4, softcap=None) | case)
  want = attention.attend(
      query, *cache_lib.read(cache, jnp.int32(LAYER)),
      seen(cache, last, case['window'], case['windowed']),
      scale=case['scale'], softcap=case['softcap'])
  if case['windowed'] is not None:
    case['windowed'] = jnp.asarray(case['windowed'])
  run = jax.jit(lambda layer: attention.decode(
      query, cache, layer, last, **case))
  np.testing.assert_allclose(run(LAYER), want, atol=1e-5)
  interpreted(monkeypatch)
  jax.clear_caches()
  np.testing.assert_allclose(run(LAYER), want, atol=1e-5)


def test_a_block_is_read_as_far_as_its_longest_row(rng, monkeypatch):
  """What lies behind it may be anything; NaN here."""
  monkeypatch.setattr(attention_decode, '_BLOCK_BYTES', 1)
  interpreted(monkeypatch)
  query, cache, _ = draw(rng, batch=16, slots=384)
  last = jnp.asarray([3] * 8 + [130] + [7] * 7, jnp.int32)
  rows = jnp.arange(16)[None, None, :, None, None]
  place = jnp.arange(384)[None, :, None, None, None]
  end = jnp.where(rows < 8, 128, 256)
  cache = jax.tree.map(lambda x: jnp.where(place < end, x, jnp.nan), cache)
  out = attention.decode(query, cache, jnp.int32(LAYER), last)
  assert jnp.isfinite(out).all()


@pytest.mark.slow
def test_over_a_mesh(rng, monkeypatch):
  query, cache, last = draw(rng)
  run = jax.jit(functools.partial(attention.decode, softcap=2., window=9))
  want = run(query, cache, jnp.int32(LAYER), last)
  interpreted(monkeypatch)
  jax.clear_caches()
  mesh = partitioning.make_mesh((2, 1, 2, 1), jax.devices()[:4])
  with jax.set_mesh(mesh):
    out = run(query, cache, jnp.int32(LAYER), last)
  np.testing.assert_allclose(out, want, atol=1e-5)


def test_a_choice_that_cannot_be_made_says_why(rng, monkeypatch):
  choose = attention_decode.choose
  wide, half = (draw(rng, dim=128, dtype=dtype)[:2]
                for dtype in (jnp.float32, jnp.bfloat16))
  with pytest.raises(ValueError, match="'ragged' cannot be used here: the "
                     "platform is cpu, not tpu; 'auto'"):
    choose('ragged', *wide)
  with pytest.raises(ValueError, match="'flash' must be one of auto, xla"):
    choose('flash', *wide)
  assert choose('auto', *wide) == 'xla'
  monkeypatch.setattr(attention_kernels, 'platform', lambda: 'tpu')
  assert {choose('auto', *x) for x in (wide, half)} == {'ragged'}
  assert choose('xla', *wide) == 'xla'
  # Prompts are read by XLA, whatever decodes.
  assert choose('ragged', jnp.zeros((4, 9, 4, 128)), wide[1]) == 'xla'
  with pytest.raises(ValueError, match='head_dim is 8, not a multiple of 128'):
    choose('ragged', *draw(rng)[:2])
  with pytest.raises(ValueError, match='dtype is float16'):
    choose('ragged', *draw(rng, dim=128, dtype=jnp.float16)[:2])
  for shape, message in (
      ((8, 1, 1, 1), '4 rows are not a multiple of 8 shards'),
      ((1, 1, 4, 1), '2 key heads do not divide into 4 shards')):
    mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=message):
      choose('ragged', *wide)
