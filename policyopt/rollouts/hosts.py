"""Several processes at work on one batch: who holds which rows.

A batch is a global array whose rows lie on the devices of all processes. What
happens on the device needs nothing from here. What happens on the host does:
every process judges the rows that it holds, and whatever all must agree on is
gathered, so that each decides the same. With one process all of this is the
identity and costs nothing.

Functions marked as collective must be called by every process at the same
point, or all of them wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import math
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np


def several() -> bool:
  """Whether the run has more than one process."""
  return jax.process_count() > 1


def process() -> int:
  """The number of this process."""
  return jax.process_index()


def share(count: int) -> np.ndarray:
  """The places of a list of `count` that this process works on, in order."""
  return np.flatnonzero(_dealt(count) == process())


def owners(array: Any) -> np.ndarray:
  """The process that works on each row of a batch.

  A row belongs to a process that holds it; rows that several processes hold
  (a tensor axis that spans hosts, or a batch too small to be spread) are dealt
  out between them.

  Args:
    array: [B, ...], spread over devices by rows only.

  Returns:
    i32[B].
  """
  rows = array.shape[0]
  if not several() or not hasattr(array, 'sharding'):
    return np.full(rows, process(), np.int32)
  holders: dict[tuple[int, int], set[int]] = {}
  for device, index in array.sharding.devices_indices_map(array.shape).items():
    first, last, _ = index[0].indices(rows)
    holders.setdefault((first, last), set()).add(device.process_index)
  owner = np.zeros(rows, np.int32)
  for (first, last), processes in holders.items():
    parts = np.array_split(np.arange(first, last), len(processes))
    for holder, part in zip(sorted(processes), parts):
      owner[part] = holder
  return owner


def some_row(array: Any) -> np.ndarray:
  """A row that this process holds, whoever works on it: i32[1]."""
  first = array.addressable_shards[0].index[0].indices(array.shape[0])[0]
  return np.asarray([first], np.int32)


def local_rows(array: Any, rows: np.ndarray) -> np.ndarray:
  """The values of rows that this process holds.

  Args:
    array: [B, ...].
    rows: i32[R], ascending.

  Returns:
    [R, ...].

  Raises:
    ValueError: a row lies with other processes only.
  """
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    return _pieces(array, rows)
  array = np.asarray(array)
  return array if len(rows) == len(array) else array[rows]


def gather_rows(parts: Mapping[str, np.ndarray],
                owner: np.ndarray) -> dict[str, np.ndarray]:
  """What all processes have found out about their rows. Collective.

  Args:
    parts: name -> [R, ...] of 4 bytes an element, for the rows that `owner`
      gives to this process; the same names and shapes everywhere.
    owner: i32[B] from `owners`, alike everywhere.

  Returns:
    name -> [B, ...], alike everywhere.
  """
  if not several():
    return dict(parts)
  counts = np.bincount(owner, minlength=jax.process_count())
  columns = {
      name: np.ascontiguousarray(part).view(np.int32).reshape(
          len(part), math.prod(part.shape[1:])) for name, part in parts.items()}
  packed = np.concatenate(list(columns.values()), axis=1)
  spare = counts.max() - len(packed)
  everyone = multihost_utils.process_allgather(
      np.pad(packed, ((0, spare), (0, 0))))
  whole = np.empty((len(owner), packed.shape[1]), np.int32)
  for worker, count in enumerate(counts):
    whole[owner == worker] = everyone[worker, :count]
  found, start = {}, 0
  for name, part in parts.items():
    width = columns[name].shape[1]
    column = np.ascontiguousarray(whole[:, start:start + width])
    found[name] = column.view(part.dtype).reshape(len(owner), *part.shape[1:])
    start += width
  return found


def gather_shares(parts: Mapping[str, np.ndarray],
                  count: int) -> dict[str, np.ndarray]:
  """The whole of what `share(count)` was dealt out of. Collective."""
  return gather_rows(parts, _dealt(count))


def numbers(number: int) -> np.ndarray:
  """The number of every process, i32[processes]. Collective."""
  if not several():
    return np.asarray([number], np.int32)
  return multihost_utils.process_allgather(np.int32(number)).reshape(-1)


def any_process(flag: bool) -> bool:
  """Whether the flag is up in any process. Collective."""
  return bool(numbers(flag).any())


def first_process(number: int) -> int:
  """The number that process 0 has. Collective."""
  return int(numbers(number)[0])


def list_of_first_process(values: Sequence[int]) -> list[int]:
  """The whole numbers that process 0 has, however many. Collective."""
  if not several():
    return list(values)
  length = first_process(len(values))
  padded = np.zeros(length, np.int32)
  padded[:len(values)] = np.asarray(values, np.int32)[:length]
  return multihost_utils.process_allgather(padded)[0].tolist()


def barrier(name: str) -> None:
  """Waits until all processes are here. Collective."""
  if several():
    multihost_utils.sync_global_devices(name)


def fetch(tree: Any, rows: int | None = None) -> Any:
  """Whole arrays on the host of every process. Collective.

  Args:
    tree: of arrays.
    rows: only so many of the first rows.

  Returns:
    The same tree of numpy arrays.
  """
  if several():
    tree = _replicate(tree, rows)
  return jax.tree.map(lambda x: np.asarray(x)[:rows], jax.device_get(tree))


def place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  """A global array of what every process has whole; nothing travels."""
  if not several():
    return jax.device_put(array, sharding)
  return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index])


def place_tree(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """For a compiled function: numpy as it is, or global with several."""
  if not several():
    return tree
  return jax.tree.map(lambda x: place(np.asarray(x), sharding), tree)


def spread(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """Arrays laid out anew, wherever they lie. Collective."""
  if not several():
    return jax.device_put(tree, sharding)
  return _spreading(sharding)(tree)


@contextlib.contextmanager
def own_device() -> Iterator[None]:
  """Inside, JAX computes on a device of this process alone.

  What an environment computes about its own rows is no part of the program
  that all processes run together.
  """
  if not several():
    yield
    return
  with jax.set_mesh(None), jax.default_device(jax.local_devices()[0]):
    yield


def _dealt(count):
  """i32[count]: contiguous parts, as even as can be."""
  return np.concatenate([
      np.full(len(part), worker, np.int32) for worker, part in enumerate(
          np.array_split(np.arange(count), jax.process_count()))])


def _pieces(array, rows):
  """Rows from the shards of this process."""
  found = np.empty((len(rows), *array.shape[1:]), array.dtype)
  missing = np.ones(len(rows), bool)
  for piece in array.addressable_shards:
    first, last, _ = piece.index[0].indices(array.shape[0])
    here = missing & (rows >= first) & (rows < last)
    if here.any():
      found[here] = np.asarray(piece.data)[rows[here] - first]
      missing &= ~here
  if missing.any():
    raise ValueError(
        f'row {rows[missing][0]} does not lie in process '
        f'{process()}; it can read its own rows only')
  return found


def _replicate(tree, rows):
  """The arrays that lie with several processes, whole in each."""
  leaves, structure = jax.tree.flatten(tree)
  spread = [i for i, leaf in enumerate(leaves)
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable]
  if spread:
    mesh = leaves[spread[0]].sharding.mesh
    whole = _replicated(mesh, rows)([leaves[i] for i in spread])
    for i, leaf in zip(spread, whole):
      leaves[i] = leaf
  return jax.tree.unflatten(structure, leaves)


@functools.cache
def _spreading(sharding):
  return jax.jit(lambda tree: tree, out_shardings=sharding)


@functools.cache
def _replicated(mesh, rows):
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.jit(lambda leaves: [x[:rows] for x in leaves],
                 out_shardings=sharding)
