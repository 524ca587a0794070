"""Tests of what a run leaves on disk besides checkpoints and metrics."""

import json
import os
from types import SimpleNamespace

from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from policyopt.models.tokenizer import byte_tokenizer
from policyopt.training import evaluate, record


def evaluation(solved, **changes):
  solved = np.asarray(solved, bool)
  whole = dict(
      solved=solved, scored=np.ones_like(solved),
      answer=np.arange(solved.size, dtype=np.int32).reshape(solved.shape),
      length=np.full(solved.shape, 3, np.int32),
      truncated=np.zeros_like(solved))
  return evaluate.Evaluation(**(whole | changes))


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'result.json'
  record.write_atomically(str(path), 'old')
  record.write_atomically(str(path), b'newer')
  assert path.read_bytes() == b'newer'
  def full(*_):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space'):
    record.write_atomically(str(path), 'x' * 100)
  assert path.read_bytes() == b'newer'


def test_a_config_survives_its_run(tmp_path):
  config = common.base('quick')
  config.method_kw = dict(beta=0.5)
  record.save_run(config, str(tmp_path))
  loaded = record.load_config(str(tmp_path))
  # Tuples become lists, and that is all.
  assert json.loads(json.dumps(config.to_dict())) == loaded.to_dict()
  run = json.loads((tmp_path / 'config.json').read_text())
  assert run['versions']['jax'] and run['devices'] and run['command']
  record.check_same_run(config, str(tmp_path))
  with pytest.raises(ValueError, match='holds no run: .*config.json'):
    record.load_config(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize('change', [
    dict(steps=7), dict(checkpoint_every=1), dict(log_prompts=3),
    {'evaluation.every': 2}, {'task_kw.workers': 4},
    {'programs': 'elsewhere'}])
def test_a_resumed_run_may_change_how_it_is_watched(tmp_path, change):
  config = common.base('quick')
  record.save_run(config, str(tmp_path))
  config.update_from_flattened_dict(change)
  record.check_same_run(config, str(tmp_path))


@pytest.mark.parametrize('name, old, new', [
    ('seed', 0, 1), ('method', "'grpo'", 'rloo'), ('samples', 4, 8),
    ('optimizer.learning_rate', 0.0002, 0.1),
    ('evaluation.problems', 16, 32), ('model.preset', "'nano'", 'tiny')])
def test_a_run_of_another_config_is_not_resumed(tmp_path, name, old, new):
  config = common.base('quick')
  record.check_same_run(config, str(tmp_path))  # No run yet: nothing to say.
  record.save_run(config, str(tmp_path))
  config.update_from_flattened_dict({name: new})
  with pytest.raises(ValueError) as caught:
    record.check_same_run(config, str(tmp_path))
  text = str(caught.value)
  assert f'{name} = {old}' in text and repr(new) in text
  assert str(tmp_path) in text and '\n' not in text


def test_a_new_key_is_another_config(tmp_path):
  config = common.base('quick')
  record.save_run(config, str(tmp_path))
  config.method_kw = dict(beta=0.1)
  with pytest.raises(ValueError, match=r'method_kw.beta = None.*says 0.1'):
    record.check_same_run(config, str(tmp_path))


def test_the_clock_goes_on_after_a_restart(tmp_path, monkeypatch):
  now = [100.]
  monkeypatch.setattr(record.time, 'monotonic', lambda: now[0])
  clock = record.Clock(str(tmp_path))
  assert clock.tokens_per_second() == 0. and clock.checkpoint == 0
  now[0] += 30.  # The warm start is no training.
  clock.lap()
  now[0] += 2.
  clock.train_step(400)
  assert clock.tokens_per_second() == 200. and clock.seconds() == 32.
  clock.checkpoint = 5
  clock.save()
  now[0] += 1000.  # The run is dead.
  clock = record.Clock(str(tmp_path))
  assert clock.seconds() == 32. and clock.checkpoint == 5
  now[0] += 8.
  clock.lap()
  now[0] += 2.
  clock.train_step(100)
  assert clock.tokens_per_second() == 125. and clock.seconds() == 42.


def test_an_evaluation_is_made_once(tmp_path):
  clock = record.Clock(str(tmp_path))
  whole = evaluation([[1, 0], [1, 1]])
  made = []

  def failing():
    made.append('failed')
    raise KeyboardInterrupt

  def make():
    made.append('made')
    return whole

  with pytest.raises(KeyboardInterrupt):
    record.once(str(tmp_path), 'step-0', failing, clock)
  for _ in range(2):
    found = record.once(str(tmp_path), 'step-0', make, clock)
    for name, value in whole._asdict().items():
      np.testing.assert_array_equal(getattr(found, name), value)
      assert getattr(found, name).dtype == value.dtype
  record.once(str(tmp_path), 'step-9', make, clock)
  assert made == ['failed', 'made', 'made']


def test_sample_rows_are_the_first_prompts_as_text():
  words = byte_tokenizer()
  texts = [('1+1=', '2'), ('1+1=', '31'), ('20+4=', '24'), ('20+4=', '')]
  tokens = np.zeros((4, 10), np.int32)
  mask = np.zeros((4, 10), bool)
  rewards = {'accuracy': np.zeros((4, 10), np.float32),
             'form': np.zeros((4, 10), np.float32)}
  for row, (prompt, response) in enumerate(texts):
    ids = words.encode(prompt) + words.encode(response) + [words.eos_id]
    tokens[row, :len(ids)] = ids
    mask[row, len(words.encode(prompt)):len(ids)] = True
    rewards['accuracy'][row, len(ids) - 1] = float(row == 0)
    rewards['form'][row, len(ids) - 1] = 0.5
  rollout = SimpleNamespace(
      tokens=tokens, mask=mask, rewards=rewards,
      extras=dict(prompt=np.asarray([7, 7, 9, 9]), length=mask.sum(1)))
  first, second = record.sample_rows(words, rollout, 2, 2)
  assert first == dict(problem=7, prompt='1+1=', responses=[
      dict(text='2', reward=1.5), dict(text='31', reward=0.5)])
  assert second['problem'] == 9 and second['prompt'] == '20+4='
  assert [r['text'] for r in second['responses']] == ['24', '']
  assert len(record.sample_rows(words, rollout, 2, 1)) == 1
  assert record.sample_rows(words, rollout, 2, 0) == []


def test_the_prompt_of_a_row_that_was_not_scored():
  """Its mask is empty, so another row of the group shows where it begins."""
  words = byte_tokenizer()
  ids = [words.encode('1+1=2') + [words.eos_id],
         words.encode('1+1=3') + [words.eos_id]]
  mask = np.zeros((2, 6), bool)
  mask[1, 4:] = True
  rollout = SimpleNamespace(
      tokens=np.asarray(ids, np.int32), mask=mask,
      rewards={'accuracy': np.zeros((2, 6), np.float32)},
      extras=dict(prompt=np.asarray([3, 3]), length=np.asarray([2, 2])))
  row, = record.sample_rows(words, rollout, 2, 1)
  assert row['prompt'] == '1+1='


def test_the_table_shows_scores_side_by_side():
  scores = evaluate.summary(evaluation([[1, 0], [1, 1], [0, 0], [1, 1]]))
  gain = {'pass@1': dict(mean=.25, low=-.05, high=.55)}
  lines = record.table({'before': scores, 'gain': gain}).splitlines()
  assert '4 held-out problems, 2 samples each' in lines[0]
  assert lines[1].split() == ['before', 'gain']
  row = next(line for line in lines if line.startswith('pass@1'))
  assert row.split()[1] == '0.625'
  assert row.endswith('+0.250 [-0.050, +0.550]')
  assert any(line.startswith('length') and '3.000' in line for line in lines)


def test_the_result_of_a_run(tmp_path, capsys):
  (tmp_path / 'metrics.jsonl').write_text(
      ''.join(json.dumps(dict(step=i, reward=i / 4)) + '\n' for i in range(4)))
  before = evaluation([[0, 0], [1, 0], [0, 0], [0, 1]])
  after = evaluation([[1, 0], [1, 1], [0, 1], [0, 1]])
  result = record.finish(
      ConfigDict(dict(method='rloo')), str(tmp_path), before, after,
      record.Clock(str(tmp_path)))
  assert result['pass1_before'] == pytest.approx(.25)
  assert result['pass1_after'] == pytest.approx(.625)
  assert result['ci'][0] < .375 < result['ci'][1]
  saved = json.loads((tmp_path / 'result.json').read_text())
  assert {name: saved[name] for name in result} == result
  assert saved['gain']['pass@2']['mean'] == pytest.approx(.5)
  assert (tmp_path / 'curve.png').exists()
  assert 'after rloo' in capsys.readouterr().out
