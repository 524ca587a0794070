"""Meshes, and that no way of splitting the model changes its numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import partitioning, presets, scoring, transformer
from tests.models import reference

P = jax.sharding.PartitionSpec
CONFIG = presets.preset(
    'nano', vocab_size=40, width=16, head_dim=8, mlp_width=24, logit_chunk=4,
    value_head=True, tied_embeddings=False)


def _loss(params, tokens):
  out = scoring.score(CONFIG, params, tokens, needs={'entropy', 'values'})
  return jnp.mean(jnp.sin(out.log_probs) + out.entropy + out.values)


@functools.cache
def _one_device():
  params = reference.params(CONFIG)
  tokens = jnp.asarray(
      np.random.default_rng(0).integers(0, 40, (8, 10)), jnp.int32)
  step = reference.fast_jit(jax.value_and_grad(_loss))
  return params, tokens, step(params, tokens)


@pytest.mark.parametrize(
    'shape', [(8, 1, 1, 1), (1, 8, 1, 1), (1, 2, 4, 1), (2, 2, 2, 1)])
def test_sharded_equals_one_device(shape):
  params, tokens, (want, want_gradient) = _one_device()
  mesh = partitioning.make_mesh(shape)
  shardings = partitioning.param_shardings(CONFIG, mesh)
  params = jax.device_put(params, shardings)
  tokens = jax.device_put(tokens, partitioning.rows(mesh))
  with jax.set_mesh(mesh):
    step = reference.fast_jit(jax.value_and_grad(_loss), out_shardings=(
        partitioning.replicated(mesh), shardings))
    loss, gradient = step(params, tokens)
  np.testing.assert_allclose(loss, want, atol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5),
               gradient, want_gradient)
  embedding = params['embedding'].addressable_shards[0].data
  assert embedding.shape == (40 // shape[2], 16 // shape[1])


def test_init_is_sharded_and_equal_inside_a_mesh():
  mesh = partitioning.make_mesh((1, 4, 2, 1))
  shardings = partitioning.param_shardings(CONFIG, mesh)
  init = functools.partial(transformer.init, CONFIG)
  with jax.set_mesh(mesh):
    got = reference.fast_jit(init, out_shardings=shardings)(jax.random.key(0))
  assert got['layers']['query'].sharding.spec == P(
      None, 'fsdp', 'tensor', None)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6),
               got, reference.fast_jit(init)(jax.random.key(0)))


def test_small_dimension_is_replicated():
  mesh = partitioning.make_mesh((1, 2, 4, 1))
  specs = partitioning.param_shardings(CONFIG, mesh)['layers']
  assert specs['key'].spec == P(None, 'fsdp', None, None)  # two key heads
  assert specs['query'].spec == P(None, 'fsdp', 'tensor', None)


def test_indivisible_dimension_names_tensor_and_axis():
  mesh = partitioning.make_mesh((1, 2, 4, 1))
  with pytest.raises(ValueError, match=(
      "dimension 0 of parameter 'embedding'.*'vocab', size 41.*tensor of "
      'size 4')):
    partitioning.param_shardings(CONFIG.replace(vocab_size=41), mesh)


def test_missing_rule_is_named():
  mesh = partitioning.make_mesh((8, 1, 1, 1))
  rules = {k: v for k, v in partitioning.RULES.items() if k != 'mlp'}
  with pytest.raises(ValueError, match="no rule for logical axis 'mlp'"):
    partitioning.param_shardings(CONFIG, mesh, rules)


def test_make_mesh():
  mesh = partitioning.make_mesh({'fsdp': -1, 'tensor': 2})
  assert dict(mesh.shape) == {'data': 1, 'fsdp': 4, 'tensor': 2, 'expert': 1}
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize('shape, message', [
    ((8, 1, 1), 'must have 4 sizes: data, fsdp'),
    ((3, 1, 1, 1), 'does not fit 8 devices'),
    ((-1, 3, 1, 1), 'does not fit 8 devices'),
    ((-1, -1, 1, 1), '-1 at most once'),
    ((0, 8, 1, 1), 'positive sizes'),
    ({'model': 8}, "mesh axis 'model' must be one of data"),
])
def test_make_mesh_says_what_is_wrong(shape, message):
  with pytest.raises(ValueError, match=message):
    partitioning.make_mesh(shape)


def test_constrain_needs_no_mesh():
  x = jnp.ones((3, 2))
  assert partitioning.constrain(x, 'batch', None) is x


def test_constrain_places_what_divides():
  place = jax.jit(lambda x: partitioning.constrain(x, 'batch', 'vocab'))
  with jax.set_mesh(partitioning.make_mesh((4, 1, 2, 1))):
    assert place(jnp.ones((8, 6))).sharding.spec == P('data', 'tensor')
    np.testing.assert_array_equal(place(jnp.ones((3, 5))), np.ones((3, 5)))


def test_constrain_inside_shard_map():
  mesh = partitioning.make_mesh((8, 1, 1, 1))
  double = jax.shard_map(
      lambda x: 2 * partitioning.constrain(x, 'batch'), mesh=mesh,
      in_specs=P('data'), out_specs=P('data'))
  assert jax.jit(double)(jnp.arange(8)).tolist() == list(range(0, 16, 2))
