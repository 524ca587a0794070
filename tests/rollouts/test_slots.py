"""The sampler in slots against the sampler of all rows at once."""

import dataclasses
import functools
import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import (
    cache_layers,
    partitioning,
    transformer,
    unrolled,
)
from policyopt.ops.signals.entropy_scale import Heat
from policyopt.rollouts import slots
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.types import Prompts
from tests.compiling import AS_JAX_DOES, SAMPLER_OF_A_RUN

draw = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')

PLAIN = SamplerConfig(max_tokens=7)
STOPS = dataclasses.replace(PLAIN, top_p=.9, stop_tokens=(3, 9, 20), pad_id=37)
LIMITS = (0, 1, 7, 2, 3, 50, 4)


def run(config, sampler, params, prompts, *, samples=5, limits=LIMITS, seed=1,
        heat=None, draw=draw):
  rows = samples * len(prompts.length)
  return draw(config, sampler, params, prompts, jax.random.key(seed),
              samples=samples, row_ids=3 * jnp.arange(rows), heat=heat,
              max_tokens=jnp.asarray(np.resize(limits, rows), jnp.int32))


def in_slots(sampler, slots, chunk=0):
  return dataclasses.replace(sampler, slots=slots, prefill_chunk=chunk)


def assert_same(ours, other, gap=1e-5):
  """All but the draws it took; numbers up to rounding."""
  for field in dataclasses.fields(other):
    a, b = getattr(ours, field.name), getattr(other, field.name)
    if field.name in ('log_probs', 'policy_log_probs', 'entropy'):
      np.testing.assert_allclose(a, b, atol=gap, err_msg=field.name)
    elif field.name != 'steps' and b is not None:
      np.testing.assert_array_equal(a, b, err_msg=field.name)


def scheduled(lengths, slots):
  """Draws that it takes when a free slot takes the next row at once."""
  free = [0] * slots
  for length in lengths:
    if length > 1:
      heapq.heappush(free, heapq.heappop(free) + int(length) - 1)
  return 1 + max(free)


@pytest.mark.parametrize('sampler, count, chunk', [
    (STOPS, 3, 0),
    (STOPS, 8, 2),
    (STOPS, 16, 0),
    (dataclasses.replace(PLAIN, temperature=0.), 1, 0),
    (dataclasses.replace(PLAIN, temperature=1.4, top_k=9, min_p=.02), 19, 1),
], ids=str)
def test_slots_draw_the_same_rows(
    sampler, count, chunk, config, params, prompts):
  ours = run(config, in_slots(sampler, count, chunk), params, prompts)
  other = run(config, sampler, params, prompts)
  assert_same(ours, other)
  assert len(set(other.length.tolist())) > 3
  best = scheduled(other.length, count)
  if not chunk:
    assert int(ours.steps) == best
  # A slot may stay free for a step while the next prompts are read.
  assert best <= int(ours.steps) <= best + 4


@pytest.mark.parametrize('chunk', [0, 2])
def test_slots_of_a_cache_in_tiles_draw_the_same_rows(
    chunk, config, params, prompts, monkeypatch):
  expected = run(config, STOPS, params, prompts)
  monkeypatch.setattr(unrolled, '_LARGE', 0)
  monkeypatch.setattr(cache_layers, '_TILE', 4)
  for sampler in STOPS, in_slots(STOPS, 8, chunk):
    draw = jax.jit(lambda *args, **kw: sample(*args, **kw),
                   static_argnums=(0, 1), static_argnames='samples')
    assert_same(run(config, sampler, params, prompts, draw=draw), expected)


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    pytest.param(AS_JAX_DOES, id='by itself'),
    pytest.param(SAMPLER_OF_A_RUN, id='run')])
def test_same_tokens_as_in_a_run(options, config, params, prompts):
  """There rounding depends on how many rows there are."""
  optimised = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples',
                      compiler_options=options)
  sampler = dataclasses.replace(PLAIN, max_tokens=12, stop_tokens=(3, 9))
  other, ours = (
      run(config, x, params, prompts, samples=16, limits=0, draw=optimised)
      for x in (sampler, in_slots(sampler, 16)))
  assert_same(ours, other)
  assert int(ours.steps) == scheduled(other.length, 16)


def test_heat(config, params, prompts):
  heat = Heat(*map(jnp.float32, (.5, .6, .7, 1.5, 2.)))
  ours, other = (run(config, x, params, prompts, heat=heat)
                 for x in (in_slots(PLAIN, 6), PLAIN))
  assert_same(ours, other)
  cold = run(config, PLAIN, params, prompts)
  assert (other.tokens != cold.tokens).any()


