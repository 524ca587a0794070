"""Where examples come from, in which order, and how they become arrays.

  sources    records by number: JSON lines, lists
  datasets   data sets of tfds, read and written without TensorFlow
  problems   records as questions and answers: checked, filtered, split
  order      which problem comes when: shuffled, for several processes
  packing    examples, or rows of a batch, side by side in rows
  sizes      the few that batches come in
"""

import importlib

_HOMES = {
    'Fields': 'problems',
    'InMemory': 'sources',
    'JsonLines': 'sources',
    'Problem': 'problems',
    'Problems': 'problems',
    'batches': 'order',
    'buckets': 'sizes',
    'pack_examples': 'packing',
    'pack_rows': 'packing',
    'shuffled': 'order',
    'split_of': 'problems',
    'tfds_source': 'datasets',
    'tfds_splits': 'datasets',
    'write_tfds': 'datasets',
}

__all__ = [
    'Fields', 'InMemory', 'JsonLines', 'Problem', 'Problems', 'batches',
    'buckets', 'pack_examples', 'pack_rows', 'shuffled', 'split_of',
    'tfds_source', 'tfds_splits', 'write_tfds']


def __getattr__(name):
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(
      importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__():
  return sorted(__all__)
