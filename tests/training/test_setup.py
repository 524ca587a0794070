"""Everything that can be wrong in a config is said in a line, at once."""

from ml_collections import ConfigDict
import pytest

from configs import common
from policyopt import methods
from policyopt.training import loop, record, setup, workdir
from policyopt.training.compiles import count_compiles
from policyopt.types import Loss


def make_config(changes=None):
  """A small run of the task that needs no processes, with some changes."""
  config = common.base('quick')
  config.task, config.task_kw = 'arithmetic', ConfigDict(type_safe=False)
  config.batching.microbatches = 2
  for name, value in (changes or {}).items():
    *folders, last = name.split('.')
    folder = config
    for part in folders:
      folder = folder[part]
    folder[last] = value
  return config


def make_method(config, needs=None):
  method = methods.from_config(config)
  if needs is not None:
    method = method._replace(loss=Loss(method.loss.apply, frozenset(needs)))
  return method


def assert_refused(config, message, needs=None):
  """One line that says so, and nothing was compiled for it."""
  with count_compiles() as compiles, pytest.raises(ValueError) as error:
    setup.prepare(config, make_method(config, needs))
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  assert compiles.count == 0


@pytest.mark.parametrize('changes, message', [
    # Names.
    ({'task': 'aritmetic'},
     "unknown task 'aritmetic': did you mean 'arithmetic'?"),
    ({'task': 'reasoning_gym:chain_sun'}, "'chain_sum'"),
    ({'task_kw': {'digitz': 1}},
     "unknown argument of arithmetic 'digitz': did you mean 'digits'?"),
    ({'task_kw': {'digits': 9}}, 'digits is 9, but must be 1 to 4'),
    ({'model.preset': 'namo'},
     "unknown model preset 'namo': did you mean 'nano'?"),
    ({'model.kw': {'widht': 8}},
     "unknown field of ModelConfig 'widht': did you mean 'width'"),
    ({'model.kw': {'num_heads': 3}},
     'num_heads = 3 must be a multiple of num_kv_heads = 2'),
    ({'model.kw': {'value_head': True}},
     'model.kw.value_head is True; set model.value_head instead'),
    ({'tokenizer': 'bite'}, "tokenizer is 'bite', but must be 'byte'"),
    ({'optimizer.name': 'adamm'}, "unknown optimizer.name 'adamm': did you"),
    ({'warm_start.optimizer.name': 'sdg'}, "did you mean 'sgd'"),
    # Sizes that do not go together.
    ({'sampler.max_tokens': 125},
     "task 'arithmetic' has prompts of up to 6 tokens and sampler.max_tokens "
     'is 125: together 131, more than model.max_length = 128'),
    ({'task_kw': {'digits': 4}, 'model.kw': {'max_length': 17}},
     'together 18, more than model.max_length = 17'),
    ({'model.kw': {'vocab_size': 100}},
     "tokenizer 'byte' has 264 tokens, more than the vocabulary of the model "
     '(100): set model.kw.vocab_size to at least 264'),
    ({'sampler.slots': 33},
     'sampler.slots is 33; prompts x samples = 32 rows need no more'),
    ({'sampler.slots': 12},
     'sampler.slots is 12; with sampler.slots it must be a multiple of the 8 '
     'shards'),
    ({'samples': 1},
     "samples is 1: method 'grpo' compares responses to the same prompt, so "
     'it needs at least 2 samples per prompt'),
    ({'prompts': 9},
     'prompts is 9; it must be a multiple of batching.minibatches x '
     'batching.microbatches = 2'),
    ({'batching.minibatches': 2, 'prompts': 6}, 'batching.microbatches = 4'),
    ({'batching.share_prompts': True},
     'prompts is 8 in 2 pieces; it must be a multiple of pieces x shards = 2 x '
     '8'),
    ({'batching.share_prompts': True, 'batching.packed': True},
     'batching.share_prompts and batching.packed are both True'),
    ({'batching.share_prompts': True, 'model.kw': {
        'num_experts': 4, 'experts_per_token': 2, 'expert_width': 8,
        'expert_dispatch': 'capacity'}},
     "batching.share_prompts is True, but expert_dispatch is 'capacity'"),
    ({'prompts': 6, 'samples': 2},
     'prompts x samples is 12 rows in 2 pieces; each piece must be a multiple '
     "of the 8 shards of the mesh ('data' x 'fsdp')"),
    ({'warm_start.rows': 12},
     'warm_start.rows is 12; it must be a multiple of '
     'warm_start.microbatches x shards = 8'),
    ({'evaluation.problems': 40, 'task_kw': {'size': 39}},
     "evaluation.problems is 40, but task 'arithmetic' has only 39 held-out"),
    # The mesh.
    ({'mesh.data': 3}, 'does not fit 8 devices: the product must be equal'),
    ({'mesh.data': 0}, 'must hold positive sizes'),
    ({'mesh.data': 1, 'mesh.tensor': 8, 'model.kw': {'mlp_width': 12}},
     'must be divisible by mesh axes tensor of size 8'),
    # Numbers out of range.
    *(({name: 0}, f'{name} is 0; it must be at least 1') for name in (
        'prompts', 'samples', 'steps', 'batching.epochs',
        'batching.minibatches', 'batching.microbatches', 'batching.buckets',
        'warm_start.rows',
        'warm_start.examples', 'warm_start.microbatches', 'max_skipped',
        'checkpoint_every', 'evaluation.problems', 'evaluation.samples')),
    ({'sampler.temperature': -1.}, 'sampler.temperature is -1.0; it must be'),
    ({'sampler.top_p': 0.}, 'sampler.top_p is 0.0; it must be in (0, 1]'),
    ({'sampler.top_k': -1}, 'sampler.top_k is -1; it must be a whole number'),
    ({'sampler.min_p': 2.}, 'sampler.min_p is 2.0; it must be in [0, 1]'),
    ({'sampler.max_tokens': 0}, 'sampler.max_tokens is 0; it must be'),
    # A value head that was switched off.
    ({'method': 'ppo', 'model.value_head': False},
     "the method needs 'values', which this run does not supply. It comes "
     'from: a model with a value head'),
])
def test_what_is_wrong_is_said(changes, message):
  assert_refused(make_config(changes), message)


