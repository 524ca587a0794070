"""The order of problems: by seed and epoch, resumable, in parts."""

import grain
import numpy as np
import pytest

from policyopt.data import order


def test_every_problem_once_per_epoch_in_a_new_order():
  shuffled = order.shuffled(50, seed=1)
  epochs = [[shuffled[e * 50 + i] for i in range(50)] for e in range(3)]
  assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] != list(range(50))


def test_the_order_depends_on_seed_and_position_alone():
  first, again = order.shuffled(50, seed=1), order.shuffled(50, seed=1)
  places = [149, 3, 70, 10 ** 6]
  assert order.at(first, places).tolist() == [again[p] for p in places]
  other = order.at(order.shuffled(50, seed=2), range(50))
  assert (other != order.at(first, range(50))).mean() > 0.8


def test_epochs_end():
  batches = list(order.batches(10, 4, epochs=2))
  assert len(batches) == 5 and batches[0].dtype == np.int32
  assert sorted(np.concatenate(batches)) == sorted(list(range(10)) * 2)


@pytest.mark.parametrize('step', [0, 1, 3, 7])
def test_a_run_resumes_at_the_same_problem(step):
  whole = iter(order.batches(10, 4, seed=5))
  expected = [next(whole) for _ in range(12)]
  first = iter(order.batches(10, 4, seed=5))
  for _ in range(step):
    next(first)
  second = iter(order.batches(10, 4, seed=5))
  second.set_state(first.get_state())
  np.testing.assert_array_equal(
      [next(second) for _ in range(12 - step)], expected[step:])


@pytest.mark.parametrize(
    'count', [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_parts_of_all_processes_are_the_whole(count):
  parts = [iter(order.batches(10, 8, seed=2, process_index=p,
                              process_count=count)) for p in range(count)]
  whole = iter(order.batches(10, 8, seed=2))
  for _ in range(6):
    shares = [next(part) for part in parts]
    assert {share.shape for share in shares} == {(8 // count,)}
    np.testing.assert_array_equal(np.concatenate(shares), next(whole))


def test_grain_builds_on_it():
  rows = order.shuffled(6, seed=0).map(lambda i: i * 10)
  assert isinstance(rows, grain.MapDataset)
  assert sorted(rows[i] for i in range(6)) == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize('args, kwargs, message', [
    ((0, 1), {}, 'size is 0'), ((4, 0), {}, 'batch is 0'),
    ((4, 3), dict(process_count=2), 'positive multiple of the 2 processes'),
    ((4, 2), dict(process_index=2, process_count=2), r'in \[0, 2\)')])
def test_wrong_arguments(args, kwargs, message):
  with pytest.raises(ValueError, match=message):
    order.batches(*args, **kwargs)
