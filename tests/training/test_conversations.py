"""Runs on a task that answers back."""

import json

import jax
import numpy as np
import pytest

from configs import common, gridworld
from policyopt import methods
from policyopt.envs.factory import environment
from policyopt.models.tokenizer import tokenizer
from policyopt.training import loop, one_program, warm_start
from policyopt.training.setup import prepare

pytestmark = pytest.mark.usefixtures('one_device')


def _config(**changes):
  config = gridworld.get_config()
  common.set_task(config, 'gridworld', side=3, walls=1, turns=5, wrong=.8)
  config.model.kw.update(vocab_size=24, width=32, mlp_width=64)
  config.sampler.max_tokens = 17
  config.warm_start.update(steps=120, examples=64, rows=16, length=104)
  config.warm_start.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.update(changes)
  return config


@pytest.mark.slow
def test_program_and_loop_give_the_same_numbers(tmp_path):
  config = _config(method='ppo', steps=3, prompts=8, samples=4)
  config.model.kw.num_layers = 1
  config.sampler.max_tokens = 15  # Some conversations are cut off.
  config.evaluation.update(problems=16, samples=4, every=0)
  method = methods.from_config(config)
  run = jax.jit(one_program.make_program(config, method).train)(
      jax.random.key(config.seed))
  result = loop.train(config, method, str(tmp_path))
  rows = [json.loads(line)
          for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert any(row['reward'] > 0 for row in rows)
  for key, values in run.metrics.items():
    wanted = [row.get(key) for row in rows]
    wanted = np.array([np.nan if x is None else x for x in wanted], float)
    np.testing.assert_allclose(
        values, wanted, rtol=2e-4, atol=1e-5, err_msg=key)
  for stage, there in ('before', run.before), ('after', run.after):
    np.testing.assert_allclose(
        there.solved.mean(), result[f'pass1_{stage}'], atol=1e-6)
  assert 0 < np.mean(run.before.truncated) < 1
  # A sample is shown as it was spoken: moves and replies by turns.
  shown = (tmp_path / 'samples.jsonl').read_text().splitlines()
  texts = [r['text'] for row in shown for r in json.loads(row)['responses']]
  assert any('@' in text for text in texts)


@pytest.mark.slow
def test_a_warm_start_learns_moves_and_reads_replies():
  env = environment(
      'gridworld', tokenizer('characters:0123456789udlr*#@'), side=3, turns=5)
  batch = warm_start.warm_batch(env, 0, 8, 4, 80)
  words = tokenizer('characters:0123456789udlr*#@')
  learned = np.asarray(batch.tokens)[np.asarray(batch.weights) > 0]
  moves = set(words.encode('udlr'))
  assert set(learned.tolist()) <= moves
  assert len(learned) == np.isin(batch.tokens, list(moves)).sum()
  np.testing.assert_allclose(batch.weights.sum(), 1, rtol=1e-5)


def test_what_conversations_cannot_be_is_refused():
  config = _config()
  with config.unlocked():
    config.sampler.slots = 8
  with pytest.raises(ValueError, match='sampler.slots is 8; conversations'):
    prepare(config, methods.from_config(config))


@pytest.mark.parametrize('need', ['turn', 'state_id'])
def test_turns_are_a_need_that_the_task_meets(need):
  config = _config()
  method = methods.from_config(config)
  method = method._replace(advantages=method.advantages._replace(
      needs=method.advantages.needs | {need}))
  assert prepare(config, method).train.turns.limit == 5
  config = common.base('task=arithmetic')
  with pytest.raises(ValueError, match=f'the method needs {need!r}'):
    prepare(config, method)
