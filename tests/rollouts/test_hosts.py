"""Who works on which rows, with processes that are only pretended."""

import types

import jax
import numpy as np
import pytest

from policyopt.models import partitioning
from policyopt.rollouts import hosts


@pytest.fixture
def processes(monkeypatch):
  """`processes(2, 1)`: this is process 1 of 2."""
  def pretend(count, index):
    monkeypatch.setattr(jax, 'process_count', lambda: count)
    monkeypatch.setattr(jax, 'process_index', lambda: index)
  return pretend


class _Pairs(list):
  """Like a dict, of devices that need not be hashable."""

  def items(self):
    return self


@pytest.mark.parametrize('slices, rows, wanted', [
    # Two hosts with two devices each.
    ([(0, 0, 2), (0, 2, 4), (1, 4, 6), (1, 6, 8)], 8, [0] * 4 + [1] * 4),
    # Devices in another order.
    ([(1, 0, 2), (0, 2, 4), (1, 4, 6), (0, 6, 8)], 8, [1, 1, 0, 0] * 2),
    # A tensor axis over both: they share the work on each row once.
    ([(0, 0, 4), (1, 0, 4), (0, 4, 8), (1, 4, 8)], 8, [0, 0, 1, 1] * 2),
    # A batch that is whole everywhere, and an odd number of rows.
    ([(0, None, None), (1, None, None)], 3, [0, 0, 1])])
def test_every_row_has_one_owner(processes, slices, rows, wanted):
  processes(2, 0)
  array = types.SimpleNamespace(shape=(rows, 3), sharding=types.SimpleNamespace(
      devices_indices_map=lambda shape: _Pairs(
          (types.SimpleNamespace(process_index=process),
           (slice(first, last), slice(None)))
          for process, first, last in slices)))
  assert hosts.owners(array).tolist() == wanted


def test_shares_are_a_partition(processes):
  for count in (0, 1, 7, 8):
    parts = []
    for index in range(3):
      processes(3, index)
      parts.append(hosts.share(count))
    assert np.concatenate(parts).tolist() == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_gathered_rows_come_back_in_their_places(processes, monkeypatch):
  owner = np.array([1, 0, 1, 1, 0], np.int32)
  whole = {'reward': np.arange(5, dtype=np.float32) / 3,
           'tokens': np.arange(10, dtype=np.int32).reshape(5, 2),
           'answer': np.full(5, -1, np.int32)}
  sent = {}
  for index in range(2):
    # First each process says what it has, then all of it arrives.
    processes(2, index)
    monkeypatch.setattr(hosts.multihost_utils, 'process_allgather',
                        lambda packed, index=index: sent.setdefault(
                            index, np.broadcast_to(packed, (2, *packed.shape))))
    hosts.gather_rows(
        {name: value[owner == index] for name, value in whole.items()}, owner)
  assert sent[0].shape == sent[1].shape
  arrived = np.stack([sent[0][0], sent[1][1]])
  for index in range(2):
    processes(2, index)
    monkeypatch.setattr(hosts.multihost_utils, 'process_allgather',
                        lambda packed: arrived)
    found = hosts.gather_rows(
        {name: value[owner == index] for name, value in whole.items()}, owner)
    for name, value in whole.items():
      assert found[name].dtype == value.dtype
      np.testing.assert_array_equal(found[name], value)


def test_rows_are_read_from_shards():
  mesh = partitioning.make_mesh((4, 1, 2, 1))
  values = np.arange(24, dtype=np.float32).reshape(8, 3)
  array = jax.device_put(values, partitioning.rows(mesh))
  rows = np.array([1, 2, 7])
  np.testing.assert_array_equal(hosts.local_rows(array, rows), values[rows])
  # The way of several processes, on an array that one has whole.
  np.testing.assert_array_equal(hosts._pieces(array, rows), values[rows])
  assert hosts.some_row(array).tolist() == [0]


def test_rows_of_others_cannot_be_read():
  shard = types.SimpleNamespace(index=(slice(4, 8),), data=np.zeros((4, 1)))
  array = types.SimpleNamespace(
      shape=(8, 1), dtype=np.float32, addressable_shards=[shard])
  with pytest.raises(ValueError, match='row 3 does not lie in process 0'):
    hosts._pieces(array, np.array([3, 5]))


def test_one_process_is_left_alone():
  tree = {'a': np.arange(3), 'b': np.ones((3, 2))}
  assert hosts.place_tree(tree, None) is tree
  assert hosts.gather_rows(tree, np.zeros(3)) == tree
  assert hosts.fetch(tree, 2)['a'].tolist() == [0, 1]
  assert hosts.numbers(5).tolist() == [5]
  assert hosts.list_of_first_process([3, 4]) == [3, 4]
  assert hosts.any_process(True) and not hosts.any_process(False)
  with hosts.own_device():
    hosts.barrier('nobody else')
