"""Stored published folders: the same logits, and back without losing a bit."""

import importlib
import json
import pathlib
import socket
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors

from policyopt.models import convert, partitioning, presets, transformer
from tests.models import folders

# Modules that the package hides behind functions of the same names.
loading = importlib.import_module('policyopt.models.convert.load')
saving = importlib.import_module('policyopt.models.convert.save')
MOE = ('mixtral', 'olmoe', 'qwen3_moe')


def test_every_family_has_a_folder():
  assert set(folders.FAMILIES) == set(convert.FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize('family', folders.FAMILIES)
def test_logits_with_padding_and_with_a_cache(family):
  config, params = folders.load(folders.FIXTURES / family)
  tokens, mask, wanted = folders.stored(family)
  for found in (folders.logits(config, params, tokens),
                folders.cached_logits(config, params, tokens, 4)):
    np.testing.assert_allclose(found[mask], wanted[mask], atol=1e-4, rtol=0)
  # They are the model's, not noise that any other would have.
  assert wanted[mask].std() > 0.3


@pytest.mark.parametrize('family', folders.FAMILIES)
def test_round_trip_from_a_mesh_is_bit_exact(family, tmp_path):
  source = folders.FIXTURES / family
  axis = 'expert' if family in MOE else 'data'
  config, params = folders.load(
      source, 8, shape={'fsdp': 2, 'tensor': 2, axis: 2})
  dtype = json.loads((source / 'config.json').read_text())['dtype']
  out = tmp_path / 'out'
  convert.save(str(out), config, params, source=str(source), dtype=dtype)
  before, after = (_tensors(folder) for folder in (source, out))
  if '.experts.gate_up_proj' not in ''.join(before):
    assert before.keys() == after.keys()
  for name in before.keys() & after.keys():
    assert before[name].dtype == after[name].dtype
    np.testing.assert_array_equal(
        before[name].view(np.uint8), after[name].view(np.uint8), name)
  again, read = folders.load(out)
  assert again == config
  folders.assert_same(params, read)
  tokens, mask, wanted = folders.stored(family)
  np.testing.assert_allclose(
      folders.logits(again, read, tokens)[mask], wanted[mask], atol=1e-4,
      rtol=0)


def _tensors(folder):
  return {name: tensor for file in sorted(folder.glob('*.safetensors'))
          for name, tensor in safetensors.load_file(file).items()}


@pytest.mark.parametrize('family', MOE)
def test_experts_in_one_tensor_are_read_too(family, tmp_path):
  tensors = _tensors(folders.FIXTURES / family)
  folder = folders.copy(family, tmp_path / family)
  for file in folder.glob('*.safetensors*'):
    file.unlink()
  safetensors.save_file(_other_layout(family, tensors),
                        folder / 'model.safetensors')
  _, params = folders.load(
      folder, 8, shape={'fsdp': 2, 'tensor': 2, 'expert': 2})
  folders.assert_same(folders.load(folders.FIXTURES / family)[1], params)


def _other_layout(family, tensors):
  """All experts of a layer in one tensor, or one by one if they were not."""
  gate, up, down = (('w1.weight', 'w3.weight', 'w2.weight')
                    if family == 'mixtral' else
                    [f'{x}_proj.weight' for x in ('gate', 'up', 'down')])
  single = {name: x for name, x in tensors.items() if '.experts.' not in name}
  single = {name.replace('.block_sparse_moe.', '.mlp.'): x
            for name, x in single.items()}
  heads = {name.split('.experts.')[0] for name in tensors
           if '.experts.' in name}
  for head in heads:
    count = len({name.split('.experts.')[1].split('.')[0] for name in tensors
                 if name.startswith(f'{head}.experts.')})
    stack = lambda part, head=head, count=count: np.stack(
        [tensors[f'{head}.experts.{i}.{part}'] for i in range(count)])
    new = head.replace('block_sparse_moe', 'mlp')
    single[f'{new}.experts.gate_up_proj'] = np.concatenate(
        [stack(gate), stack(up)], axis=1)
    single[f'{new}.experts.down_proj'] = stack(down)
  return single


@pytest.mark.parametrize('prefix', [
    'language_model.model.', 'model.language_model.'])
def test_the_text_half_of_a_model_that_sees_images(prefix, tmp_path):
  source = folders.FIXTURES / 'gemma3_text'
  folder = folders.copy('gemma3_text', tmp_path / 'gemma3')
  text = json.loads((source / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(dict(
      model_type='gemma3', text_config=text, vision_config=dict(layers=2))))
  tensors = {name.replace('model.', prefix): x
             for name, x in _tensors(source).items()}
  vision = prefix.removesuffix('language_model.').removesuffix(
      'language_model.model.')
  for name in 'vision_tower.a.weight', 'multi_modal_projector.b':
    tensors[vision + name] = np.ones((2, 2), np.float32)
  safetensors.save_file(tensors, folder / 'model.safetensors')
  config, params = folders.load(folder)
  folders.assert_same(params, folders.load(source)[1])
  out = tmp_path / 'out'
  convert.save(str(out), config, params, source=str(folder))
  raw = json.loads((out / 'config.json').read_text())
  assert raw['model_type'] == 'gemma3_text' and raw['eos_token_id'] == 2
  folders.assert_same(params, folders.load(out)[1])


def test_shards_of_a_limited_size(tmp_path):
  config, params = folders.load(folders.FIXTURES / 'llama')
  out = tmp_path / 'out'
  convert.save(str(out), config, params, max_shard_bytes=20_000)
  files = sorted(out.glob('model-*.safetensors'))
  assert len(files) > 3 and all(f'-of-{len(files):05d}.' in f.name
                                for f in files)
  index = json.loads((out / 'model.safetensors.index.json').read_text())
  sizes = [sum(x.nbytes for x in safetensors.load_file(file).values())
           for file in files]
  assert max(sizes) <= 20_000
  assert index['metadata']['total_size'] == sum(sizes)
  folders.assert_same(params, folders.load(out)[1])


def test_what_goes_with_the_weights_is_copied(tmp_path):
  source = folders.FIXTURES / 'qwen3'
  config, params = folders.load(source)
  out = tmp_path / 'a' / 'out'
  convert.save(str(out), config, params, source=str(source))
  for name in ('tokenizer.json', 'tokenizer_config.json',
               'chat_template.jinja', 'generation_config.json'):
    assert (out / name).read_bytes() == (source / name).read_bytes()
  raw, old = (json.loads((folder / 'config.json').read_text())
              for folder in (out, source))
  assert raw['eos_token_id'] == old['eos_token_id'] == [3, 2]
  assert raw['torch_dtype'] == 'float32'
  assert [path.name for path in out.parent.iterdir()] == ['out']


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
  config, params = folders.load(folders.FIXTURES / 'qwen2')
  monkeypatch.setattr(saving, '_blocks', lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    convert.save(str(tmp_path / 'out'), config, params)
  assert list(tmp_path.iterdir()) == []


def test_an_export_overwrites_nothing(tmp_path):
  config, params = folders.load(folders.FIXTURES / 'qwen2')
  (tmp_path / 'notes').write_text('mine')
  with pytest.raises(ValueError, match='has something in it'):
    convert.save(str(tmp_path), config, params)
  with pytest.raises(ValueError, match="dtype is 'int8'"):
    convert.save(str(tmp_path / 'out'), config, params, dtype='int8')
  with pytest.raises(ValueError, match='merge the adapter'):
    convert.save(str(tmp_path / 'out'), config.replace(lora_rank=2), params)


def test_what_no_folder_has_is_made_fresh():
  changes = dict(value_head=True, lora_rank=2)
  config, params = folders.load(
      folders.FIXTURES / 'llama', 4, key=3, shape={'fsdp': 2, 'data': 2},
      **changes)
  fresh = transformer.init(config, jax.random.key(3))
  assert jax.tree.structure(params) == jax.tree.structure(fresh)
  for name in ('query_lora_a', 'down_lora_a', 'query_lora_b'):
    np.testing.assert_array_equal(params['layers'][name],
                                  fresh['layers'][name])
  assert not np.asarray(params['value_head']['kernel']).any()
  shardings = partitioning.param_shardings(
      config, folders.mesh(4, fsdp=2, data=2))
  assert jax.tree.map(lambda x, s: x.sharding == s, params, shardings)
  for x, sharding in zip(*map(jax.tree.leaves, (params, shardings))):
    assert x.sharding.is_equivalent_to(sharding, x.ndim)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_parameters_in_another_dtype_are_rounded_once(dtype):
  config, params = folders.load(folders.FIXTURES / 'qwen2', param_dtype=dtype)
  tensors = _tensors(folders.FIXTURES / 'qwen2')
  kernel = tensors['model.layers.1.mlp.up_proj.weight'].T
  kernel = kernel.astype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype)
  found = np.asarray(params['layers']['up'][1])
  assert found.dtype == kernel.dtype
  np.testing.assert_array_equal(found, kernel)


@pytest.mark.parametrize('name', sorted(
    set(presets.PRESETS) - {'nano', 'tiny'}))
def test_every_published_preset_has_a_config_json(name):
  config = presets.preset(name, dtype='bfloat16', value_head=True)
  family, raw = convert.write_config(config)
  _, back = convert.read_config(json.loads(json.dumps(raw)))
  assert convert.architecture_fields(back) == (
      convert.architecture_fields(config))
  assert raw['model_type'] == family.model_type
  assert name.startswith(family.model_type.split('_')[0].rstrip('1234567890'))


def test_a_model_that_nobody_has_published_is_not_exported():
  config = presets.preset('nano', qkv_bias=True)
  with pytest.raises(ValueError, match=r'no published .* qk_norm = True|'
                     r'no published .* qkv_bias = True'):
    convert.write_config(config)


def test_shards_are_read_once_and_one_at_a_time(monkeypatch):
  """Each device's block alone; copies of a block are read once."""
  asked = []
  read = loading.read_shard
  def counted(entry, tensors, shape, index, dtype):
    block = read(entry, tensors, shape, index, dtype)
    asked.append((entry.path[-1], block.shape))
    return block
  monkeypatch.setattr(loading, 'read_shard', counted)
  folders.load(folders.FIXTURES / 'llama', 8, shape={'fsdp': 4, 'tensor': 2})
  shapes = {shape for name, shape in asked if name == 'query'}
  assert shapes == {(2, 8, 2, 8)}
  assert sum(name == 'query' for name, _ in asked) == 8
  assert sum(name == 'final_norm' for name, _ in asked) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_the_host_holds_little_more_than_the_devices(tmp_path):
  script = pathlib.Path(__file__).with_name('host_memory.py')
  out = subprocess.run(
      [sys.executable, script, tmp_path], check=True, capture_output=True,
      text=True)
  numbers = json.loads(out.stdout.splitlines()[-1])
  # The largest parameter alone is 78 MiB, the model 180.
  assert numbers['params'] > 170 << 20 and numbers['largest'] > 75 << 20
  for what in 'load', 'save':
    assert numbers[what] < 48 << 20, numbers


@pytest.mark.slow
def test_two_processes_read_their_parts_and_write_one_folder(tmp_path):
  script = pathlib.Path(__file__).with_name('two_hosts.py')
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  source, out = folders.FIXTURES / 'qwen3', tmp_path / 'out'
  both = [subprocess.Popen(
      [sys.executable, script, str(rank), address, source, out],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
      for rank in range(2)]
  for process in both:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
  assert [path.name for path in tmp_path.iterdir()] == ['out']
  folders.assert_same(folders.load(out)[1], folders.load(source)[1])
