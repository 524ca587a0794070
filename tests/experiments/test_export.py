"""From a published folder through training, and out again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from policyopt import methods
from policyopt.models import convert, lora
from policyopt.training import loop, policies, setup
from tests.models import folders

FOLDER = folders.FIXTURES / 'qwen3'


def _config(**changes):
  config = common.base('quick')
  config.task = 'arithmetic'
  config.task_kw = dict(digits=1)
  config.model.folder = str(FOLDER)
  config.model.kw.max_length = 48
  config.warm_start.steps = 0
  config.sampler.max_tokens = 4
  config.update(prompts=4, samples=2, steps=2, checkpoint_every=2)
  config.evaluation.update(problems=4, samples=2)
  config.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.batching.microbatches = 1
  config.update_from_flattened_dict(changes)
  return config


def test_model_tokenizer_and_stop_tokens_come_from_the_folder(one_device):
  parts = setup.prepare(
      _config(**{'model.kw.remat': 'full'}), methods.build('grpo'))
  parts.close()
  assert parts.model == convert.model_config(
      str(FOLDER), remat='full', max_length=48)
  assert parts.tokenizer.name == f'hf:{FOLDER / "tokenizer.json"}'
  assert parts.sampler.stop_tokens == (2, 0)
  assert parts.tokenizer.chat([dict(role='user', content='1')])[0] == 1


@pytest.mark.parametrize('changes, message', [
    ({'model.folder': '/nowhere'}, 'tokenizer file at /nowhere'),
    ({'model.folder': '/nowhere', 'tokenizer': 'byte'},
     "folder '/nowhere' has no config.json"),
    ({'model.kw.vocab_size': 640}, r'embed_tokens\.weight of .*the shape'),
    ({'model.kw.num_layers': 3}, r'lacks the tensor model\.layers\.2')])
def test_what_does_not_fit_is_said_before_anything_compiles(
    one_device, changes, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    setup.prepare(_config(**changes), methods.build('grpo'))


@pytest.mark.slow
@pytest.mark.parametrize('rank, method', [(0, 'ppo'), (2, 'grpo')])
def test_a_run_from_a_folder_is_exported(
    one_device, script, tmp_path, rank, method):
  """The exported policy is the trained one, the one before is the folder's."""
  # The entropy teaches something when no answer is right.
  config = _config(**{'model.kw.lora_rank': rank, 'method': method,
                      'method_kw.entropy_coef': 0.1})
  workdir, out = str(tmp_path / 'run'), tmp_path / 'out'
  loop.train(config, methods.from_config(config), workdir)
  export = script('export').export_run
  done = export(workdir, None, str(out))
  assert (done['step'], done['model_type']) == (2, 'qwen3')
  first = export(workdir, 0, str(tmp_path / 'first'), 'bfloat16')
  assert first['step'] == 0
  tokens = jnp.arange(24).reshape(2, 12) * 7 % 320

  parts = setup.prepare(config, methods.from_config(config))
  parts.close()
  with jax.set_mesh(parts.mesh):
    params, _ = policies.restore_params(parts, workdir)
  wanted = folders.logits(parts.model, params, tokens)
  shape, exported = folders.load(out)
  np.testing.assert_allclose(
      folders.logits(shape, exported, tokens), wanted, atol=1e-5)
  if not rank:
    params.pop('value_head')
    folders.assert_same(exported, params)
  else:
    assert lora.targets(params)
  # Untouched by training: bit for bit what was read.
  folders.assert_same(folders.load(tmp_path / 'first')[1],
                      folders.load(FOLDER)[1])
  moved = folders.logits(*folders.load(FOLDER), tokens)
  assert np.abs(moved - wanted).max() > 1e-3
  for name in ('tokenizer.json', 'chat_template.jinja'):
    assert (out / name).read_bytes() == (FOLDER / name).read_bytes()
  config = json.loads((out / 'config.json').read_text())
  assert config['eos_token_id'] == [3, 2]


@pytest.mark.slow
def test_a_run_from_a_preset_is_exported(reference, script, tmp_path):
  out = tmp_path / 'out'
  done = script('export').export_run(str(reference[0]), 3, str(out))
  assert done['step'] == 3 and done['model_type'] == 'qwen3'
  config = json.loads((out / 'config.json').read_text())
  assert config['eos_token_id'] == [1] and config['pad_token_id'] == 0
  assert not (out / 'tokenizer.json').exists()
