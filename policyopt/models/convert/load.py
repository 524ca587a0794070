"""Published weights onto a mesh, one device shard at a time.

What a host holds beyond the devices' own memory is one shard of one parameter
and one slice of a file: neither the model nor, unless a device has all of it,
a parameter of all layers.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import numpy as np

from policyopt.models import partitioning, transformer
from policyopt.models.config import ModelConfig
from policyopt.models.convert import folders, names


def load(folder: str, config: ModelConfig, mesh: jax.sharding.Mesh,
         key: jax.Array) -> Any:
  """The parameters of a published model, where they belong on a mesh.

  Args:
    folder: with config.json and safetensors files.
    config: the model, as `model_config(folder)` describes it; it may have a
      value head and adapters, which the folder does not hold: these are made
      as `transformer.init` makes them.
    mesh: from `partitioning.make_mesh`; every process reads what its own
      devices hold.
    key: a typed random key, consumed.

  Returns:
    A nested dict of arrays in `config.param_dtype`.

  Raises:
    ValueError: as `folders.check`, before anything is read.
  """
  shardings = partitioning.param_shardings(config, mesh)
  shapes = transformer.abstract_params(config)
  with folders.open_folder(folder) as tensors:
    entries = folders.located(folder, config, tensors)
    _check_complete(shapes, entries)
    params = _fresh(config, shardings, entries, key)
    for entry in entries:
      parent = params
      for name in entry.path[:-1]:
        parent = parent.setdefault(name, {})
      parent[entry.path[-1]] = _place(
          entry, tensors, folders.at(shapes, entry.path),
          folders.at(shardings, entry.path))
  return params


def _check_complete(shapes, entries):
  """Everything is in the folder, or is made anew: nothing is forgotten."""
  have = {entry.path for entry in entries}
  for path in _paths(shapes):
    if path not in have and not _made_here(path):
      raise ValueError(
          f"no published family has the parameter {'/'.join(path)}")


def _paths(tree, path=()):
  if not isinstance(tree, dict):
    return [path]
  return [found for name, child in tree.items()
          for found in _paths(child, (*path, name))]


def _made_here(path):
  return path[0] == 'value_head' or '_lora_' in path[-1]


def _fresh(config, shardings, entries, key):
  """The parameters that no folder holds, as `init` makes them."""
  have = {entry.path for entry in entries}

  def rest(tree, path=()):
    if not isinstance(tree, dict):
      return tree
    found = {name: rest(child, (*path, name)) for name, child in tree.items()
             if (*path, name) not in have}
    empty = lambda child: isinstance(child, dict) and not child
    return {name: child for name, child in found.items() if not empty(child)}

  where = rest(shardings)
  if not where:
    return {}
  # What is not returned is not made: the compiler drops it.
  return jax.jit(lambda key: rest(transformer.init(config, key)),
                 out_shardings=where)(key)


def _place(entry, tensors, shape, sharding):
  """A parameter as a global array, made shard by shard."""
  holders = {}
  devices = sharding.addressable_devices_indices_map(shape.shape)
  for device, index in devices.items():
    spot = tuple(part.indices(size)[:2]
                 for part, size in zip(index, shape.shape))
    holders.setdefault(spot, []).append(device)
  arrays = []
  for spot, same in holders.items():
    shard = read_shard(entry, tensors, shape.shape,
                       tuple(slice(*part) for part in spot), shape.dtype)
    # Waits, so that there is one shard on the host and not one per device.
    arrays += jax.block_until_ready(
        [jax.device_put(shard, device) for device in same])
  return jax.make_array_from_single_device_arrays(
      shape.shape, sharding, arrays)


def read_shard(entry: names.Entry, tensors, shape, index, dtype) -> np.ndarray:
  """A block of one of our parameters, read from slices of theirs.

  Args:
    entry: where the parameter lies.
    tensors: of the open folder.
    shape: of the whole parameter.
    index: a slice for each of its dimensions.
    dtype: of the result.

  Returns:
    The block.
  """
  spelled = entry.spelled
  out = np.empty([part.stop - part.start for part in index], dtype)
  rest = index[spelled:]
  theirs, sizes = [], []
  for number, dims in enumerate(entry.dims):
    first, tail = dims[0], dims[1:]
    # Heads are cut, the features in them are read whole and cut afterwards.
    inner = math.prod(shape[spelled + d] for d in tail)
    start, stop = rest[first].start * inner, rest[first].stop * inner
    if number == 1 and entry.part[1] > 1:
      offset = entry.part[0] * shape[spelled + first]
      start, stop = start + offset, stop + offset
    theirs.append(slice(start, stop))
    sizes += [rest[first].stop - rest[first].start,
              *(shape[spelled + d] for d in tail)]
  order = [d for dims in entry.dims for d in dims]
  back = np.argsort(order)
  cut = [slice(None)] * len(order)
  for dims in entry.dims:
    for d in dims[1:]:
      cut[d] = rest[d]
  at_names = dict(entry.names(shape))
  ranges = [range(part.start, part.stop) for part in index[:spelled]]
  for place in itertools.product(*ranges):
    part = tensors[at_names[place]].read(*theirs)
    where = tuple(i - r.start for i, r in zip(place, ranges))
    out[where] = part.reshape(sizes).transpose(back)[tuple(cut)]
  return out
