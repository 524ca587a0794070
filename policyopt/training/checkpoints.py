"""Checkpoints that a kill at any moment leaves restorable.

A checkpoint is a folder named by its step, `00000020/`: what Orbax writes, and
a manifest with the size and checksum of each file and the shape of each array.
It is written under another name and renamed when it is complete, so a folder
with a step's name was complete once; what happened to it since, the manifest
tells.
"""

from __future__ import annotations

from concurrent import futures
import json
import os
import pathlib
import re
import shutil
from typing import Any
import warnings
import zlib

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from policyopt.rollouts import hosts

_MANIFEST = 'manifest.json'
_UNFINISHED = 'tmp-'
_CHUNK = 1 << 20


class _Damage(Exception):
  """Why the files of a checkpoint are not those that were saved."""


class Checkpoints:
  """Saves and restores train states in one folder.

  All processes of a run call its methods together: each writes and reads its
  own shards, and process 0 does what is to be done once. A state may be
  restored to any mesh and any number of processes.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> folder = tempfile.TemporaryDirectory()
    >>> checkpoints = Checkpoints(folder.name)
    >>> checkpoints.save(20, {'weight': jnp.arange(3.)})
    >>> state, step = checkpoints.restore({'weight': jnp.zeros(3)})
    >>> step, state['weight'].tolist()
    (20, [0.0, 1.0, 2.0])
    >>> folder.cleanup()
  """

  def __init__(self, folder: str | os.PathLike, keep: int = 2):
    """Opens a folder; nothing is written before the first `save`.

    Args:
      folder: where the checkpoints are; all processes must see it.
      keep: how many of the newest stay; with 1 a damaged checkpoint has no
        predecessor to fall back to.

    Raises:
      ValueError: if `keep` is not positive.
    """
    if keep < 1:
      raise ValueError(f'keep is {keep}; at least 1 checkpoint must stay')
    self.folder = pathlib.Path(folder).absolute()
    self.keep = keep

  def steps(self) -> list[int]:
    """The steps that have a checkpoint, oldest first, damaged or not."""
    if not self.folder.is_dir():
      return []
    return sorted(int(path.name) for path in self.folder.iterdir()
                  if re.fullmatch(r'\d{8,}', path.name) and path.is_dir())

  def latest(self) -> int | None:
    """The newest step that has a checkpoint, damaged or not; None if none."""
    return max(self.steps(), default=None)

  def save(self, step: int, state: Any):
    """Saves a state; returns when it is complete.

    Checkpoints of later steps belong to a past that is being overwritten, and
    are removed, as is what a killed save left behind.

    Args:
      step: updates done.
      state: tree of arrays of any sharding, typed keys included.
    """
    target, unfinished = self._path(step), self._path(step, _UNFINISHED)
    if hosts.process() == 0:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._clean()
    hosts.barrier(f'checkpoint {step} begins')
    ocp.save(unfinished, jax.tree.map(_without_empty, state))
    if hosts.process() == 0:
      _write_manifest(unfinished, state)
      if target.exists():
        target.rename(self._path(step, f'{_UNFINISHED}old-'))
      unfinished.rename(target)
      self._prune(step)
    hosts.barrier(f'checkpoint {step} ends')

  def restore(self, abstract_state: Any, step: int | None = None
              ) -> tuple[Any, int] | None:
    """Restores the newest checkpoint whose files are as they were saved.

    Args:
      abstract_state: a state of the same structure, shapes and dtypes, of
        arrays or ShapeDtypeStructs; the result takes their shardings.
      step: the only one that will do; None for the newest.

    Returns:
      (state, step), or None when there is no intact checkpoint. Each damaged
      one is passed over with a warning that says what is wrong with it.

    Raises:
      ValueError: if an intact checkpoint holds other arrays than asked for;
        names the first that differs.
    """
    wanted = [s for s in self.steps() if step in (None, s)]
    # All processes decide alike, whatever each sees of the folder.
    for step in hosts.list_of_first_process(wanted)[::-1]:
      path = self._path(step)
      damage, leaves = None, None
      try:
        leaves = _verify(path)
      except _Damage as found:
        damage = found
      if hosts.any_process(damage is not None):
        warnings.warn(
            f'checkpoint of step {step} passed over: '
            f'{damage or "another process says why"} ({path})', stacklevel=2)
        continue
      _compare(leaves, _describe(abstract_state), path)
      return _load(path, abstract_state), step
    return None

  def _path(self, step, prefix=''):
    return self.folder / f'{prefix}{step:08d}'

  def _clean(self):
    """Removes what a killed save or removal left."""
    for path in self.folder.glob(f'{_UNFINISHED}*'):
      shutil.rmtree(path)

  def _prune(self, newest):
    """Removes what is neither among the newest nor before them."""
    steps = self.steps()
    kept = [step for step in steps if step <= newest][-self.keep:]
    for step in set(steps) - set(kept):
      # Renamed first: a removal that is cut short leaves no broken checkpoint.
      self._path(step).rename(self._path(step, f'{_UNFINISHED}old-'))
    self._clean()


