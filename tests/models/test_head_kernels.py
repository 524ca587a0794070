"""The loss head's kernels, step by step, against the logits in pieces."""

import functools

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import (
  attention_kernels,
  head_blocks,
  head_kernels,
  partitioning,
  presets,
  quantized,
  scoring,
)
from policyopt.ops import bits
from tests.models import reference

WIDTH, VOCAB = 16, 300
ALL = frozenset({'entropy', 'sum_squared_probs'})
CONFIG = presets.preset(
    'nano', vocab_size=VOCAB, width=WIDTH, head_dim=8, mlp_width=24)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  """Several blocks of few rows, the last of the vocabulary not whole."""
  monkeypatch.setattr(head_blocks, '_LANES', 8)
  monkeypatch.setattr(head_blocks, '_STAYS', (16,))
  monkeypatch.setattr(head_blocks, '_GOES', (128,))


def draw(rng, config, batch=1, length=37, size=.3, vocab=VOCAB):
  """(params, hidden, tokens, a weight for each output)."""
  shape = (vocab, WIDTH)
  if not config.tied_embeddings:
    shape = shape[::-1]
  name = 'embedding' if config.tied_embeddings else 'head'
  params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32)}
  hidden = jnp.asarray(
      size * rng.normal(size=(batch, length, WIDTH)), config.dtype)
  tokens = jnp.asarray(rng.integers(0, vocab, (batch, length)), jnp.int32)
  weights = jnp.asarray(rng.normal(size=(3, batch, length)), jnp.float32)
  return params, hidden, tokens, weights


def by_xla(config, params, hidden, tokens, temperature, needs):
  return scoring._chunk(
      config, params, temperature, needs, hidden, tokens, None)


def by_kernel(config, params, hidden, tokens, temperature, needs):
  return head_kernels.head(config, params, hidden, tokens,
                           temperature=temperature, needs=needs, interpret=True)


def gradients(run, config, inputs, temperature=1., needs=ALL):
  """(outputs, the gradient of a sum that all of them enter)."""
  params, hidden, tokens, weights = inputs

  def loss(params, hidden, temperature):
    out = run(config, params, hidden, tokens, temperature, needs)
    return sum(jnp.sum(w * jnp.sin(x))
               for w, x in zip(weights, out.values())), out
  return reference.fast_jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
      params, hidden, temperature)


def close(actual, expected, **bounds):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **bounds),
               jax.device_get(actual), jax.device_get(expected))


@pytest.mark.parametrize('needs', [frozenset(), ALL])
@pytest.mark.parametrize('tied, softcap, temperature', [
    (True, None, 0.7), (False, None, 1.0), (False, 3.0, 0.7)])
def test_it_is_plain_scoring_with_gradients(
    rng, tied, softcap, temperature, needs):
  config = CONFIG.replace(tied_embeddings=tied, logit_softcap=softcap)
  inputs = draw(rng, config)
  actual, expected = (
      gradients(run, config, inputs, temperature, needs)
      for run in (by_kernel, by_xla))
  assert set(actual[1]) == {'log_probs', *needs}
  close(actual, expected, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize('tied', [True, False])
def test_bfloat16(rng, tied):
  """Products of bfloat16, sums of float32, as where XLA makes them."""
  config = CONFIG.replace(tied_embeddings=tied, dtype='bfloat16')
  inputs = draw(rng, config)
  actual, expected = (gradients(run, config, inputs)
                      for run in (by_kernel, by_xla))
  assert {x.dtype.name for x in actual[1].values()} == {'float32'}
  close(actual[1], expected[1], rtol=1e-4, atol=1e-5)
  for a, b in zip(*map(jax.tree.leaves, (actual[0], expected[0]))):
    assert a.dtype == b.dtype and a.shape == b.shape
    a, b = np.float32(a), np.float32(b)
    assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


def test_extreme_logits_stay_finite(rng):
  """Logits of ±10⁴: all the weight is on one token, in no set block."""
  params, hidden, tokens, weights = draw(rng, CONFIG)
  table = jnp.zeros((VOCAB, WIDTH)).at[:, 0].set(
      jnp.where(jnp.arange(VOCAB) == 290, 1e4, -1e4))
  table = table.at[150, 0].set(1e4)
  hidden = hidden.at[..., 0].set(1.)
  tokens = tokens.at[0, :2].set(jnp.array([290, 7]))
  inputs = {'embedding': table}, hidden, tokens, weights
  actual, expected = (gradients(run, CONFIG, inputs)
                      for run in (by_kernel, by_xla))
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(actual))
  close(actual, expected, rtol=1e-4, atol=1e-3)
  close(actual[1]['log_probs'][0, :2], -np.log(2) - np.array([0, 2e4]),
        rtol=1e-5)
  close(actual[1]['entropy'], np.full((1, 37), np.log(2)), rtol=1e-4)
  close(actual[1]['sum_squared_probs'], np.full((1, 37), 0.5), rtol=1e-4)


