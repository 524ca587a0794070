"""A published folder: which tensors its safetensors files hold, and slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import importlib
import json
import os
from typing import Any, NamedTuple

import numpy as np

from policyopt.models import transformer
from policyopt.models.chat import read_json, require
from policyopt.models.config import ModelConfig
from policyopt.models.convert import families, names

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
DTYPES = ('F64', 'F32', 'F16', 'BF16')


class Tensor(NamedTuple):
  """A tensor of a folder: its file, shape, dtype, and `read(*slices)`."""
  file: str
  shape: tuple[int, ...]
  dtype: str
  read: Any


def read_folder_config(folder: str) -> tuple[families.Family, ModelConfig]:
  """The family and the shape that the config.json of a folder describes.

  Raises:
    ValueError: when there is no such file, or as `families.read_config`.
  """
  path = os.path.join(folder, 'config.json')
  if not os.path.isfile(path):
    raise ValueError(f'model folder {folder!r} has no config.json')
  return families.read_config(read_json(path), path)


def model_config(folder: str, **changes) -> ModelConfig:
  """The shape of a published model.

  Args:
    folder: that holds config.json.
    **changes: fields of `ModelConfig`, such as dtype.

  Returns:
    A validated ModelConfig; float32 unless changed.

  Raises:
    ValueError: naming the key that is missing, or that asks for what the
      decoder does not compute; or the field that cannot have the value.
  """
  return read_folder_config(folder)[1].replace(**changes)


@contextlib.contextmanager
def open_folder(folder: str) -> Iterator[dict[str, Tensor]]:
  """Opens every safetensors file of a folder; reads the headers only.

  Args:
    folder: with model.safetensors, or its index and shards.

  Yields:
    name -> Tensor.

  Raises:
    ValueError: for a missing or damaged file, or an index that does not say
      what the files hold.
  """
  require('safetensors', 'a published model')
  # Its reader asks numpy for bfloat16 by name.
  importlib.import_module('ml_dtypes')
  files, index = _files(folder)
  with contextlib.ExitStack() as stack:
    tensors = {}
    for file in files:
      for name, tensor in _open(folder, file, stack).items():
        if index is not None and index.get(name) != file:
          raise ValueError(
              f'{os.path.join(folder, file)} holds {name}, which '
              f'{INDEX} has in {index.get(name, "no file")}')
        tensors[name] = tensor
    for name, file in (index or {}).items():
      if name not in tensors:
        raise ValueError(f'{os.path.join(folder, file)} lacks {name}, which '
                         f'{INDEX} has there')
    yield tensors


def _files(folder):
  """The file names, and name -> file of the index if there is one."""
  path = os.path.join(folder, INDEX)
  if os.path.isfile(path):
    index = read_json(path).get('weight_map')
    if not isinstance(index, dict) or not index:
      raise ValueError(f'{path} has no weight_map')
    return sorted(set(index.values())), index
  if os.path.isfile(os.path.join(folder, SINGLE)):
    return [SINGLE], None
  raise ValueError(f'model folder {folder!r} has neither {SINGLE} nor {INDEX}')


def _open(folder, file, stack):
  safetensors = importlib.import_module('safetensors')
  path = os.path.join(folder, file)
  if not os.path.isfile(path):
    raise ValueError(f'{path} is missing; {INDEX} names it')
  try:
    opened = stack.enter_context(safetensors.safe_open(path, 'numpy'))
    found = {}
    for name in opened.keys():
      part = opened.get_slice(name)
      found[name] = Tensor(file, tuple(part.get_shape()), part.get_dtype(),
                           _reader(path, name, part))
  except (safetensors.SafetensorError, OSError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  return found


def _reader(path, name, part):
  def read(*slices) -> np.ndarray:
    try:
      return part[slices]
    except Exception as error:  # The package has several of its own.
      raise ValueError(
          f'{name} of {path} cannot be read: {error}') from error
  return read


def check(folder: str, config: ModelConfig) -> None:
  """Whether the folder holds the weights of the model; reads headers only.

  Args:
    folder: of a published model.
    config: of the model that is to have its weights.

  Raises:
    ValueError: naming the file that is damaged, or the first tensor that is
      missing, is not the model's, or has another shape or a dtype that is not
      a floating point one.
  """
  with open_folder(folder) as tensors:
    located(folder, config, tensors)


def located(folder: str, config: ModelConfig, tensors: Mapping[str, Tensor]
            ) -> list[names.Entry]:
  """Where each parameter lies in an open folder, after all was checked."""
  kind = _model_type(folder)
  layout = names.find_layout(tensors, kind)
  entries = names.entries(config, layout)
  shapes = transformer.abstract_params(config)
  known = set()
  for entry in entries:
    shape = at(shapes, entry.path).shape
    wanted = entry.their_shape(shape)
    for _, name in entry.names(shape):
      known.add(name)
      if name not in tensors:
        raise ValueError(
            f'{folder} lacks the tensor {name} of shape {list(wanted)}, which '
            f"the model needs for {'/'.join(entry.path)}")
      tensor = tensors[name]
      path = os.path.join(folder, tensor.file)
      if tensor.shape != wanted:
        raise ValueError(f'{name} of {path} has the shape '
                         f'{list(tensor.shape)}; the model needs '
                         f'{list(wanted)}')
      if tensor.dtype not in DTYPES:
        raise ValueError(f'{name} of {path} has the dtype {tensor.dtype}; '
                         f'supported are {", ".join(DTYPES)}')
  for name in tensors:
    if name not in known and not names.is_ignored(
        name, kind, config.tied_embeddings, layout):
      raise ValueError(f'{name} of {os.path.join(folder, tensors[name].file)} '
                       'is no tensor of the model that config.json describes')
  return entries


def _model_type(folder):
  with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
    return json.load(file).get('model_type')


def at(tree, path):
  """The value at a path of a nested dict."""
  for name in path:
    tree = tree[name]
  return tree
