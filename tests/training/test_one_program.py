"""A run as one program gives the numbers of the host's loop."""

import json

import jax
import numpy as np
import pytest

from configs import common
from policyopt import methods
from policyopt.training import loop, one_program

# One program is for one device, or for a mesh that divides its rows.
pytestmark = pytest.mark.usefixtures('one_device')


def _config(**changes):
  config = common.base('task=rules,steps=6,prompts=8,samples=4')
  config.tokenizer = 'characters:0123456789abcd='
  config.task_kw.digits = 2
  config.model.preset = 'nano'
  config.model.kw.update(vocab_size=24, width=32, mlp_width=64)
  config.sampler.max_tokens = 3
  config.warm_start.update(steps=80, examples=128, rows=64, length=16)
  config.warm_start.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.evaluation.update(problems=20, samples=4, every=4)
  config.update(changes)
  return config


@pytest.mark.slow
@pytest.mark.parametrize('name', ['grpo', 'dapo', 'bnpo', 'remax', 'ppo'])
def test_program_and_loop_give_the_same_numbers(name, tmp_path):
  config = _config(method=name)
  method = methods.from_config(config)
  program = one_program.make_program(config, method)
  run = jax.jit(program.train)(jax.random.key(config.seed))
  result = loop.train(config, method, str(tmp_path))
  rows = [json.loads(line)
          for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert any(row['reward'] > 0 for row in rows)
  for key, values in run.metrics.items():
    wanted = [row.get(key) for row in rows]
    wanted = np.array([np.nan if x is None else x for x in wanted], float)
    np.testing.assert_allclose(
        values, wanted, rtol=2e-4, atol=1e-5, err_msg=key)
  assert run.curve.solved.shape == (1, 20, 4)
  for stage, there in ('before', run.before), ('after', run.after):
    np.testing.assert_allclose(
        there.solved.mean(), result[f'pass1_{stage}'], atol=1e-6)


@pytest.mark.slow
def test_shared_prompts_change_nothing():
  results = []
  for share in (False, True):
    config = _config(steps=3)
    config.batching.share_prompts = share
    config.evaluation.update(problems=4, every=0)
    program = one_program.make_program(config, methods.from_config(config))
    run = jax.jit(program.train)(jax.random.key(config.seed))
    results.append((run.params, run.metrics))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.slow
def test_slots_change_nothing():
  """Groups, greedy baselines and evaluation, all of them in slots."""
  results = []
  for slots, chunk in (0, 0), (5, 4):
    config = _config(steps=2, method='remax')
    config.sampler.update(slots=slots, prefill_chunk=chunk)
    config.evaluation.update(problems=8, every=0)
    program = one_program.make_program(config, methods.from_config(config))
    results.append(jax.jit(program.train)(jax.random.key(config.seed)))
  static, ours = results
  assert static.metrics['reward'].max() > 0
  for name in 'params', 'metrics', 'before', 'after':
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        getattr(ours, name), getattr(static, name))


@pytest.mark.slow
def test_seeds_can_be_mapped_and_share_a_warm_start():
  config = _config(steps=3)
  program = one_program.make_program(config, methods.from_config(config))
  params = jax.jit(program.init)(jax.random.key(7))
  keys = jax.random.split(jax.random.key(1), 3)
  train = lambda key: program.train(key, params)
  mapped = jax.jit(lambda keys: jax.lax.map(train, keys))(keys)
  together = jax.jit(jax.vmap(train))(keys)
  alone = jax.jit(train)(keys[1])
  for runs in mapped, together:
    assert runs.metrics['reward'].shape == (3, 3)
    np.testing.assert_allclose(
        runs.metrics['reward'][1], alone.metrics['reward'],
        atol=1e-6)
  # Seeds differ in what they sample, not in where they start.
  first = np.asarray(mapped.before.solved).reshape(3, -1)
  assert (first[0] != first[1]).any()


def test_what_a_program_cannot_hold_is_refused():
  config = _config()
  config.batching.buckets = 2
  with pytest.raises(ValueError, match='batching.buckets is 2'):
    one_program.make_train(config, methods.grpo())
  config = common.base('quick')
  with pytest.raises(ValueError, match='judges on the host'):
    one_program.make_train(config, methods.grpo())