@pytest.mark.parametrize('tied, shape', [
    (True, (1, 2, 2, 1)), (False, (2, 2, 2, 1)), (True, (1, 4, 1, 1))])
def test_over_a_mesh(rng, tied, shape):
  config = CONFIG.replace(tied_embeddings=tied)
  inputs = draw(rng, config, batch=4, length=9)
  expected = gradients(by_xla, config, inputs, 0.7)
  mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])
  place = partitioning.param_shardings(config, mesh)
  params, hidden, *others = inputs
  params = {name: jax.device_put(x, place[name]) for name, x in params.items()}
  hidden = jax.device_put(hidden, partitioning.rows(mesh))
  with jax.set_mesh(mesh):
    actual = gradients(by_kernel, config, (params, hidden, *others), 0.7)
  close(actual, expected, rtol=2e-5, atol=5e-6)


# Every shape is compiled anew: a smaller example would take minutes.
@pytest.mark.slow
@settings(max_examples=8, deadline=None, phases=(Phase.generate,))
@given(st.integers(1, 20), st.integers(2, 260), st.booleans(),
       st.sampled_from([None, 2.]), st.floats(0.3, 2), st.floats(0, 3))
def test_any_shape(length, vocab, tied, softcap, temperature, size):
  config = CONFIG.replace(vocab_size=vocab, tied_embeddings=tied,
                          logit_softcap=softcap)
  rng = np.random.default_rng(length * vocab)
  inputs = draw(rng, config, length=length, size=size, vocab=vocab)
  actual, expected = (gradients(run, config, inputs, temperature)
                      for run in (by_kernel, by_xla))
  # A probability is as exact as its logit, in units and not in shares of it.
  head, = inputs[0].values()
  largest = np.abs(inputs[1] @ (head.T if tied else head)).max()
  rounding = 2.**-19 * (1 + min(largest, softcap or np.inf) / temperature)
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    assert np.abs(a - b).max() <= rounding * np.maximum(1, np.abs(b).max())
  log_probs, entropy, squares = (
      actual[1][name] for name in ('log_probs', 'entropy', 'sum_squared_probs'))
  assert (log_probs <= rounding).all() and (entropy >= -rounding).all()
  assert (entropy <= np.log(vocab) + rounding).all()
  # Jensen: exp(−H) <= Σ p² <= 1.
  assert (np.exp(-entropy) <= squares * (1 + 2 * rounding)).all()
  assert (squares <= 1 + rounding).all()


def test_the_temperature_has_no_gradient(rng):
  params, hidden, tokens, _ = draw(rng, CONFIG, length=3)
  by = reference.fast_jit(jax.grad(lambda temperature: jnp.sum(by_kernel(
      CONFIG, params, hidden, tokens, temperature, ALL)['entropy'])))
  assert by(0.7) == 0


def test_scores_go_through_it(rng, monkeypatch):
  """With tokens that nothing predicts, and what logits have no part in."""
  config = CONFIG.replace(loss_head='pallas', value_head=True, num_layers=1)
  params = reference.params(config)
  tokens = jnp.asarray(rng.integers(0, VOCAB, (2, 9)), jnp.int32)
  segments = jnp.array([[1] * 4 + [2] * 5, [1] * 6 + [0] * 3])
  needs = ALL | {'values', 'hidden'}

  def run(config):
    def loss(params):
      out = scoring.score(config, params, tokens, segments=segments,
                          temperature=0.7, needs=needs)
      return jnp.sum(jnp.sin(out.log_probs) + out.entropy + out.values), out
    return reference.fast_jit(jax.grad(loss, has_aux=True))(params)

  config = config.replace(attention='xla')
  by_params, expected = run(config.replace(loss_head='xla'))
  monkeypatch.setattr(attention_kernels, 'platform', lambda: 'tpu')
  monkeypatch.setattr(head_kernels, '_LANES', 8)
  monkeypatch.setattr(head_kernels, 'head', functools.partial(
      head_kernels.head, interpret=True))
  actual = run(config)
  close(actual, (by_params, expected), rtol=1e-4, atol=2e-5)
  for x in actual[1].log_probs, actual[1].entropy:
    assert not np.any(x[:, 0]) and not x[0, 4] and not np.any(x[1, 6:])


def _avals(jaxpr):
  """Every array of a jaxpr and of the jaxprs inside it."""
  for eqn in jaxpr.eqns:
    yield from (var.aval for var in eqn.outvars)
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      yield from _avals(inner)


