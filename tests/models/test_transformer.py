"""The decoder against a numpy reference, its cache, padding and packing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import cache as cache_lib
from policyopt.models import layers, transformer
from tests.compiling import AS_JAX_DOES
from tests.models import reference

SMALL, FAMILIES = reference.SMALL, reference.FAMILIES

forward = reference.fast_jit(transformer.forward, static_argnames='config')


_params = functools.cache(reference.params)


def _tokens(config, batch, length, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, config.vocab_size, (batch, length)),
                     jnp.int32)


def _positions(tokens):
  return jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)


@pytest.mark.parametrize('name', sorted(FAMILIES))
def test_equals_numpy_reference(name):
  config = FAMILIES[name]
  params = _params(config)
  tokens = _tokens(config, 2, 7)
  out, cache = forward(config, params, tokens, _positions(tokens))
  assert cache is None
  want = np.stack([reference.hidden(config, params, np.array(row))
                   for row in tokens])
  np.testing.assert_allclose(out, want, atol=2e-5)
  np.testing.assert_allclose(
      transformer.logits(config, params, out),
      np.stack([reference.logits(config, params, row) for row in want]),
      atol=1e-4)


def test_a_fresh_adapter_changes_nothing(key):
  adapted = reference.fast_jit(transformer.init, static_argnums=0)(
      FAMILIES['lora'], key)
  inner = adapted['layers']
  assert all(not x.any() for n, x in inner.items() if n.endswith('lora_b'))
  assert all(x.std() > 0.1 for n, x in inner.items() if n.endswith('lora_a'))
  plain = adapted | {
      'layers': {n: x for n, x in inner.items() if 'lora' not in n}}
  tokens = _tokens(SMALL, 2, 7)
  with_, _ = forward(FAMILIES['lora'], adapted, tokens, _positions(tokens))
  without, _ = forward(SMALL, plain, tokens, _positions(tokens))
  np.testing.assert_allclose(with_, without, atol=1e-6)


@pytest.mark.parametrize('name', ['gemma2', 'gemma3', 'mixtral', 'lora'])
def test_bfloat16_compute_is_near_float32(name):
  config = FAMILIES[name]
  params = _params(config)
  tokens = _tokens(config, 2, 7)
  want, _ = forward(config, params, tokens, _positions(tokens))
  got, _ = forward(config.replace(dtype='bfloat16'), params, tokens,
                   _positions(tokens))
  assert got.dtype == jnp.bfloat16
  error = np.abs(np.float32(got) - want)
  # Some token may be sent to another expert; most are not.
  assert np.median(error) < 0.02 * np.abs(want).mean()
  assert np.median(error) > 0


def test_embeddings_are_scaled_by_a_rounded_root():
  """√20 = 4.472 is 4.46875 in bfloat16."""
  # Such an ε makes the final norm a division by 100.
  config = FAMILIES['gemma2'].replace(
      width=20, dtype='bfloat16', norm_eps=1e4)
  params = jax.tree.map(lambda x: 0 * x, _params(config))
  params['embedding'] = _params(config)['embedding']
  tokens = _tokens(config, 1, 3)
  hidden, _ = forward(config, params, tokens, _positions(tokens))

  def scaled(root):
    x = np.float32(params['embedding'][tokens].astype(jnp.bfloat16)) * root
    return np.float32(jnp.asarray(x).astype(jnp.bfloat16)) / 100

  np.testing.assert_allclose(np.float32(hidden), scaled(4.46875), rtol=5e-3)
  error = [np.abs(np.float32(hidden) - scaled(root)).mean()
           for root in (4.46875, 20 ** 0.5)]
  assert error[0] < error[1]


@pytest.mark.parametrize('name', sorted(FAMILIES))
def test_cached_decode_equals_full_forward(name):
  """Right-padded prompts: each row goes on where its own prompt ends."""
  # A lone token is never dropped, so the row must not drop any either.
  config = FAMILIES[name].replace(expert_capacity=3.0)
  params = _params(config)
  lengths, prompt, response = jnp.array([3, 5]), 5, 4
  tokens = _tokens(config, 2, prompt + response)
  full, _ = forward(config, params, tokens, _positions(tokens))
  want = transformer.logits(config, params, full)

  cache = cache_lib.init_cache(config, 2, prompt)
  hidden, cache = forward(config, params, tokens[:, :prompt],
                          _positions(tokens[:, :prompt]), cache=cache, slot=0)
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(
        transformer.logits(config, params, hidden)[row, :length],
        want[row, :length], atol=1e-5)

  cache = cache_lib.extend(cache, response)
  for step in range(response):
    positions = (lengths + step)[:, None]
    new = jnp.take_along_axis(tokens, positions, axis=1)
    hidden, cache = forward(config, params, new, positions, cache=cache,
                            slot=lengths + step)
    got = transformer.logits(config, params, hidden)[:, 0]
    at = jnp.broadcast_to(positions[:, :, None], (2, 1, want.shape[2]))
    np.testing.assert_allclose(
        got, jnp.take_along_axis(want, at, axis=1)[:, 0], atol=1e-5)


def test_cache_rows_and_slots():
  config = SMALL
  cache = cache_lib.init_cache(config, 2, 3, 'bfloat16')
  assert cache.keys.dtype == jnp.bfloat16
  rows = jnp.arange(2, dtype=jnp.bfloat16)[None, None, :, None, None]
  cache = jax.tree.map(lambda x: x + rows, cache)
  repeated = cache_lib.repeat(cache, 3)
  assert repeated.keys[0, 0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
  longer = cache_lib.extend(repeated, 2)
  assert (longer.rows, longer.slots) == (6, 5)
  assert longer.values[1, :, 5, 0, 0].tolist() == [1, 1, 1, 0, 0]
  taken = cache_lib.take(longer, jnp.array([4, 0]))
  assert taken.keys[0, 0, :, 0, 0].tolist() == [1, 0]


def test_cpu_writes_tokens_without_a_loop_over_rows():
  """Such a loop copies the whole cache, in each layer and for each token."""
  buffer, slot = jnp.zeros((2, 16, 4, 2, 8)), jnp.array([3, 15, 0, 7])
  new = jax.random.normal(jax.random.key(0), (4, 1, 2, 8))
  compiled = jax.jit(cache_lib.update_layer, donate_argnums=0).lower(
      buffer, new, jnp.int32(1), slot).compile(compiler_options=AS_JAX_DOES)
  assert 'while(' not in compiled.as_text()
  buffer = compiled(buffer, new, jnp.int32(1), slot)
  want = np.zeros(buffer.shape, np.float32)
  want[1, slot, np.arange(4)] = new[:, 0]
  np.testing.assert_array_equal(buffer, want)
  np.testing.assert_array_equal(
      cache_lib.read_layer(buffer, jnp.int32(1)), want[1].swapaxes(0, 1))


def test_cache_rows_are_copied_and_the_rest_left():
  cache, pool = (
      jax.tree.map(lambda x, mark=mark: x + mark, cache_lib.init_cache(
          SMALL, rows, slots)) for rows, slots, mark in ((3, 5, 1), (2, 4, 7)))
  out = jax.jit(cache_lib.copy_row)(cache, jnp.int32(2), pool, jnp.int32(1))
  for x in jax.tree.leaves(out):
    assert (x[:, :4, 2] == 7).all() and (x[:, 4, 2] == 1).all()
    assert (x[:, :, :2] == 1).all()


@pytest.mark.parametrize('slot', [0, jnp.arange(4)], ids=['one', 'per row'])
def test_cache_is_updated_in_place(slot):
  """A decode step needs no second cache."""
  config = SMALL
  cache = cache_lib.init_cache(config, 4, 4096)
  size = sum(x.nbytes for x in jax.tree.leaves(cache))
  tokens = _tokens(config, 4, 1)
  step = jax.jit(
      lambda params, cache, slot: transformer.forward(
          config, params, tokens, tokens, cache=cache, slot=slot),
      donate_argnums=1)
  memory = step.lower(_params(config), cache, slot).compile().memory_analysis()
  assert memory.alias_size_in_bytes >= size
  # One layer at a time may be laid out anew for its matrix products.
  assert memory.temp_size_in_bytes < 1.5 * size


@pytest.mark.parametrize('name', ['llama3', 'gemma3', 'mixtral'])
def test_right_padding_changes_nothing(name):
  config = FAMILIES[name]
  tokens = _tokens(config, 2, 6)
  padded = jnp.pad(tokens, [(0, 0), (0, 5)])
  out, _ = forward(config, _params(config), tokens, _positions(tokens))
  longer, _ = forward(config, _params(config), padded, _positions(padded))
  np.testing.assert_allclose(longer[:, :6], out, atol=1e-6)


@pytest.mark.parametrize('name', ['gemma3', 'olmoe'])
def test_packed_rows_are_rows_apart(name):
  config = FAMILIES[name]
  tokens = _tokens(config, 1, 9)
  segments = jnp.array([[1, 1, 1, 1, 1, 2, 2, 2, 0]])
  positions = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 0]])
  packed, _ = forward(config, _params(config), tokens, positions,
                      segments=segments)
  for start, end in (0, 5), (5, 8):
    row = jnp.pad(tokens[:, start:end], [(0, 0), (0, 9 - end + start)])
    apart, _ = forward(config, _params(config), row, _positions(row),
                       segments=jnp.ones_like(row))
    np.testing.assert_allclose(
        packed[:, start:end], apart[:, :end - start], atol=1e-5)


def test_a_window_as_long_as_the_row_is_none():
  tokens = _tokens(SMALL, 2, 7)
  wide, _ = forward(SMALL.replace(window=7), _params(SMALL), tokens,
                    _positions(tokens))
  want, _ = forward(SMALL, _params(SMALL), tokens, _positions(tokens))
  np.testing.assert_allclose(wide, want, atol=1e-6)
  narrow, _ = forward(SMALL.replace(window=6), _params(SMALL), tokens,
                      _positions(tokens))
  np.testing.assert_allclose(narrow[:, :6], want[:, :6], atol=1e-6)
  assert np.abs(narrow[:, 6] - want[:, 6]).max() > 1e-3


def test_remat_policies_give_equal_gradients():
  tokens = _tokens(SMALL, 2, 6)

  def gradient(remat):
    config = SMALL.replace(remat=remat)
    def loss(params):
      hidden, _ = transformer.forward(config, params, tokens,
                                      _positions(tokens))
      return jnp.sum(jnp.sin(hidden))
    return reference.fast_jit(jax.grad(loss))(_params(SMALL))

  want = gradient('none')
  for remat in 'full', 'dots', 'names', 'offload':
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5),
                 gradient(remat), want)


def test_remat_policies_keep_what_they_say():
  """What the backward pass is given, per token and layer."""
  tokens = _tokens(SMALL, 2, 16)

  def kept(remat):
    config = SMALL.replace(remat=remat)
    def run(params):
      return transformer.forward(config, params, tokens, _positions(tokens))[0]
    _, pullback = jax.eval_shape(lambda p: jax.vjp(run, p), _params(SMALL))
    return sum(x.size for x in jax.tree.leaves(pullback))

  sizes = {remat: kept(remat) for remat in ('none', 'full', 'dots', 'names')}
  assert sizes['full'] < sizes['names'] < sizes['dots'] < sizes['none']


@pytest.mark.parametrize('kw, message', [
    (dict(cache=1, slot=0, segments=1), 'segments and cache'),
    (dict(cache=1), 'cache and slot must be given together'),
])
def test_forward_refuses_contradictions(kw, message):
  tokens = _tokens(SMALL, 1, 2)
  with pytest.raises(ValueError, match=message):
    transformer.forward(SMALL, _params(SMALL), tokens, tokens, **kw)


def test_value_head(key):
  config = SMALL.replace(value_head=True)
  fresh = reference.fast_jit(functools.partial(transformer.init, config))(key)
  hidden = jnp.arange(32.0).reshape(2, 16)
  assert transformer.values(config, fresh, hidden).tolist() == [0.0, 0.0]
  moved = _params(config)
  head = moved['value_head']
  np.testing.assert_allclose(
      transformer.values(config, moved, hidden),
      np.array(hidden) @ np.array(head['kernel']) + float(head['bias']),
      rtol=1e-5)
  with pytest.raises(ValueError, match='value_head = True'):
    transformer.values(SMALL, _params(SMALL), hidden)


@pytest.mark.parametrize('width', [32, 96, 160])
def test_a_norm_has_the_same_bits_in_every_shape(width, rng):
  x = jnp.asarray(rng.normal(size=(32, 8, width)), jnp.float32)
  norm = jax.jit(lambda x: layers.rms_norm(x, jnp.ones(width), 1e-6))
  whole = norm(x)
  for rows in (32, 1):
    alone = norm(x[:rows, 3:4])
    np.testing.assert_array_equal(alone, whole[:rows, 3:4])
