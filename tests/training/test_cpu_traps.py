"""What makes programs slow, large or impossible on CPUs, and is avoided there.

Nothing is timed: each test looks at a program's products and memory, compiled
as a run compiles it, or runs what could not be run.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import matmul, scoring, transformer, unrolled
from policyopt.rollouts import draw
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.training.learner import Batching
from policyopt.types import Prompts
from tests.compiling import AS_JAX_DOES
from tests.training import factory

NARROW = factory.MODEL.replace(dtype='bfloat16')
_DEFINED = re.compile(r'\s*(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]')
_DOT = re.compile(r' dot\(%?([\w.\-]+), %?([\w.\-]+)\)')


def compiled(fn, *args, **kwargs):
  """As JAX compiles it by itself, not as tests do."""
  return jax.jit(fn).lower(*args, **kwargs).compile(
      compiler_options=AS_JAX_DOES)


def products(text):
  """The dtypes (left, right) of every matrix product of a compiled program."""
  found, types = [], {}
  for line in text.splitlines():
    if line.endswith('{'):
      types = {}
    if match := _DEFINED.match(line):
      types[match[1]] = match[2]
    if match := _DOT.search(line):
      found.append((types[match[1]], types[match[2]]))
  return found


def operands(*shapes):
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [jax.random.normal(key, shape, jnp.bfloat16)
          for key, shape in zip(keys, shapes)]


def both(x, w, g):
  """A product and its two gradients."""
  y, back = jax.vjp(lambda x, w: matmul.contract(x, w, 1), x, w)
  return y, *back(g)


# --- products of bfloat16 (half the speed if the result is not float32) -------


def test_products_ask_for_float32():
  x, w, g = operands((2, 8, 16), (16, 24), (2, 8, 24))
  lowered = jax.jit(both).lower(x, w, g).as_text()
  results = re.findall(r'dot_general.*-> tensor<[\dx]+x(\w+)>', lowered)
  assert results == ['f32'] * 3
  assert {y.dtype for y in both(x, w, g)} == {jnp.dtype('bfloat16')}


def test_other_platforms_are_left_alone(monkeypatch):
  x, w, g = operands((16, 16), (16, 24), (16, 24))
  monkeypatch.setattr(matmul, 'platform', lambda: 'tpu')
  # Another function, so that nothing is found in a cache.
  lowered = jax.jit(lambda *a: both(*a)).lower(x, w, g).as_text()
  results = re.findall(r'dot_general.*-> tensor<[\dx]+x(\w+)>', lowered)
  assert results == ['bf16'] * 3
  assert 'contracting_dims = [0, 1]' not in lowered


@pytest.mark.parametrize('rows', [(64,), (4, 16), (1, 64), (64, 1)])
def test_the_weights_gradient_is_of_bfloat16_too(rows):
  """Over the first axis of two matrices it would be one of float32."""
  x, w, g = operands((*rows, 128), (128, 256), (*rows, 256))
  program = compiled(both, x, w, g)
  found = products(program.as_text())
  if not any('bf16' in pair for pair in found):
    pytest.skip('this CPU does not multiply bfloat16')
  assert found == [('bf16', 'bf16')] * 3
  wide = [y.astype(jnp.float32) for y in (x, w, g)]
  for actual, expected in zip(program(x, w, g), both(*wide)):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        actual.astype(np.float32), expected, atol=.01 * scale)


# --- bfloat16 that could be compiled and not run ------------------------------


def test_a_product_of_what_was_masked_runs():
  """A comparison fused before the transposition left no kernel to call."""
  x, w, g = operands((64, 32), (32, 48), (64, 48))

  def masked(x, w, g):
    keep = jnp.arange(64)[:, None] % 3 > 0
    return both(jnp.where(keep, x, 0), w, jnp.where(keep & (g > 0), g, 0))

  program = compiled(masked, x, w, g)
  assert all(np.isfinite(y.astype(np.float32)).all() for y in program(x, w, g))


@functools.cache
def update(model, **batching):
  """(compiled update, its state and credit)."""
  trainer = factory.Trainer('grpo', model=model, batching=Batching(**batching))
  credit, state, _ = trainer.credit(trainer.state(), factory.rollout())
  with jax.set_mesh(trainer.mesh):
    program = trainer.learner.update.lower(
        state, credit, jax.random.key(3)).compile(compiler_options=AS_JAX_DOES)
  return program, state, credit


@pytest.mark.slow
def test_a_narrow_update_runs():
  changed = []
  for model in (NARROW, factory.MODEL):
    program, state, credit = update(model, microbatches=2)
    before = jax.device_get(state.params)
    after, metrics = program(state, credit, jax.random.key(3))
    assert metrics['skipped_updates'][0] == 0
    changed.append(np.concatenate([
        (a - b).ravel() for a, b in zip(
            jax.tree.leaves(jax.device_get(after.params)),
            jax.tree.leaves(before))]))
  narrow, wide = changed
  assert np.linalg.norm(wide) > 0
  assert np.linalg.norm(narrow - wide) < .1 * np.linalg.norm(wide)


@pytest.mark.slow
def test_narrow_sampling_and_scoring_run():
  params = factory.parameters(0)
  prompts = Prompts(jnp.array([[5, 6, 7], [8, 9, 0]]), jnp.array([3, 2]))
  draw = jax.jit(
      sample, static_argnums=(0, 1), static_argnames='samples').lower(
          NARROW, SamplerConfig(max_tokens=6), params, prompts,
          jax.random.key(1), samples=4, row_ids=jnp.arange(8)).compile(
              compiler_options=AS_JAX_DOES)
  drawn = draw(params, prompts, jax.random.key(1), row_ids=jnp.arange(8))
  assert drawn.mask.sum() == 48
  score = jax.jit(scoring.score, static_argnums=0).lower(
      NARROW, params, drawn.tokens).compile(compiler_options=AS_JAX_DOES)
  scored = score(params, drawn.tokens).log_probs
  gap = np.abs(np.where(drawn.mask, scored - drawn.log_probs, 0)).max()
  assert np.isfinite(gap) and gap < .1


# --- what is computed or copied again and again -------------------------------


def test_angles_are_computed_once():
  """Not for every head of every layer, fused into whoever turns it."""
  model = factory.MODEL
  tokens = jnp.zeros((2, 8), jnp.int32)
  text = compiled(
      functools.partial(transformer.forward, model),
      transformer.abstract_params(model), tokens, tokens).as_text()
  assert text.count(' cosine(') == 1


def test_the_token_drawn_is_not_found_by_one_slow_reduction():
  """The largest and its place at once are compared element by element."""
  sampler = SamplerConfig(max_tokens=4)
  keys = jax.random.split(jax.random.key(0), 3)
  text = compiled(functools.partial(draw.draw, sampler), jnp.zeros((3, 29)),
                  keys, jnp.int32(0)).as_text()
  assert ' reduce(' in text
  assert not re.search(r'= \(f32\[[^=]* reduce\(', text)


def test_noise_is_not_made_by_a_loop_over_copies():
  """JAX's own threefry is one, which copies all of its numbers five times."""
  keys = jax.random.split(jax.random.key(0), 3)
  text = compiled(functools.partial(draw.draw, SamplerConfig()),
                  jnp.zeros((3, 29)), keys, jnp.int32(0)).as_text()
  loops = re.findall(r'= \((.*)\) while\(', text)
  assert not any('u32[3,29]' in carried for carried in loops)