@pytest.mark.parametrize('shape', [None, (1, 2, 2, 1)])
def test_no_logits_in_memory(monkeypatch, shape):
  """The program has no array as large, forward or backward."""
  monkeypatch.undo()  # Blocks of real sizes.
  config = CONFIG.replace(vocab_size=5000, width=128)
  batch, length = 4, 256
  params = {'embedding': jax.ShapeDtypeStruct((5000, 128), jnp.float32)}
  hidden = jax.ShapeDtypeStruct((batch, length, 128), jnp.float32)
  tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)

  def largest(run):
    def loss(params, hidden, tokens):
      out = run(config, params, hidden, tokens, 1., ALL)
      return sum(jnp.sum(x) for x in out.values())
    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(
        params, hidden, tokens).jaxpr
    return max(aval.size for aval in _avals(jaxpr) if hasattr(aval, 'size'))

  mesh = partitioning.make_mesh(shape or (1, 1, 1, 1),
                                jax.devices()[:np.prod(shape or 1)])
  with jax.set_mesh(mesh):
    assert largest(by_kernel) <= 5120 * 128  # The head, in whole blocks.
    assert largest(by_xla) == batch * length * 5000


def test_blocks_are_as_large_as_memory_allows(monkeypatch):
  monkeypatch.undo()
  hidden = jax.ShapeDtypeStruct((8192, 4096), jnp.bfloat16)
  sizes = {}
  for room in 12, 48:
    monkeypatch.setattr(head_blocks, '_room', lambda: room * 2**20)  # noqa: B023
    for kind in 'sums', 'by_hidden', 'by_head':
      rows, width = head_blocks._blocks(kind, hidden, 128256)
      assert head_blocks._bytes(kind, rows, width, 4096, 2, 2) <= room * 2**20
      sizes[room, kind] = width if kind == 'by_head' else rows
    assert head_blocks.fits(4096, 'bfloat16')
  assert sizes[12, 'sums'] == 256 and sizes[48, 'sums'] == 1024
  assert sizes[12, 'by_head'] >= 128 and sizes[48, 'by_head'] == 512
  # Rows are cut into even pieces.
  odd = jax.ShapeDtypeStruct((1100, 128), jnp.float32)
  assert head_blocks._blocks('sums', odd, 300) == (640, 384)
  monkeypatch.setattr(head_blocks, '_room', lambda: 12 * 2**20)
  assert not head_blocks.fits(16384, 'bfloat16')


def test_a_choice_that_cannot_be_made_says_why(monkeypatch):
  monkeypatch.undo()
  config = CONFIG.replace(loss_head='pallas', width=128)
  params = {'embedding': jnp.zeros((VOCAB, 128))}
  hidden = jnp.zeros((2, 9, 128))
  choose = head_kernels.choose

  def refused(message, config=config, params=params, hidden=hidden, **options):
    with pytest.raises(ValueError, match=f"'pallas' cannot be used here: "
                       f"{message}; 'auto' takes what can"):
      choose(config, params, hidden, **options)

  refused('the platform is cpu, not tpu')
  monkeypatch.setattr(attention_kernels, 'platform', lambda: 'tpu')
  assert choose(config, params, hidden, needs=ALL | {'values', 'hidden'},
                temperature=jnp.float32(2)) == 'pallas'
  for name in 'auto', 'xla':
    # Nothing was measured that 'auto' could go by.
    assert choose(config.replace(loss_head=name), params, hidden) == 'xla'
  refused('logits, top_ids would need logits in memory',
          needs={'logits', 'entropy', 'top_ids'})
  refused('the kept tokens would be read as a mask of the logits',
          kept=jnp.zeros((2, 9, bits.num_words(VOCAB)), jnp.uint32))
  refused('the head is quantised', params=quantized.quantize_params(
      params, 'int8'))
  refused('the dtype is float16, not bfloat16 or float32',
          config=config.replace(dtype='float16'))
  refused(r'the temperature has shape \(2, 1, 1\), not \(\)',
          temperature=jnp.ones((2, 1, 1)))
  with jax.default_matmul_precision('high'):
    refused('a product of high precision is none of its own')
  refused('width is 24, not a multiple of 128', hidden=hidden[..., :24])
  for shape, message in (
      ((4, 1, 1, 1), '2 rows are not a multiple of 4 shards of the mesh'),
      ((1, 1, 8, 1), '300 tokens do not divide into 8 shards of the mesh')):
    mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])
    with jax.set_mesh(mesh):
      refused(message)
  with pytest.raises(ValueError, match="loss_head = 'fused' must be one of "
                     'auto, xla, pallas'):
    CONFIG.replace(loss_head='fused')