def _without_empty(leaf):
  """None instead of an array without elements, which Orbax refuses."""
  return None if np.size(leaf) == 0 else leaf


def _describe(state):
  """[[name, shape, dtype]] of each leaf, in order."""
  return [
      [jax.tree_util.keystr(path, simple=True, separator='/'),
       list(np.shape(leaf)), str(getattr(leaf, 'dtype', type(leaf).__name__))]
      for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _checksum(path):
  """CRC-32 of a file."""
  value = 0
  with path.open('rb') as file:
    while chunk := file.read(_CHUNK):
      value = zlib.crc32(chunk, value)
  return value


def _encode(body):
  """The one text that a manifest's body has."""
  return json.dumps(body, sort_keys=True).encode()


def _write_manifest(folder, state):
  """Notes what every file and every array of a complete checkpoint is like."""
  paths = sorted(path for path in folder.rglob('*') if path.is_file())
  with futures.ThreadPoolExecutor() as pool:
    checksums = list(pool.map(_checksum, paths))
  body = {
      'files': {path.relative_to(folder).as_posix():
                [path.stat().st_size, checksum]
                for path, checksum in zip(paths, checksums)},
      'leaves': _describe(state),
  }
  (folder / _MANIFEST).write_text(
      json.dumps({'crc32': zlib.crc32(_encode(body)), **body}))


def _verify(folder):
  """The described leaves of a checkpoint; _Damage if a file has changed.

  With several processes each looks at a part of the files.
  """
  try:
    body = json.loads((folder / _MANIFEST).read_bytes())
    intact = body.pop('crc32') == zlib.crc32(_encode(body))
  except FileNotFoundError:
    raise _Damage(f'{_MANIFEST} is missing') from None
  except (ValueError, KeyError, TypeError, AttributeError):
    intact = False
  if not intact:
    raise _Damage(f'{_MANIFEST} is damaged')

  def check(item):
    name, (size, checksum) = item
    path = folder / name
    try:
      actual = path.stat().st_size
      if actual != size:
        return f'{name} has {actual} bytes instead of {size}'
      if _checksum(path) != checksum:
        return f'{name} has other content than was saved'
    except FileNotFoundError:
      return f'{name} is missing'
    return None

  # Each process reads its share of the files.
  items = list(body['files'].items())
  items = [items[place] for place in hosts.share(len(items))]
  with futures.ThreadPoolExecutor() as pool:
    for reason in pool.map(check, items):
      if reason:
        raise _Damage(reason)
  return body['leaves']


def _compare(saved, wanted, path):
  """Refuses a checkpoint of another model."""
  if saved == wanted:
    return
  for (name, *kind), (other, *other_kind) in zip(saved, wanted):
    if name != other:
      difference = f'it has {name!r} where this run has {other!r}'
    elif kind != other_kind:
      difference = (f'{name!r} is {kind[1]}{kind[0]} there and '
                    f'{other_kind[1]}{other_kind[0]} here')
    else:
      continue
    break
  else:
    longer, where = (
        (saved, 'the checkpoint') if len(saved) > len(wanted)
        else (wanted, 'this run'))
    extra = longer[min(len(saved), len(wanted))][0]
    difference = f'only {where} has {extra!r}'
  raise ValueError(
      f'{path} is a checkpoint of another model: {difference}')


def _load(path, abstract_state):
  """The arrays, each where `abstract_state` wants it."""
  wanted, structure = jax.tree.flatten(abstract_state)
  loaded = jax.tree.leaves(
      ocp.load(path, jax.tree.map(_target, abstract_state)),
      is_leaf=lambda leaf: leaf is None)
  # A None of the state's own is a leaf in `loaded` but not in `wanted`.
  own = jax.tree.leaves(abstract_state, is_leaf=lambda leaf: leaf is None)
  loaded = [leaf for leaf, mine in zip(loaded, own) if mine is not None]
  leaves = [_empty(mine) if leaf is None else leaf
            for leaf, mine in zip(loaded, wanted)]
  return jax.tree.unflatten(structure, leaves)


def _target(leaf):
  """What Orbax is asked for: a shape with a sharding, or a host value."""
  if np.size(leaf) == 0:
    return None
  if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf))


def _sharding(leaf):
  """The sharding that is asked for, or the first device."""
  return leaf.sharding or jax.sharding.SingleDeviceSharding(
      jax.local_devices()[0])


def _empty(leaf):
  """An array without elements, like `leaf`."""
  if isinstance(leaf, np.ndarray):
    return leaf.copy()
  return jax.device_put(
      np.zeros(leaf.shape, leaf.dtype), _sharding(leaf))
