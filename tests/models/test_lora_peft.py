"""Adapters of `peft` on published models: the same logits, both ways."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from policyopt.models import lora, peft
from tests.models import folders

pytestmark = pytest.mark.usefixtures('quick_compiles')
ADAPTERS = sorted(
    path.parent.name for path in folders.FIXTURES.glob('*/adapted.npz'))


def load(base, adapter, **kw):
  """(config, params) of a stored model with the adapter of a folder."""
  fields = peft.fields(str(adapter))
  config, params = folders.load(folders.FIXTURES / base, **fields, **kw)
  return config, peft.load(str(adapter), config, params, base=base)


def base_of(adapter):
  config = json.loads((adapter / 'adapter_config.json').read_text())
  return config['base_model_name_or_path']


def test_there_are_adapters():
  assert {'qwen2', 'gemma2'} == {
      base_of(folders.FIXTURES / name) for name in ADAPTERS}


@pytest.mark.slow
@pytest.mark.parametrize('name', ADAPTERS)
def test_a_stored_adapter_gives_the_logits_of_peft(name):
  folder = folders.FIXTURES / name
  base = base_of(folder)
  config, params = load(base, folder)
  tokens, mask, without = folders.stored(base)
  with np.load(folder / 'adapted.npz') as file:
    wanted = file['logits']
  assert np.abs(wanted - without)[mask].max() > .05
  for found in (folders.logits(config, params, tokens),
                folders.cached_logits(config, params, tokens, 2),
                folders.logits(*lora.merge(config, params), tokens)):
    np.testing.assert_allclose(found[mask], wanted[mask], atol=1e-4, rtol=0)
  found = folders.logits(*lora.base(config, params), tokens)
  np.testing.assert_allclose(found[mask], without[mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize('name', ADAPTERS)
def test_a_stored_adapter_is_written_as_it_was(name, tmp_path):
  folder = folders.FIXTURES / name
  config, params = load(base_of(folder), folder)
  peft.save(str(tmp_path), config, params, base=base_of(folder))
  assert (tmp_path / peft.WEIGHTS).stat().st_size > 0
  theirs, ours = (peft.safetensors.load_file(where / peft.WEIGHTS)
                  for where in (folder, tmp_path))
  assert theirs.keys() == ours.keys()
  for key, tensor in theirs.items():
    np.testing.assert_array_equal(ours[key], tensor, err_msg=key)
  theirs, ours = (json.loads((where / peft.CONFIG).read_text())
                  for where in (folder, tmp_path))
  theirs['target_modules'].sort()
  assert ours == {key: theirs[key] for key in ours}


def test_the_base_must_be_the_right_one():
  folder = folders.FIXTURES / 'lora_qwen2'
  fields = peft.fields(str(folder))
  config, params = folders.load(folders.FIXTURES / 'llama', **fields)
  with pytest.raises(ValueError, match="base_model_name_or_path is 'qwen2', "
                     "but the model is 'llama'"):
    peft.load(str(folder), config, params, base='llama')


@pytest.mark.parametrize('base, kw', [
    ('qwen2', dict(r=3, lora_alpha=5, target_modules=['k_proj', 'o_proj'])),
    ('llama', dict(r=1, lora_alpha=1, target_modules=[
        'gate_proj', 'down_proj', 'q_proj'])),
    ('gemma3_text', dict(r=5, lora_alpha=2, target_modules=[
        'v_proj', 'up_proj', 'o_proj'])),
    ('qwen3', dict(r=2, lora_alpha=4, target_modules=['q_proj', 'k_proj']))])
def test_live(base, kw, tmp_path):
  """From `peft` to us, and from us to `peft`; skipped without it."""
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  library = pytest.importorskip('peft')
  spec = importlib.util.spec_from_file_location(
      'make_lora', folders.FIXTURES / 'make_lora.py')
  peer = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(peer)
  model = peer.adapted(base, **kw)
  model.save_pretrained(tmp_path / 'theirs')
  tokens, mask, _ = folders.stored(base)
  wanted = peer.logits_of(model, tokens)
  config, params = load(base, tmp_path / 'theirs')
  np.testing.assert_allclose(
      folders.logits(config, params, tokens)[mask], wanted[mask], atol=1e-4,
      rtol=0)

  rng = np.random.default_rng(0)
  adapter = jax.tree.map(
      lambda x: rng.normal(0, .3, x.shape).astype(np.float32),
      lora.adapter_only(params))
  params = lora.join(lora.base(config, params)[1], adapter)
  peft.save(str(tmp_path / 'ours'), config, params, base=base)
  loaded = library.PeftModel.from_pretrained(
      peer.base_of(base), str(tmp_path / 'ours')).eval()
  np.testing.assert_allclose(
      peer.logits_of(loaded, tokens)[mask],
      folders.logits(config, params, tokens)[mask], atol=1e-4, rtol=0)
  merged = loaded.merge_and_unload()
  np.testing.assert_allclose(
      peer.logits_of(merged, tokens)[mask],
      folders.logits(*lora.merge(config, params), tokens)[mask], atol=1e-4,
      rtol=0)
