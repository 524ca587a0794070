"""Stored folders of published form, and copies of them that are spoilt."""

import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from policyopt.models import cache as cache_lib
from policyopt.models import convert, partitioning, transformer

FIXTURES = pathlib.Path(__file__).with_name('fixtures')
FAMILIES = tuple(sorted(
    path.parent.name for path in FIXTURES.glob('*/logits.npz')))

_fast = dict(compiler_options={'xla_backend_optimization_level': 0})
_forward = jax.jit(
    transformer.forward, static_argnames='config', **_fast)
_logits = jax.jit(transformer.logits, static_argnames='config', **_fast)


def mesh(devices=1, **shape):
  """A mesh over the first devices."""
  return partitioning.make_mesh(shape or {'data': devices},
                                jax.devices()[:devices])


def load(folder, devices=1, key=0, shape=None, **changes):
  """(config, params) of a folder."""
  config = convert.model_config(str(folder), **changes)
  where = mesh(devices, **(shape or {}))
  return config, convert.load(str(folder), config, where, jax.random.key(key))


def logits(config, params, tokens):
  """f32[B, S, V] of whole rows."""
  tokens = jnp.asarray(tokens, jnp.int32)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  hidden, _ = _forward(config, params, tokens, positions)
  return np.asarray(_logits(config, params, hidden))


def cached_logits(config, params, tokens, start):
  """The same: `start` tokens are read at once, the others one by one."""
  tokens = jnp.asarray(tokens, jnp.int32)
  rows, length = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
  cache = cache_lib.init_cache(config, rows, length)
  found = []
  for first, last in [(0, start), *((i, i + 1) for i in range(start, length))]:
    hidden, cache = _forward(
        config, params, tokens[:, first:last], positions[:, first:last],
        cache=cache, slot=jnp.int32(first))
    found.append(_logits(config, params, hidden))
  return np.concatenate(found, axis=1)


def stored(family):
  """(tokens, bool mask of those that are no padding, logits)."""
  with np.load(FIXTURES / family / 'logits.npz') as file:
    tokens, length = file['tokens'], file['length']
    mask = np.arange(tokens.shape[1])[None] < length[:, None]
    return tokens, mask, file['logits']


def copy(family, folder):
  """A copy of a stored folder that may be spoilt."""
  shutil.copytree(FIXTURES / family, folder, dirs_exist_ok=True)
  return folder


def change_config(folder, remove=(), **changes):
  """Changes keys of a config.json."""
  path = pathlib.Path(folder) / 'config.json'
  config = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(
      {key: value for key, value in config.items() if key not in remove}))


def assert_same(first, second):
  """The same trees, bit for bit."""
  jax.tree.map_with_path(_assert_same, first, second)


def _assert_same(path, x, y):
  assert x.dtype == y.dtype, path
  np.testing.assert_array_equal(np.asarray(x), np.asarray(y), str(path))


def maker():
  """The script that wrote the stored folders; needs torch."""
  spec = importlib.util.spec_from_file_location(
      'fixtures_make', FIXTURES / 'make.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
