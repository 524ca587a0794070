"""The order in which problems come: shuffled by seed and epoch, with grain.

Numbers only: which problem stands at which position. So an order can be asked
anywhere, by several hosts alike, and its whole state is a position.
"""

from __future__ import annotations

import grain
import numpy as np


def shuffled(
    size: int, *, seed: int = 0, epochs: int | None = None
) -> grain.MapDataset:
  """The numbers 0 ... size - 1, in a new order in each epoch.

  Position p is in epoch p // size; its number depends on seed, size and p
  alone, and costs the same wherever it stands.

  Args:
    size: of an epoch, at least 1.
    seed: chooses the orders.
    epochs: how many; None for no end.

  Returns:
    A `grain.MapDataset`: `order[p]`, and whatever grain builds on it.

  Raises:
    ValueError: for a size below 1.

  Example:
    >>> order = shuffled(3, seed=1)
    >>> sorted(order[p] for p in range(3)), sorted(order[3:6])
    ([0, 1, 2], [0, 1, 2])
  """
  if size < 1:
    raise ValueError(f'size is {size}; it must be at least 1')
  order = grain.MapDataset.range(size).seed(seed).shuffle()
  return order.repeat(epochs).map(int)


def at(order: grain.MapDataset, positions) -> np.ndarray:
  """The numbers at some positions, i32[N].

  Example:
    >>> at(shuffled(1), [0, 5]).tolist()
    [0, 0]
  """
  positions = np.asarray(positions).tolist()
  return np.asarray([order[p] for p in positions], np.int32)


def batches(
    size: int, batch: int, *, seed: int = 0, epochs: int | None = None,
    process_index: int = 0, process_count: int = 1) -> grain.IterDataset:
  """Batches of problem numbers, of which each process gets its own part.

  Batch s holds the positions s·batch ... (s + 1)·batch - 1 of `shuffled`, so
  the parts of all processes, one after the other, are what a single process
  would get. A last batch that is not full is left out.

  Args:
    size: number of problems.
    batch: problems of a batch over all processes.
    seed: chooses the orders.
    epochs: how many; None for no end.
    process_index: which part, e.g. `jax.process_index()`.
    process_count: number of parts, e.g. `jax.process_count()`.

  Returns:
    A `grain.IterDataset` of i32[batch / process_count]. Its iterator has
    `get_state` and `set_state`, and Orbax checkpoints it.

  Raises:
    ValueError: when the batch does not divide into the parts, or there is no
      such part.

  Example:
    >>> whole = batches(8, 4, seed=3)
    >>> parts = [batches(8, 4, seed=3, process_index=p, process_count=2)
    ...          for p in range(2)]
    >>> np.array_equal(next(iter(whole)),
    ...                np.concatenate([next(iter(p)) for p in parts]))
    True
  """
  if not 0 <= process_index < process_count:
    raise ValueError(
        f'process_index is {process_index}; it must be in '
        f'[0, {process_count})')
  if batch < 1 or batch % process_count:
    raise ValueError(
        f'batch is {batch}; it must be a positive multiple of the '
        f'{process_count} processes')
  share = batch // process_count
  part = slice(process_index * share, (process_index + 1) * share)
  order = shuffled(size, seed=seed, epochs=epochs)
  return order.batch(
      batch, drop_remainder=True,
      batch_fn=lambda ids: np.asarray(ids, np.int32)[part]).to_iter_dataset()
