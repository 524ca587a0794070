"""A profile of some steps of a run, its table, and what it counts."""

import json

import jax
import numpy as np
import pytest

from configs import common
from policyopt import methods
from policyopt.models import partitioning, transformer
from policyopt.models.presets import preset
from policyopt.training import loop, profile, profile_table, setup, work

MODEL = preset('nano', vocab_size=50, width=32, num_layers=2, num_heads=4,
               num_kv_heads=2, head_dim=8, mlp_width=48)


def make_config(**changes):
  config = common.base('quick')
  config.task, config.task_kw = 'arithmetic', dict(digits=1)
  config.model.kw.update(
      width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
      mlp_width=32)
  config.warm_start.update(steps=1, examples=8, rows=8, length=32)
  config.sampler.max_tokens = 4
  config.method_kw.update(beta=.1)  # Asks for a score.
  config.update(prompts=4, samples=4, steps=3, checkpoint_every=3)
  config.evaluation.update(problems=4, samples=2, every=0)
  config.update(changes)
  return config


@pytest.fixture(scope='module')
def profiled(tmp_path_factory, quick_compiles):
  """The folder of a run whose last two steps are profiled, and its result."""
  workdir = tmp_path_factory.mktemp('profiled')
  make_mesh = partitioning.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        partitioning, 'make_mesh',
        lambda shape, devices=None: make_mesh(
            shape, devices or jax.devices()[:1]))
    config = make_config(profile=(1, 3), ceilings=str(workdir / 'none.json'))
    loop.train(config, methods.from_config(config), str(workdir))
  return workdir, json.loads((workdir / 'profile/table.json').read_text())


@pytest.mark.slow
def test_there_is_a_trace_and_a_table(profiled):
  workdir, result = profiled
  assert list((workdir / 'profile').rglob('*.xplane.pb'))
  text = (workdir / 'profile' / 'table.md').read_text()
  assert text.startswith('Profile of steps 1-2: grpo, 16 rows')
  assert 'experiments/bench/ceilings.py' in text and 'see below' in text
  assert result['steps'] == [1, 2]


@pytest.mark.slow
def test_the_rows_are_the_step(profiled):
  result = profiled[1]
  rows = {row['phase']: row for row in result['phases']}
  assert tuple(rows) == profile_table.PHASES
  seconds = {name: row['seconds'] for name, row in rows.items()}
  assert sum(seconds.values()) == pytest.approx(result['seconds'])
  assert min(seconds.values()) >= 0
  # One of the two steps saves.
  for name in ('plan', 'prefill', 'verify', 'score', 'credit', 'update',
               'checkpoint'):
    assert seconds[name] > 0, name


@pytest.mark.slow
def test_the_phases_count_the_same_tokens(profiled):
  rows = {row['phase']: row for row in profiled[1]['phases']}
  tokens = {name: row['tokens'] for name, row in rows.items()}
  assert 16 <= tokens['decode'] == tokens['verify'] <= 16 * 4
  # Each prompt is read once by the sampler, and four times by the learner.
  assert tokens['update'] == tokens['score'] == tokens['credit']
  assert tokens['update'] == 4 * tokens['prefill'] + tokens['decode']
  # The policy's old log-probabilities are those of the update itself.
  assert rows['update']['flops'] == 3 * rows['score']['flops']


def test_other_steps_get_what_they_gave(tmp_path):
  config = make_config(profile=(1, 2))
  parts = setup.prepare(config, methods.from_config(config))
  parts.close()
  with profile.Profile(parts, str(tmp_path)) as profiles:
    for step in (0, 2):
      with profiles.step(step, None, parts, config) as given:
        assert given[0] is parts and given[1] is config
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('between', [
    (2, 2), (-1, 1), (0, 4), (1,), (0, 1, 2), ('a', 2), (0., 1), (True, 2)])
