"""Small tasks in pure JAX, each of which isolates one thing.

Each module has `task(...)`, the task over its alphabet, and
`environment(tokenizer, split, ...)`, which `envs.environment` finds by the
module's name. Names load on first use.
"""

import importlib

__all__ = [
    'countdown', 'families', 'gridworld', 'lengths', 'modes', 'modular',
    'parity', 'rules', 'sorting']


def __getattr__(name):
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(f'{__name__}.{name}')


def __dir__():
  return sorted(__all__)
