"""Experts against a dense mixture, their neighbours, meshes and statistics."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import moe, partitioning, presets, scoring, transformer
from tests.models import reference

CONFIG = presets.preset(
    'nano', vocab_size=40, width=16, head_dim=8, mlp_width=24, num_experts=8,
    experts_per_token=3, expert_width=12, logit_chunk=4)
DISPATCH = ('dropless', 'capacity')
close = functools.partial(np.testing.assert_allclose, atol=1e-5)


@functools.cache
def _layer(seed=0):
  """One layer's parameters, with an expert that nobody chooses."""
  layer = {name: x[0] for name, x in
           reference.params(CONFIG, seed)['layers'].items()}
  return layer | {'router': layer['router'].at[:, 5].set(0).at[0, 5].set(-9)}


def _input(batch=4, length=6, seed=0):
  x = np.random.default_rng(seed).normal(size=(batch, length, CONFIG.width))
  x[..., 0] = np.abs(x[..., 0]) + 1  # so that expert 5 repels all tokens
  return jnp.asarray(x, jnp.float32)


def _dense(config, params, x):
  """Every expert for every token, most of it times 0."""
  probs = jax.nn.softmax(x @ params['router'])
  kept = jax.lax.top_k(probs, config.experts_per_token)[0][..., -1:]
  weights = jnp.where(probs >= kept, probs, 0)
  if config.normalize_experts:
    weights = weights / weights.sum(-1, keepdims=True)
  gate, up = (jnp.einsum('bsd,edf->bsef', x, params[f'expert_{name}'])
              for name in ('gate', 'up'))
  return jnp.einsum('bsef,efd,bse->bsd', jax.nn.silu(gate) * up,
                    params['expert_down'], weights)


def _mixture(config, params, x):
  return moe.mlp(config, params, x)[0]


def _value_and_gradient(fn, config, params, x):
  def loss(params, x):
    return jnp.sum(jnp.sin(3 * fn(config, params, x)))

  names = ('router', 'expert_gate', 'expert_up', 'expert_down')
  params = {name: params[name] for name in names}
  return reference.fast_jit(jax.value_and_grad(loss, (0, 1)))(params, x)


@pytest.mark.parametrize('dispatch', DISPATCH)
@pytest.mark.parametrize('normalize', [True, False])
def test_equals_a_dense_mixture(dispatch, normalize):
  """Gradients too; nothing is dropped when every expert has room for all."""
  config = CONFIG.replace(expert_dispatch=dispatch, expert_capacity=8 / 3,
                          normalize_experts=normalize)
  got = _value_and_gradient(_mixture, config, _layer(), _input())
  want = _value_and_gradient(_dense, config, _layer(), _input())
  jax.tree.map(close, got, want)
  gradient = got[1][0]
  assert not gradient['expert_up'][5].any()
  assert gradient['router'].any() == True  # noqa: E712


@pytest.mark.parametrize('dispatch', DISPATCH)
def test_a_row_does_not_depend_on_the_others(dispatch):
  config = CONFIG.replace(expert_dispatch=dispatch, expert_capacity=0.8)
  run = reference.fast_jit(functools.partial(_mixture, config))
  x, other = _input(4), _input(4, seed=1)
  whole = run(_layer(), x)
  mixed = run(_layer(), jnp.concatenate([other[:2], x[2:3], other[3:]]))
  np.testing.assert_array_equal(mixed[2], whole[2])
  close(run(_layer(), x[2:3])[0], whole[2], atol=1e-6)


@pytest.mark.parametrize('dispatch', DISPATCH)
def test_a_token_does_not_depend_on_later_ones(dispatch):
  config = CONFIG.replace(expert_dispatch=dispatch, expert_capacity=0.5)
  run = reference.fast_jit(functools.partial(_mixture, config))
  x = _input()
  later = run(_layer(), x.at[:, 4:].set(_input(seed=1)[:, 4:]))
  np.testing.assert_array_equal(later[:, :4], run(_layer(), x)[:, :4])