def test_one_narrow_token_is_written_without_the_others(monkeypatch):
  """XLA widens a bfloat16 array to write to it, and narrows it again."""
  monkeypatch.setattr(unrolled, '_LARGE', 0)
  monkeypatch.setattr(unrolled, '_MANY', 0)
  limit, params = 11, transformer.abstract_params(NARROW)
  prompts = Prompts(jnp.ones((2, 8), jnp.int32), jnp.array([8, 5]))
  text = compiled(
      lambda params: sample(
          NARROW, SamplerConfig(max_tokens=limit), params, prompts,
          jax.random.key(0), samples=2, row_ids=jnp.arange(4)), params
      ).as_text()
  rows, width = 4 * NARROW.num_kv_heads, NARROW.head_dim
  assert f'f32[{rows},{width},{limit}]' in text
  shapes = f'{width},{limit}|{limit},{width}'
  assert not re.search(rf'bf16\[{rows},({shapes})\]', text)


# --- memory -------------------------------------------------------------------


def temporaries(**batching):
  """Bytes beyond arguments and results of an update."""
  return update(factory.MODEL, **batching)[0].memory_analysis(
      ).temp_size_in_bytes


@pytest.mark.slow
def test_microbatches_need_fewer_temporaries():
  assert temporaries(microbatches=4) < .6 * temporaries()
