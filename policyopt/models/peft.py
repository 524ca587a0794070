"""Adapters in PEFT's format: written for `peft`, and read from it.

A folder holds `adapter_config.json` (rank, alpha, target modules, base model)
and `adapter_model.safetensors`. There the weight of a projection is [out, in]
for each layer, so A is [r, in] and B is [out, r]; the heads and their features
are one dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
from safetensors import numpy as safetensors

from policyopt.models import lora
from policyopt.models.config import ModelConfig

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'

_MODULES = {
    'query': 'self_attn.q_proj', 'key': 'self_attn.k_proj',
    'value': 'self_attn.v_proj', 'out': 'self_attn.o_proj',
    'gate': 'mlp.gate_proj', 'up': 'mlp.up_proj', 'down': 'mlp.down_proj'}
_LAST = {module.rpartition('.')[2]: name for name, module in _MODULES.items()}
_NAME = 'base_model.model.model.layers.{layer}.{module}.lora_{side}.weight'
# Whatever stands before 'layers': some models are parts of larger ones.
_PATTERN = re.compile(
    r'base_model\.model\.(?:\w+\.)*layers\.(\d+)\.(\w+\.\w+)\.lora_([AB])'
    r'\.weight')
# Keys that would change what the adapter computes, and what they must be.
_PLAIN: Mapping[str, Any] = {
    'peft_type': 'LORA', 'bias': 'none', 'use_rslora': False, 'use_dora': False,
    'fan_in_fan_out': False, 'lora_bias': False, 'modules_to_save': None,
    'rank_pattern': {}, 'alpha_pattern': {}, 'layers_to_transform': None,
    'layer_replication': None, 'exclude_modules': None,
    'target_parameters': None, 'trainable_token_indices': None}


def save(folder: str, config: ModelConfig, params: Any, base: str = '') -> None:
  """Writes the adapter so that `peft` loads it onto the base model.

  The value head has no place there and is left out. All processes must call
  this; the first one writes.

  Args:
    folder: made when missing; its adapter is overwritten.
    config: of a model with an adapter.
    params: its parameters.
    base: name or folder of the base model, for whoever loads the adapter.

  Raises:
    ValueError: the model has no adapter.
  """
  if not config.lora_rank:
    raise ValueError('lora_rank = 0: the model has no adapter to save')
  adapter = jax.tree.map(_on_host, lora.adapter_only(params))['layers']
  tensors = {}
  for name in config.lora_targets:
    # [L, in..., r] and [L, r, out...]; theirs are transposed.
    a, b = (adapter[f'{name}_lora_{side}'] for side in 'ab')
    a = a.reshape(config.num_layers, -1, config.lora_rank)
    b = b.reshape(config.num_layers, config.lora_rank, -1)
    for layer in range(config.num_layers):
      for side, x in (('A', a), ('B', b)):
        tensors[_name(name, layer, side)] = np.ascontiguousarray(x[layer].T)
  if jax.process_index():
    return
  os.makedirs(folder, exist_ok=True)
  safetensors.save_file(
      tensors, os.path.join(folder, WEIGHTS), metadata={'format': 'pt'})
  with open(os.path.join(folder, CONFIG), 'w') as file:
    json.dump(_their_config(config, base), file, indent=2, sort_keys=True)


def load(folder: str, config: ModelConfig, params: Any, base: str | None = None
         ) -> Any:
  """The parameters with the adapter of a folder in place of their own.

  Args:
    folder: as `save` or `peft` has written it.
    config: of the model, with the adapter's rank, alpha and targets (see
      `fields`).
    params: of the model; the new arrays take the dtypes and places of theirs.
    base: name of the base model that it must be for; None: any.

  Returns:
    The parameters; those that are not the adapter's are not copied.

  Raises:
    ValueError: the adapter is not for this model, or is of a kind that is not
      known here: names the key or the tensor.
  """
  theirs = _read_config(folder)
  _check_config(theirs, config, base, folder)
  path = os.path.join(folder, WEIGHTS)
  tensors = _ours(safetensors.load_file(_existing(path)), path)
  mine = lora.adapter_only(params)
  shapes = {_name(name, layer, side): _their_shape(mine, name, side)
            for name in config.lora_targets
            for layer in range(config.num_layers) for side in 'AB'}
  _check_tensors(tensors, shapes, path)

  def place(leaf_path, old):
    name, _, side = leaf_path[-1].key.rpartition('_lora_')
    parts = [tensors[_name(name, layer, side.upper())].T
             for layer in range(config.num_layers)]
    new = np.stack(parts).reshape(old.shape).astype(old.dtype)
    if not isinstance(old, jax.Array):
      return new
    return jax.make_array_from_callback(
        new.shape, old.sharding, lambda index: new[index])

  adapter = jax.tree_util.tree_map_with_path(place, mine)
  return lora.join(lora.base(config, params)[1], adapter)


def fields(folder: str) -> dict[str, Any]:
  """The fields of ModelConfig that an adapter decides.

  Args:
    folder: as `save` or `peft` has written it.

  Returns:
    lora_rank, lora_alpha and lora_targets, for `ModelConfig.replace`.

  Raises:
    ValueError: for a missing or damaged file, or an unknown target module.
  """
  theirs = _read_config(folder)
  return dict(
      lora_rank=theirs['r'], lora_alpha=float(theirs['lora_alpha']),
      lora_targets=_targets(theirs, folder))


def _name(name, layer, side):
  return _NAME.format(layer=layer, module=_MODULES[name], side=side)


def _on_host(x):
  """The whole array, wherever its parts are."""
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x)


def _their_config(config, base):
  alpha = config.lora_alpha
  modules = sorted(_MODULES[name].rpartition('.')[2]
                   for name in config.lora_targets)
  return {
      **_PLAIN, 'task_type': 'CAUSAL_LM', 'r': config.lora_rank,
      'lora_alpha': int(alpha) if alpha == int(alpha) else alpha,
      'lora_dropout': 0.0, 'target_modules': modules, 'inference_mode': True,
      'init_lora_weights': True, 'base_model_name_or_path': base or None}


def _existing(path):
  if not os.path.exists(path):
    raise ValueError(f'{path} does not exist; an adapter in the format of peft '
                     f'has {CONFIG} and {WEIGHTS}')
  return path


def _read_config(folder):
  path = _existing(os.path.join(folder, CONFIG))
  with open(path) as file:
    try:
      theirs = json.load(file)
    except ValueError as error:
      raise ValueError(f'{path} is not JSON: {error}') from error
  for key in 'r', 'lora_alpha', 'target_modules':
    if key not in theirs:
      raise ValueError(f'{path} has no {key!r}')
  return theirs


def _targets(theirs, folder):
  """Our names of the target modules, in our order."""
  modules = theirs['target_modules']
  if isinstance(modules, str):
    raise ValueError(f'{folder}: target_modules is {modules!r}; it must be a '
                     'list of modules, such as ["q_proj", "v_proj"]')
  found = set()
  for module in modules:
    last = module.rpartition('.')[2]
    if last not in _LAST:
      raise ValueError(f'{folder}: target_modules has {module!r}; it must be '
                       f'among {", ".join(_LAST)}')
    found.add(_LAST[last])
  return tuple(name for name in _MODULES if name in found)


def _check_config(theirs, config, base, folder):
  for key, wanted in _PLAIN.items():
    value = theirs.get(key, wanted)
    if value != wanted and (value or wanted):
      raise ValueError(f'{folder}: {key} is {value!r}; only {wanted!r} is '
                       'supported')
  for key, field in ('r', 'lora_rank'), ('lora_alpha', 'lora_alpha'):
    if theirs[key] != getattr(config, field):
      raise ValueError(f'{folder}: {key} is {theirs[key]}, but the model has '
                       f'{field} = {getattr(config, field)}')
  targets = _targets(theirs, folder)
  if set(targets) != set(config.lora_targets):
    raise ValueError(f'{folder}: target_modules are those of {targets}, but '
                     f'the model has lora_targets = {config.lora_targets}')
  name = theirs.get('base_model_name_or_path')
  if base is not None and name and name != base:
    raise ValueError(f'{folder}: base_model_name_or_path is {name!r}, but the '
                     f'model is {base!r}')


def _ours(tensors, path):
  """The tensors under the names that `save` gives them."""
  renamed = {}
  for name, tensor in tensors.items():
    match = _PATTERN.fullmatch(name)
    if not match or match[2] not in _MODULES.values():
      raise ValueError(f'{path} has {name!r}, which is no LoRA weight of a '
                       f'layer, such as {_name("query", 0, "A")!r}')
    layer, module, side = match.groups()
    renamed[_NAME.format(layer=int(layer), module=module, side=side)] = tensor
  return renamed


def _their_shape(mine, name, side):
  """[r, in] of A or [out, r] of B, from our [L, in..., r] or [L, r, out...]."""
  shape = mine['layers'][f'{name}_lora_{side.lower()}'].shape[1:]
  if side == 'A':
    return shape[-1], int(np.prod(shape[:-1]))
  return int(np.prod(shape[1:])), shape[0]


def _check_tensors(tensors, shapes, path):
  for name, shape in shapes.items():
    if name not in tensors:
      raise ValueError(f'{path} lacks {name!r}, which the model has: it is an '
                       'adapter of another base model')
    if tensors[name].shape != shape:
      raise ValueError(
          f'{path}: {name!r} is {list(tensors[name].shape)}, but the model '
          f'needs {list(shape)}: it is an adapter of another base model')
  for name in tensors:
    if name not in shapes:
      raise ValueError(f'{path} has {name!r}, which the model has not: it is '
                       'an adapter of another base model')
