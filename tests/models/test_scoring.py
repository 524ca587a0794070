"""Scores against a plain log-softmax, in chunks, packed, truncated, bf16."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import presets, scoring, transformer
from policyopt.ops import bits
from tests.models import reference

CONFIG = presets.preset(
    'nano', vocab_size=37, width=16, head_dim=8, mlp_width=24, logit_chunk=4,
    value_head=True)

fast_jit = reference.fast_jit
score = fast_jit(scoring.score, static_argnames=('config', 'needs'))
ALL = frozenset({'entropy', 'values', 'hidden', 'logits'})
close = functools.partial(np.testing.assert_allclose, atol=1e-5)


_params = functools.partial(functools.cache(reference.params), CONFIG)


def _tokens(batch, length, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, CONFIG.vocab_size, (batch, length)),
                     jnp.int32)


def _naive(tokens, temperature=1.0, keep=None):
  """(log_probs, entropy) from all the logits at once, in float64."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  hidden, _ = transformer.forward(CONFIG, _params(), tokens, positions)
  logits = transformer.logits(CONFIG, _params(), hidden)
  z = np.float64(logits)[:, :-1] / temperature
  if keep is not None:
    z = np.where(keep[:, 1:], z, -np.inf)
  log_p = z - np.log(np.sum(np.exp(z), axis=-1, keepdims=True))
  rows, cols = np.indices(tokens[:, 1:].shape)
  chosen = log_p[rows, cols, np.array(tokens)[:, 1:]]
  p = np.exp(log_p)
  entropy = -np.sum(np.where(p > 0, p * np.where(p > 0, log_p, 0), 0), -1)
  pad = [(0, 0), (1, 0)]
  return np.pad(chosen, pad), np.pad(entropy, pad)


@pytest.mark.parametrize('length', [4, 8, 9])
def test_equals_log_softmax(length):
  """One chunk, two whole ones, and three with padding."""
  tokens = _tokens(2, length)
  out = score(CONFIG, _params(), tokens, needs=frozenset({'entropy'}))
  log_probs, entropy = _naive(tokens)
  close(out.log_probs, log_probs)
  close(out.entropy, entropy)
  assert (out.values, out.logits, out.hidden) == (None, None, None)


def test_temperature_and_truncation():
  tokens = _tokens(2, 9)
  keep = np.random.default_rng(1).random((2, 9, 37)) < 0.4
  rows, cols = np.indices(tokens.shape)
  keep[rows, cols, np.array(tokens)] = True
  keep[0, :3] = False  # positions that were not sampled
  words = bits.pack_kept(jnp.asarray(keep))
  out = score(CONFIG, _params(), tokens, temperature=0.7, kept=words,
              needs=frozenset({'entropy'}))
  log_probs, entropy = _naive(
      tokens, 0.7, keep | ~keep.any(-1, keepdims=True))
  close(out.log_probs, log_probs)
  close(out.entropy, entropy)


def test_single_kept_token_has_probability_one():
  tokens = _tokens(1, 6)
  kept = bits.pack_kept(jax.nn.one_hot(tokens, 37, dtype=bool))
  out = scoring.score(CONFIG, _params(), tokens, kept=kept, temperature=0.0,
                      needs={'entropy'})
  close(out.log_probs, np.zeros((1, 6)), atol=1e-6)
  close(out.entropy, np.zeros((1, 6)), atol=1e-6)


def test_every_need_is_aligned_with_the_token():
  tokens = _tokens(2, 9)
  out = score(CONFIG, _params(), tokens, temperature=2.0, needs=ALL)
  rows, cols = np.indices((2, 8))
  log_p = jax.nn.log_softmax(out.logits, axis=-1)
  close(log_p[rows, cols + 1, np.array(tokens)[:, 1:]], out.log_probs[:, 1:])
  close(transformer.logits(CONFIG, _params(), out.hidden)[:, 1:] / 2,
        out.logits[:, 1:])
  close(transformer.values(CONFIG, _params(), out.hidden)[:, 1:],
        out.values[:, 1:])
  for name in 'log_probs', 'values', 'entropy', 'logits', 'hidden':
    assert not np.any(np.array(getattr(out, name))[:, 0]), name


def test_chunked_gradient_equals_whole():
  tokens = _tokens(2, 10)

  def gradient(chunk):
    config = CONFIG.replace(logit_chunk=chunk)
    def loss(params):
      out = scoring.score(config, params, tokens, needs={'entropy'})
      return jnp.sum(jnp.sin(out.log_probs) + out.entropy)
    return fast_jit(jax.grad(loss))(_params())

  jax.tree.map(functools.partial(close, rtol=1e-4), gradient(3), gradient(100))