def test_bad_steps_are_told_at_once(between):
  config = make_config(profile=between)
  with pytest.raises(ValueError, match='^profile is .* must be start,stop') as (
      caught):
    setup.prepare(config, methods.from_config(config))
  assert '\n' not in str(caught.value) and 'steps = 3' in str(caught.value)


def test_ceilings_of_another_device_are_not_used(tmp_path):
  path = tmp_path / 'ceilings.json'
  here = profile_table.device()
  content = dict(here, copy=[dict(gbps=40.), dict(gbps=5.)], gemm=[
      dict(dtype='float32', gflops=200.), dict(dtype='float32', gflops=150.)])
  path.write_text(json.dumps(content))
  found, why = profile_table.read_ceilings(str(path), 'float32')
  assert found == {'flops': 200e9, 'bytes': 40e9} and not why
  assert 'bfloat16' in profile_table.read_ceilings(str(path), 'bfloat16')[1]
  path.write_text(json.dumps(content | {'device': 'TPU v9'}))
  found, why = profile_table.read_ceilings(str(path), 'float32')
  assert found is None and 'TPU v9' in why and profile_table.HOW in why


def _counted(prompts, lengths):
  """Operations of products in a forward pass, from the compiled program."""
  tokens = np.zeros((len(prompts), int(max(prompts + lengths))), np.int32)

  def run(params, tokens):
    positions = jax.numpy.broadcast_to(
        jax.numpy.arange(tokens.shape[1])[None], tokens.shape)
    hidden, _ = transformer.forward(MODEL, params, tokens, positions)
    return transformer.logits(MODEL, params, hidden)

  found = jax.jit(run).lower(
      transformer.abstract_params(MODEL), tokens).cost_analysis()
  return found['flops']


def test_operations_are_those_of_the_program():
  rows, length = 3, 40
  prompts, lengths = np.full(rows, 8), np.full(rows, length - 8)
  layers = MODEL.num_layers
  counted = work.rows(MODEL, prompts, lengths, 1, 1)
  # A loop's body is counted once, and the program computes masked scores too.
  body = work.forward(MODEL, 0 * prompts, prompts + lengths, 0)
  head = counted.flops - body.flops
  masked = 4 * MODEL.num_heads * MODEL.head_dim * rows * (
      length * length - length * (length + 1) / 2)
  expected = body.flops / layers + head + masked
  assert expected == pytest.approx(_counted(prompts, lengths), rel=.1)


def test_shared_prompts_are_counted_once():
  prompts, lengths = np.array([5, 5, 7, 7]), np.array([3, 1, 2, 4])
  own = work.rows(MODEL, prompts, lengths, 1, 1)
  shared = work.rows(MODEL, prompts, lengths, 2, 1)
  assert own.tokens == 34 and shared.tokens == 22
  assert shared.flops < own.flops and shared.bytes == own.bytes
  # Decoding is the same tokens as reading them, but the first and the last.
  steps = work.decode(MODEL, prompts, lengths, 3)
  assert steps.tokens == 10
  assert steps.bytes > 3 * work.weight_bytes(MODEL)


def test_windows_and_experts_take_less():
  first, count = np.array([0, 3]), np.array([6, 2])
  assert work.keys_seen(first, count) == sum(range(1, 7)) + 4 + 5
  assert work.keys_seen(first, count, 4) == 1 + 2 + 3 + 4 * 3 + 4 + 4
  near = MODEL.replace(window=4, windowed_layers=(True, False))
  assert work.forward(near, first, count, 0).flops < work.forward(
      MODEL, first, count, 0).flops
  experts = MODEL.replace(num_experts=4, experts_per_token=2, expert_width=24)
  # Two experts of half the width, and the router.
  assert work.forward(experts, first, count, 0).flops == work.forward(
      MODEL, first, count, 0).flops + 8 * 2 * 2 * 32 * 4
  assert work.weight_bytes(experts) > work.weight_bytes(MODEL)
