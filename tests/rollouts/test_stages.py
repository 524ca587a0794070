"""Decoding in stages, whose caches grow, against one with all slots at once."""

import dataclasses
import re

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import cache_layers, unrolled
from policyopt.rollouts import multi_turn, stages
from policyopt.rollouts.sampler import SamplerConfig, sample
from tests.rollouts import test_multi_turn as conversations

LIMIT, SAMPLES = 11, 3
PLAIN = SamplerConfig(max_tokens=LIMIT)
STOPS = dataclasses.replace(PLAIN, top_p=.9, stop_tokens=(3, 9, 20), pad_id=37)
FIRST = dataclasses.replace(PLAIN, stop_tokens=tuple(range(38)))


@pytest.fixture(name='staged')
def _staged(monkeypatch):
  """Small models count as large, and short responses as long."""
  def change(tile):
    monkeypatch.setattr(unrolled, '_LARGE', 0)
    monkeypatch.setattr(stages, '_FEWEST_TOKENS', 3)
    monkeypatch.setattr(stages, '_MULTIPLE', 4)
    monkeypatch.setattr(cache_layers, '_TILE', tile)
  return change


def drawing(config, sampler, params, prompts):
  rows = SAMPLES * len(prompts.length)
  return jax.jit(lambda params: sample(
      config, sampler, params, prompts, jax.random.key(1), samples=SAMPLES,
      row_ids=jnp.arange(rows), max_tokens=jnp.arange(rows) % LIMIT))


def assert_same(ours, other):
  for (path, a), b in zip(jax.tree.leaves_with_path(ours),
                          jax.tree.leaves(other), strict=True):
    check = (np.testing.assert_array_equal if a.dtype != jnp.float32 else
             lambda a, b, err_msg: np.testing.assert_allclose(
                 a, b, atol=1e-5, err_msg=err_msg))
    check(a, b, err_msg=jax.tree_util.keystr(path))


@given(st.integers(1, 100_000))
def test_ends(limit):
  found = stages.ends(limit)
  sizes = np.diff([0, *found])
  assert found[-1] == limit
  assert len(found) <= max(1, min(4, limit // 128))
  assert (sizes > 0).all()
  assert all(size == sizes[0] and size % 64 == 0 for size in sizes[:-1])
  assert sizes[-1] <= sizes[0]


@pytest.mark.parametrize('tile, sampler', [
    (2, STOPS), pytest.param(64, PLAIN, marks=pytest.mark.slow), (2, FIRST)],
    ids=str)
def test_stages_draw_the_same_rows(
    tile, sampler, config, params, prompts, staged):
  expected = drawing(config, sampler, params, prompts)(params)
  staged(tile)
  assert stages.ends(LIMIT) == (4, 8, 11)
  assert_same(drawing(config, sampler, params, prompts)(params), expected)


@pytest.mark.slow
def test_stages_draw_the_same_conversations(config, params, prompts, staged):
  expected = conversations.run(config, params, prompts)
  staged(2)
  draw = jax.jit(lambda *args, **kw: multi_turn.sample(*args, **kw),
                 static_argnums=(0, 1), static_argnames=('samples', 'turns'))
  assert len(stages.ends(conversations.PLAIN.max_tokens)) > 2
  assert_same(
      conversations.run(config, params, prompts, draw=draw), expected)


def test_early_tokens_are_not_shown_late_slots(
    config, params, prompts, staged):
  staged(64)
  text = drawing(config, PLAIN, params, prompts).lower(params).as_text()
  rows = SAMPLES * len(prompts.length) * config.num_kv_heads
  for slots in stages.ends(LIMIT):
    # The product of a token with the keys.
    assert re.search(
        rf'dot_general.*tensor<{rows}x{config.head_dim}x{slots}x', text)


def test_what_is_full_stays_where_it_is():
  keys, values = jnp.arange(1., 13).reshape(1, 2, 3, 2), jnp.ones((1, 4, 3))
  cache = cache_layers.LayerCache(
      (keys,), (values,), cache_layers.Prompts(jnp.ones(1, int), (), ()), 1,
      jnp.dtype('float32'))
  grown = cache_layers.grow(cache, 7)
  np.testing.assert_array_equal(grown.keys[0][:, :2], keys)
  np.testing.assert_array_equal(grown.values[0][:, :4], values)
  assert grown.keys[0].shape == (1, 4, 3, 2)
  assert grown.values[0].shape == (1, 8, 3)
  assert not grown.keys[0][:, 2:].any() and not grown.values[0][:, 4:].any()