def test_one_program_for_all_lengths(config, params, prompts):
  """And it ends with its last row, also when all end with their first token."""
  traces = []

  @jax.jit
  def compiled(limits, length, seed):
    traces.append(limits.shape)
    return sample(config, in_slots(PLAIN, 4), params,
                  Prompts(prompts.tokens, length), jax.random.key(seed),
                  samples=5, row_ids=jnp.arange(20), max_tokens=limits)

  for limits in ([1] * 20, [7] * 20, [1] * 19 + [6], [5] + [2] * 19,
                 list(range(1, 8)) * 2 + [3] * 6):
    out = compiled(jnp.array(limits), prompts.length, sum(limits))
    assert out.length.tolist() == limits
    assert int(out.steps) == scheduled(limits, 4)
  assert len(traces) == 1


@pytest.mark.parametrize('count, widths', [
    (16, (16, 8, 4)), (12, (12, 6)), (8, (8, 4)), (9, (9,)), (6, (6,))])
def test_the_last_rows_are_decoded_in_fewer_slots(
    count, widths, config, params, prompts, monkeypatch):
  seen, forward = [], transformer.forward
  monkeypatch.setattr(transformer, 'forward', lambda config, params, tokens,
                      *args, **kw: seen.append(tokens.shape) or forward(
                          config, params, tokens, *args, **kw))
  draw = jax.jit(lambda *args, **kw: sample(*args, **kw),
                 static_argnums=(0, 1), static_argnames='samples')
  draw.trace(config, in_slots(PLAIN, count), params, prompts,
             jax.random.key(1), samples=5, row_ids=jnp.arange(20))
  prompts_read, *decoded = dict.fromkeys(seen)
  assert prompts_read == prompts.tokens.shape
  assert decoded == [(width, 1) for width in widths]


@pytest.mark.slow
@pytest.mark.parametrize('shape, count, chunk', [
    ((2, 2, 2, 1), 8, 0), ((4, 1, 1, 1), 8, 4), ((2, 1, 1, 1), 16, 4)])
def test_shards_refill_their_own_slots(
    shape, count, chunk, config, params, prompts):
  prompts = Prompts(jnp.tile(prompts.tokens, (2, 1)),
                    jnp.tile(prompts.length, 2))
  other = run(config, STOPS, params, prompts, samples=3)
  mesh = partitioning.make_mesh(shape, jax.devices()[:np.prod(shape)])
  rows = partitioning.rows(mesh)
  params = jax.device_put(params, partitioning.param_shardings(config, mesh))
  with jax.set_mesh(mesh):
    ours = run(config, in_slots(STOPS, count, chunk), params,
               jax.device_put(prompts, rows), samples=3)
  assert_same(ours, other)
  # Two slots for the six rows of each shard, which go on until the slowest.
  if not chunk:
    lengths = np.asarray(other.length).reshape(4, 6)
    assert int(ours.steps) == max(scheduled(x, 2) for x in lengths)


def test_the_record_is_long_enough():
  """Random schedules never take more steps than there is room for."""
  rng = np.random.default_rng(0)
  for _ in range(300):
    limit, count, rows = rng.integers([2, 1, 2], [9, 6, 30])
    count = min(count, rows - 1)
    lengths = rng.integers(1, limit + 1, rows)
    lengths[rng.uniform(size=rows) < .5] = limit
    assert scheduled(lengths, count) - 1 <= slots._most_steps(
        limit, rows, count, 1, 1)


@pytest.mark.parametrize('changes, batch, message', [
    (dict(slots=9), (2, 4), r'sampler\.slots is 9; .* = 8 rows'),
    (dict(slots=4, prefill_chunk=3), (4, 4),
     r'sampler\.prefill_chunk is 3; it must divide the 4 prompts'),
    (dict(slots=6), (8, 4, 4), r'sampler\.slots is 6; .* the 4 shards'),
    (dict(slots=4), (6, 4, 4), r'prompts is 6; .* the 4 shards'),
    (dict(slots=4, prefill_chunk=2), (8, 4, 4),
     r'sampler\.prefill_chunk is 2; .* the 4 shards')])
def test_batches_that_do_not_fit_are_refused(changes, batch, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(PLAIN, **changes).check_slots(*batch)


@pytest.mark.parametrize('changes', [
    dict(slots=-1), dict(slots=2.), dict(prefill_chunk=-1, slots=2),
    dict(prefill_chunk=2)])
def test_bad_settings_are_named(changes):
  name = next(iter(changes))
  with pytest.raises(ValueError, match=rf'sampler\.{name} is .*must be'):
    dataclasses.replace(PLAIN, **changes).validate(38)


def test_more_slots_than_rows_decode_all_at_once(config, params, prompts):
  shapes = [
      jax.make_jaxpr(functools.partial(
          sample, config, in_slots(PLAIN, count), samples=1))(
              params, prompts, jax.random.key(0), row_ids=jnp.arange(4))
      for count in (0, 4, 99)]
  assert len(set(map(str, shapes))) == 1