_run = reference.fast_jit(functools.partial(_mixture, CONFIG))


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.integers(0, 2 ** 31 - 1))
def test_labels_of_experts_and_order_of_tokens_do_not_matter(seed):
  rng = np.random.default_rng(seed)
  x = _input(seed=seed)
  order = rng.permutation(CONFIG.num_experts)
  renamed = _layer() | {
      'router': _layer()['router'][:, order],
      **{name: _layer()[name][order]
         for name in ('expert_gate', 'expert_up', 'expert_down')}}
  out = _run(_layer(), x)
  close(_run(renamed, x), out)
  tokens = rng.permutation(x.shape[1])
  close(_run(_layer(), x[:, tokens]), out[:, tokens])
  assert np.isfinite(_run(_layer(), 1e4 * x)).all()


def test_capacity_drops_what_has_no_place():
  """A factor so small that each expert takes one token of a row."""
  config = CONFIG.replace(expert_dispatch='capacity', expert_capacity=0.01)
  x = jnp.broadcast_to(_input(2, 1), (2, 6, CONFIG.width))
  out = _mixture(config, _layer(), x)
  close(out[:, :1], _mixture(CONFIG, _layer(), x[:, :1]))
  np.testing.assert_array_equal(out[:, 1:], 0)


def _loss(config, params, tokens):
  out = scoring.score(config, params, tokens, needs={'router'})
  router = out.router
  return (jnp.mean(jnp.sin(out.log_probs)) + jnp.mean(router['z'])
          + jnp.sum(jnp.sin(router['probs'] / router['tokens'])))


@functools.cache
def _one_device(dispatch, rows):
  config = CONFIG.replace(expert_dispatch=dispatch)
  params = reference.params(config)
  tokens = jnp.asarray(
      np.random.default_rng(0).integers(0, 40, (rows, 10)), jnp.int32)
  step = reference.fast_jit(jax.value_and_grad(
      functools.partial(_loss, config)))
  return config, params, tokens, step(params, tokens)


@pytest.mark.slow
@pytest.mark.parametrize('dispatch, shape, rows', [
    ('dropless', (1, 4, 1, 2), 8), ('dropless', (2, 1, 1, 4), 8),
    ('dropless', (1, 2, 2, 2), 8), ('dropless', (1, 8, 1, 1), 8),
    ('dropless', (1, 2, 2, 2), 3), ('capacity', (1, 2, 1, 4), 8),
    ('capacity', (1, 2, 2, 2), 8)])
def test_sharded_equals_one_device(dispatch, shape, rows):
  """Three rows are too few to be spread: every device routes them all."""
  config, params, tokens, (want, want_gradient) = _one_device(dispatch, rows)
  mesh = partitioning.make_mesh(shape)
  shardings = partitioning.param_shardings(config, mesh)
  params = jax.device_put(params, shardings)
  if rows % (shape[0] * shape[1]) == 0:
    tokens = jax.device_put(tokens, partitioning.rows(mesh))
  with jax.set_mesh(mesh):
    step = reference.fast_jit(
        jax.value_and_grad(functools.partial(_loss, config)),
        out_shardings=(partitioning.replicated(mesh), shardings))
    loss, gradient = step(params, tokens)
  close(loss, want)
  jax.tree.map(close, gradient, want_gradient)
  kernel = params['layers']['expert_up'].addressable_shards[0].data
  assert kernel.shape == (2, 8 // shape[3], 16 // shape[1], 12 // shape[2])


def test_no_device_gets_the_tokens_of_the_others():
  """Each sorts its own rows, whatever the mesh: no gather of activations."""
  mesh = partitioning.make_mesh((1, 4, 1, 2))
  config = CONFIG.replace(width=64)
  x = jax.ShapeDtypeStruct((8, 32, 64), jnp.float32, sharding=(
      partitioning.rows(mesh)))
  shardings = partitioning.param_shardings(config, mesh)['layers']
  shapes = transformer.abstract_params(config)['layers']
  params = {
      name: jax.ShapeDtypeStruct(
          shapes[name].shape[1:], jnp.float32,
          sharding=jax.NamedSharding(
              mesh, jax.P(*shardings[name].spec[1:])))
      for name in shapes if 'expert' in name or name == 'router'}
  with jax.set_mesh(mesh):
    text = reference.fast_jit(functools.partial(_mixture, config)).lower(
        params, x).compile().as_text()
  # Rows of a device: 2 of 32 tokens, 3 experts each.
  assert 'f32[192,64]' in text
  assert 'f32[768,64]' not in text