def test_a_need_that_the_task_does_not_meet():
  assert_refused(
      make_config(), "the method needs 'turn', which this run does not "
      'supply. It comes from: an environment with several turns', {'turn'})


def test_a_need_that_nobody_knows():
  assert_refused(
      make_config(), "the method needs 'moonlight', which this run does not "
      'supply. It comes from: nothing; known are answer_id, ', {'moonlight'})


def test_a_task_without_answers_is_not_warm_started(monkeypatch):
  real = setup.environment
  monkeypatch.setattr(setup, 'environment', lambda *args, **kw: real(
      *args, **kw)._replace(answer=None))
  message = 'has no reference answers'
  assert_refused(make_config(), message)
  config = make_config({'warm_start.steps': 0})
  assert setup.prepare(config, make_method(config)).train.answer is None


def test_environments_are_closed_after_an_error(monkeypatch):
  closed, real = [], setup.environment
  monkeypatch.setattr(setup, 'environment', lambda spec, words, split, **kw:
                      real(spec, words, split, **kw)._replace(
                          close=lambda: closed.append(split)))
  assert_refused(make_config(), 'moonlight', {'moonlight'})
  assert closed == ['train', 'test']


def test_what_a_good_config_gives():
  config = make_config({'method': 'ppo', 'batching.epochs': 3})
  with count_compiles() as compiles:
    parts = setup.prepare(config, make_method(config))
  assert compiles.count == 0
  assert parts.model.value_head and parts.model.num_layers == 2
  assert parts.batching == (3, 1, 2, 1, False, False)
  assert parts.sampler.stop_tokens == (parts.tokenizer.eos_id,)
  assert dict(parts.mesh.shape) == dict(data=8, fsdp=1, tensor=1, expert=1)
  assert parts.train.name == parts.test.name == 'arithmetic'
  parts.close()


def test_only_a_method_with_values_gets_a_value_head():
  config = make_config()
  assert not setup.prepare(config, make_method(config)).model.value_head


def test_the_method_wraps_the_optimizer():
  config, seen = make_config(), []
  method = make_method(config)._replace(
      optimizer=lambda inner: seen.append(inner) or 'wrapped')
  assert setup.prepare(config, method).optimizer == 'wrapped'
  assert len(seen) == 1


@pytest.mark.parametrize('below', ['', 'sub/folder'])
def test_a_file_in_the_way_of_the_workdir(tmp_path, below):
  (tmp_path / 'file').write_text('mine')
  workdir = str(tmp_path / 'file' / below)
  config = make_config()
  with count_compiles() as compiles, pytest.raises(ValueError) as error:
    loop.train(config, make_method(config), workdir)
  assert str(error.value).startswith(f'workdir {workdir!r} cannot be written')
  assert '\n' not in str(error.value) and compiles.count == 0
  assert (tmp_path / 'file').read_text() == 'mine'


def test_a_workdir_without_a_name():
  with pytest.raises(ValueError, match='workdir is empty; it must name'):
    workdir.check_workdir('')


def test_a_workdir_is_made(tmp_path):
  workdir.check_workdir(str(tmp_path / 'a' / 'b'))
  assert list((tmp_path / 'a' / 'b').iterdir()) == []


def test_a_run_may_go_on_on_another_mesh(tmp_path):
  record.save_run(make_config(), str(tmp_path))
  record.check_same_run(
      make_config({'mesh.data': 2, 'mesh.fsdp': 4}), str(tmp_path))


def test_a_workdir_with_another_run(tmp_path):
  workdir = str(tmp_path)
  record.save_run(make_config(), workdir)
  other = make_config({'sampler.top_k': 5})
  with count_compiles() as compiles, pytest.raises(ValueError) as error:
    loop.train(other, make_method(other), workdir)
  assert str(error.value) == (
      f'workdir {workdir!r} holds a run with sampler.top_k = 0, but the config '
      'says 5: use the same config to resume it, or another workdir to start '
      'anew')
  assert compiles.count == 0


@pytest.mark.parametrize('changes', [
    {}, {'steps': 99}, {'checkpoint_every': 7}, {'keep_checkpoints': 1},
    {'log_prompts': 3}, {'max_skipped': 5}, {'evaluation.every': 2},
    {'profile': (1, 2)}])
def test_a_resumed_run_may_change_when_it_looks(tmp_path, changes):
  record.save_run(make_config(), str(tmp_path))
  record.check_same_run(make_config(changes), str(tmp_path))


def test_a_new_key_is_a_difference_too(tmp_path):
  record.save_run(make_config(), str(tmp_path))
  with pytest.raises(ValueError, match='task_kw'):
    record.check_same_run(
        make_config({'task_kw': {'digits': 3}}), str(tmp_path))
