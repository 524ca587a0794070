"""Scores with each prompt read once, against every row read by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import (
    attention,
    attention_kernels,
    attention_shared,
    pieces,
    scoring,
    shared,
)
from policyopt.ops import bits
from tests.models import reference

VOCAB, SAMPLES, TOKENS = 29, 3, 13
SIZES = shared.Sizes(SAMPLES, prompt=7, response=6)
CONFIG = reference.FAMILIES['qwen3'].replace(logit_chunk=4)


def rows(seed=0):
  """Tokens and mask of prompts of 2, 7 and 4 tokens; one row is left out."""
  rng = np.random.default_rng(seed)
  starts = np.repeat([2, 7, 4], SAMPLES)[:, None]
  ends = starts + rng.integers(1, 7, starts.shape)
  ends[1] = starts[1] + 6  # One that fills its places.
  tokens = rng.integers(1, VOCAB, (len(starts), TOKENS))
  place = np.arange(TOKENS)[None]
  first = np.repeat(tokens[::SAMPLES], SAMPLES, axis=0)
  tokens = np.where(place < starts, first, tokens) * (place < ends)
  mask = (place >= starts) & (place < ends)
  mask[4] = False
  return jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)


def both(config, sizes=SIZES, needs=('entropy', 'values'), **kw):
  """(value, scores, gradient) of a loss, of rows alone and with shared prompts.
  """
  config = config.replace(value_head=True)
  tokens, mask = rows()

  def loss(params, layout):
    if layout is None:
      out = scoring.score(config, params, tokens, needs=needs, **kw)
    else:
      out = shared.score(config, params, tokens, layout, needs=needs, **kw)
    out = jax.tree.map(lambda x: jnp.where(
        mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0), out)
    total = jnp.sum(jnp.sin(out.log_probs) * jnp.arange(TOKENS)[None])
    if 'entropy' in needs:
      total = total + jnp.sum(out.entropy + jnp.sin(out.values))
    return total, out

  run = reference.fast_jit(lambda params: [
      jax.value_and_grad(loss, has_aux=True)(params, layout)
      for layout in (None, shared.lay(mask, sizes))])
  return run(reference.params(config))


def assert_same(alone, together, tolerance=1e-5):
  def close(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a) + 1e-6
  jax.tree.map(close, alone, together)


@pytest.mark.parametrize('name', [
    'gemma3',
    *(pytest.param(name, marks=pytest.mark.slow)
      for name in ('llama3', 'qwen3', 'gemma2', 'windows', 'mixtral', 'olmoe',
                   'lora'))])
def test_every_family(name):
  # Large adapters make the rounding of what is below them larger.
  assert_same(*both(reference.FAMILIES[name]),
              tolerance=3e-5 if name == 'lora' else 1e-5)


@pytest.mark.slow
def test_everything_that_may_be_asked_for():
  """Also where nothing is shared: a prompt has more tokens than places."""
  tokens, mask = rows()
  rng = np.random.default_rng(1)
  keep = rng.random((*tokens.shape, VOCAB)) < 0.5
  keep |= np.asarray(tokens)[:, :, None] == np.arange(VOCAB)
  kept = bits.pack_kept(jnp.asarray(keep & np.asarray(mask)[:, :, None]))
  config = CONFIG.replace(value_head=True)
  params = reference.params(config)
  options = dict(temperature=0.7, kept=kept, needs=frozenset(
      scoring.NEEDS - {'router'}))
  alone = reference.fast_jit(functools.partial(
      scoring.score, config, **options))(params, tokens)
  real = np.asarray(jax.lax.cummax(mask.astype(int), axis=1, reverse=True) > 0)
  for prompt in (7, 5):
    layout = shared.lay(mask, shared.Sizes(SAMPLES, prompt, 8))
    together = reference.fast_jit(functools.partial(
        shared.score, config, prompts=True, **options))(params, tokens, layout)
    for name in [*options['needs'], 'log_probs']:
      a, b = (np.asarray(getattr(x, name))[real] for x in (alone, together))
      np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)
  # Nobody pays for the prompts' own scores without asking.
  out = shared.score(config, params, tokens, layout)
  start = np.asarray(layout.start)[:, None]
  assert not np.asarray(out.log_probs)[np.arange(TOKENS)[None] < start].any()


@pytest.mark.slow
@pytest.mark.parametrize('stages', [1, 4])
def test_the_head_in_pieces_and_long_responses_in_blocks(stages, monkeypatch):
  config = reference.FAMILIES['gemma2']
  whole = both(config, needs=())[1]
  monkeypatch.setattr(attention, '_CPU_BLOCK', 1)
  monkeypatch.setattr(pieces, '_STAGES', stages)
  assert_same(whole, both(config.replace(logit_chunk=4), needs=())[1])


def test_bfloat16_runs_forward_and_backward():
  low = both(CONFIG.replace(dtype='bfloat16'))
  for (value, _), gradient in low:
    assert np.isfinite(value)
    assert {x.dtype.name for x in jax.tree.leaves(gradient)} == {'float32'}
  assert_same(*low, tolerance=0.05)


def test_a_prompt_is_read_once():
  """What the layers see has one prompt for all of its responses."""
  tokens, mask = rows()
  layout = shared.lay(mask, SIZES)
  jaxpr = str(jax.make_jaxpr(functools.partial(shared.score, CONFIG))(
      reference.params(CONFIG), tokens, layout))
  places = SIZES.prompt + SAMPLES * SIZES.response
  assert f'f32[3,{places},{CONFIG.width}]' in jaxpr
  assert f'f32[9,{TOKENS},{CONFIG.width}]' not in jaxpr


def _attention(rng, prompt, response):
  """Queries, keys and values of two rows, and where their prompts lie."""
  places = prompt + SAMPLES * response
  inputs = tuple(jnp.asarray(rng.normal(size=(2, places, heads, 8)),
                             jnp.float32) for heads in (4, 2, 2))
  return inputs, attention_shared.SharedPrompts(
      jnp.array([prompt, prompt // 3]), prompt, SAMPLES)


@pytest.mark.parametrize('kernel', ['splash', 'cudnn'])
@pytest.mark.parametrize('options', [
    dict(window=40), pytest.param(dict(), marks=pytest.mark.slow)])
def test_the_kernels_are_the_mask_written_out(rng, monkeypatch, kernel,
                                              options):
  inputs, layout = _attention(rng, 30, 50)
  real = np.arange(180)[None, :] >= 30 - np.asarray(layout.length)[:, None]

  def gradients(inputs):
    def loss(inputs):
      out = attention_shared.causal(*inputs, layout, **options)
      out = jnp.where(real[:, :, None, None], out, 0)
      return jnp.sum(jnp.sin(3 * out)), out
    return jax.jit(jax.grad(loss, has_aux=True))(inputs)

  expected = gradients(inputs)
  monkeypatch.setattr(
      attention_kernels, 'choose', lambda *args, **kw: kernel)
  if kernel == 'splash':
    monkeypatch.setattr(attention_kernels, 'splash', functools.partial(
        attention_kernels.splash, interpret=True))
  else:  # The same call of a library, on the platform at hand.
    library = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, 'dot_product_attention',
        lambda *args, implementation, **kw: library(*args, **kw))
  with jax.numpy_rank_promotion('allow'):  # Inside of the libraries.
    actual = gradients(inputs)
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=1e-5, atol=1e-5), actual, expected)


@pytest.mark.parametrize('config, needs, message', [
    (reference.FAMILIES['capacity'], (), "expert_dispatch is 'capacity'"),
    (reference.FAMILIES['mixtral'], ('router',), 'once for each of its resp'),
    (CONFIG, ('entrophy',), 'entrophy'),
])
def test_what_cannot_be_shared_is_refused(config, needs, message):
  tokens, mask = rows()
  with pytest.raises(ValueError, match=message):
    shared.score(config, {}, tokens, shared.lay(mask, SIZES), needs=needs)