def test_packed_equals_unpacked_with_gradients():
  tokens = _tokens(2, 5)
  packed = jnp.concatenate(
      [tokens[0, :3], tokens[1], jnp.zeros(2, jnp.int32)])[None]
  segments = jnp.array([[1] * 3 + [2] * 5 + [0] * 2])

  def both(params):
    run = functools.partial(scoring.score, CONFIG.replace(logit_chunk=99),
                            params, needs={'entropy', 'values'})
    one, two = run(packed, segments=segments), run(tokens)
    def parts(x, row):
      return jnp.stack([x.log_probs[row], x.entropy[row], x.values[row]])
    one, two = parts(one, 0), (parts(two, 0)[:, :3], parts(two, 1))
    return one, jnp.concatenate([*two, jnp.zeros((3, 2))], axis=1)

  def losses(params):
    return jnp.stack([jnp.sum(jnp.sin(x)) for x in both(params)]), both(params)

  gradient, (one, two) = fast_jit(jax.jacrev(losses, has_aux=True))(_params())
  close(one, two)
  assert one[0, [0, 3, 8, 9]].tolist() == [0.0] * 4
  jax.tree.map(lambda x: close(x[0], x[1], rtol=1e-4), gradient)


def _avals(jaxpr):
  """Every array of a jaxpr and of the jaxprs inside it."""
  for eqn in jaxpr.eqns:
    yield from (var.aval for var in eqn.outvars)
    for inner in jax.extend.core.jaxprs_in_params(eqn.params):
      yield from _avals(inner)


def _largest(fn, *args):
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  return max(aval.size for aval in _avals(jaxpr) if hasattr(aval, 'size'))


def test_never_all_logits_at_once():
  """Neither forward nor backward holds as many numbers as [B, T, V]."""
  config = CONFIG.replace(vocab_size=5000, logit_chunk=8, value_head=False)
  params = transformer.abstract_params(config)
  tokens = jax.ShapeDtypeStruct((4, 64), jnp.int32)

  def loss(params, tokens, needs):
    out = scoring.score(config, params, tokens, needs=needs)
    return jnp.sum(out.log_probs)

  lean = jax.grad(functools.partial(loss, needs={'entropy'}))
  assert _largest(lean, params, tokens) <= 4 * 8 * 5000
  full = functools.partial(loss, needs={'logits'})
  assert _largest(full, params, tokens) >= 4 * 64 * 5000


@pytest.mark.parametrize('tied', [True, False])
def test_bfloat16_runs_forward_and_backward(tied):
  """On CPU some bfloat16 products fail only when they run."""
  config = CONFIG.replace(tied_embeddings=tied, qkv_bias=True)
  params = reference.params(config)
  tokens = _tokens(8, 16)
  kept = bits.pack_kept(jnp.ones((8, 16, 37), bool))

  def gradient(dtype):
    def loss(params):
      out = scoring.score(config.replace(dtype=dtype), params, tokens,
                          kept=kept, needs={'entropy', 'values'})
      assert {x.dtype.name for x in jax.tree.leaves(out)} == {'float32'}
      return (out.log_probs.mean() + out.values.mean()
              + out.entropy.mean())
    return fast_jit(jax.value_and_grad(loss))(params)

  low, want = gradient('bfloat16'), gradient('float32')
  np.testing.assert_allclose(low[0], want[0], atol=0.05)
  for a, b in zip(jax.tree.leaves(low[1]), jax.tree.leaves(want[1])):
    # Directions agree; single entries carry three digits only.
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b) + 1e-4


@pytest.mark.parametrize('kw, message', [
    (dict(needs={'entrophy'}), 'entrophy'),
    (dict(temperature=0.0), 'temperature = 0.0 must be positive, or 0'),
    (dict(temperature=-1.0), 'temperature = -1.0 must be positive'),
    (dict(kept=jnp.zeros((1, 3, 1), jnp.uint32)), r'must be \(1, 3, 2\)'),
])
def test_refuses_bad_arguments(kw, message):
  with pytest.raises(ValueError, match=message):
    scoring.score(CONFIG, _params(), _tokens(1, 3), **kw)


def test_values_need_a_value_head():
  config = CONFIG.replace(value_head=False)
  with pytest.raises(ValueError, match='value_head = True'):
    scoring.score(config, _params(), _tokens(1, 3), needs={'values'})
