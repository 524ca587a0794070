"""Parameters out into a folder that `transformers` loads.

A block of a tensor at a time: neither the host nor a device ever holds another
copy of the model, nor of a large tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import json
import os
import shutil
import tempfile
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from policyopt.models.chat import read_json
from policyopt.models.config import ModelConfig
from policyopt.models.convert import families, folders, names

_DTYPES = {'float64': 'F64', 'float32': 'F32', 'float16': 'F16',
           'bfloat16': 'BF16'}
# Everything else that belongs to a tokenizer or says how to generate.
_COPIED = (
    'generation_config.json', 'tokenizer.json', 'tokenizer.model',
    'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json',
    'vocab.json', 'merges.txt', 'chat_template.jinja', 'chat_template.json',
    'additional_chat_templates')
_BLOCK = 8 << 20  # Bytes.
_TOKEN_IDS = ('bos_token_id', 'eos_token_id', 'pad_token_id')


def save(folder: str, config: ModelConfig, params: Any, *,
         source: str | None = None, tokenizer: str | None = None,
         dtype: str | None = None,
         token_ids: Mapping[str, Any] | None = None,
         max_shard_bytes: int = 5 * 10**9) -> None:
  """Writes a folder that `transformers` loads; it is there whole or not at all.

  A value head is left out: the published architectures have none. Every
  process calls this; the first one writes.

  Args:
    folder: to write; must not exist, or be an empty folder.
    config: of the model, without adapters (see `lora.merge`).
    params: its parameters, wherever they are.
    source: folder of the published model that it began as; its tokenizer and
      generation_config.json are copied.
    tokenizer: folder with the tokenizer's files; None for `source`.
    dtype: of the tensors; None for that of the parameters.
    token_ids: 'eos_token_id', 'pad_token_id' and such, of a model without a
      source.
    max_shard_bytes: tensors of a file, in bytes; a larger tensor has a file
      of its own.

  Raises:
    ValueError: for a folder that has something in it, adapters, an unknown
      dtype, or a model that no published architecture computes.
  """
  dtype = dtype or config.param_dtype
  _check(folder, config, dtype, max_shard_bytes)
  prefer = _model_type(source)
  family, raw = families.write_config(config, prefer)
  raw |= _meta(source, token_ids) | {'torch_dtype': dtype}
  entries = names.entries(config, names.published_layout(family.model_type))
  shards, total = _plan(entries, params, _DTYPES[dtype], max_shard_bytes)
  writes = jax.process_index() == 0
  temporary = _temporary(folder) if writes else None
  try:
    for file, tensors in shards.items():
      _write_shard(os.path.join(temporary, file) if writes else None, tensors,
                   params, np.dtype(dtype), _DTYPES[dtype])
    if writes:
      _write_rest(temporary, raw, tokenizer or source, shards, total)
      if os.path.isdir(folder):
        os.rmdir(folder)
      os.rename(temporary, folder)
  except BaseException:
    if writes:
      shutil.rmtree(temporary, ignore_errors=True)
    raise
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'{folder} is written')


def _check(folder, config, dtype, max_shard_bytes):
  if os.path.exists(folder) and not (
      os.path.isdir(folder) and not os.listdir(folder)):
    raise ValueError(f'folder {folder!r} has something in it; name a new one')
  if config.lora_rank:
    raise ValueError(f'lora_rank is {config.lora_rank}; merge the adapter into '
                     'the weights first')
  if dtype not in _DTYPES:
    raise ValueError(f'dtype is {dtype!r}; it must be one of '
                     f'{", ".join(_DTYPES)}')
  if max_shard_bytes < 1:
    raise ValueError(f'max_shard_bytes is {max_shard_bytes}; it must be '
                     'positive')


def _model_type(source):
  if source is None:
    return None
  return folders.read_folder_config(source)[0].model_type


def _meta(source, token_ids):
  """Keys that say nothing of the computation but that readers look for."""
  if source is None:
    return dict(token_ids or {})
  raw = read_json(os.path.join(source, 'config.json'))
  raw = {**(raw.get('text_config') or {}), **raw}
  keep = (*_TOKEN_IDS, 'initializer_range')
  return {key: raw[key] for key in keep if key in raw} | dict(token_ids or {})


def _temporary(folder):
  parent = os.path.dirname(os.path.abspath(folder))
  os.makedirs(parent, exist_ok=True)
  return tempfile.mkdtemp(
      prefix=f'.{os.path.basename(os.path.abspath(folder))}.tmp-', dir=parent)


def _plan(entries, params, kind, max_shard_bytes):
  """file -> [(name, their shape, entry, index)], and the bytes of all.

  In order of layers, so that a layer is mostly in one file.
  """
  size = np.dtype(dict(map(reversed, _DTYPES.items()))[kind]).itemsize
  tensors = []
  for entry in entries:
    shape = folders.at(params, entry.path).shape
    theirs = entry.their_shape(shape)
    tensors += [(name, theirs, entry, index)
                for index, name in entry.names(shape)]
  tensors.sort(key=lambda tensor: tensor[3][:1] or (-1,))
  groups, used, total = [[]], 0, 0
  for tensor in tensors:
    length = int(np.prod(tensor[1])) * size
    if groups[-1] and used + length > max_shard_bytes:
      groups.append([])
      used = 0
    groups[-1].append(tensor)
    used, total = used + length, total + length
  if len(groups) == 1:
    return {folders.SINGLE: groups[0]}, total
  return {f'model-{i + 1:05d}-of-{len(groups):05d}.safetensors': group
          for i, group in enumerate(groups)}, total


def _write_shard(path, tensors, params, dtype, kind):
  """A safetensors file, written front to back; None takes part but not writes.

  The package would want all tensors of the file in memory at once.
  """
  header, offset = {'__metadata__': {'format': 'pt'}}, 0
  for name, shape, _, _ in tensors:
    end = offset + int(np.prod(shape)) * dtype.itemsize
    header[name] = dict(dtype=kind, shape=list(shape),
                        data_offsets=[offset, end])
    offset = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  file = open(path, 'wb') if path else None
  try:
    if file:
      file.write(len(text).to_bytes(8, 'little') + text)
    for _, _, entry, index in tensors:
      order = [d for dims in entry.dims for d in dims]
      for ours in _blocks(folders.at(params, entry.path), index, order[0]):
        if file:
          theirs = ours.transpose(order).reshape(-1).astype(dtype, copy=False)
          file.write(np.ascontiguousarray(theirs).view(np.uint8).data)
          del theirs
        del ours
    if file:
      file.flush()
      os.fsync(file.fileno())
  finally:
    if file:
      file.close()


def _blocks(param, index, axis):
  """The part of a parameter at an index of its leading dimensions, on the host.

  In blocks along an axis of that part, none much larger than `_BLOCK`.
  """
  shape = param.shape[len(index):]
  size = shape[axis]
  row = param.nbytes // param.size * (int(np.prod(shape)) // size)
  step = min(size, max(1, _BLOCK // row))
  where = None
  if not param.is_fully_addressable:
    where = jax.sharding.NamedSharding(
        param.sharding.mesh, jax.sharding.PartitionSpec())
  index = tuple(map(np.int32, index))
  for start in range(0, size, step):
    take = _taker(where, axis, min(step, size - start))
    block = take(param, index, np.int32(start))
    yield np.asarray(block if where is None else block.addressable_data(0))


@functools.cache
def _taker(where, axis, size):
  def take(x, index, start):
    return jax.lax.dynamic_slice_in_dim(x[index], start, size, axis)
  return jax.jit(take, out_shardings=where)


def _write_rest(folder, raw, source, shards, total):
  """config.json, the index, and what is copied."""
  _write_json(os.path.join(folder, 'config.json'), raw)
  if list(shards) != [folders.SINGLE]:
    weight_map = {tensor[0]: file for file, tensors in shards.items()
                  for tensor in tensors}
    _write_json(os.path.join(folder, folders.INDEX), dict(
        metadata=dict(total_size=total), weight_map=weight_map))
  for name in _COPIED if source else ():
    path = os.path.join(source, name)
    if os.path.isdir(path):
      shutil.copytree(path, os.path.join(folder, name))
    elif os.path.isfile(path):
      shutil.copyfile(path, os.path.join(folder, name))
  path = os.path.join(folder, 'generation_config.json')
  if not os.path.exists(path):
    ids = {key: raw[key] for key in _TOKEN_IDS if raw.get(key) is not None}
    _write_json(path, ids)
  os.chmod(folder, 0o755)


def _write_json(path, content):
  with open(path, 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=2)
    file.write('\n')
