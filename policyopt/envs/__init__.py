"""Tasks and their verifiers; the only place where text becomes numbers.

Names load on first use: verifier processes import this folder and must not
pay for JAX.
"""

import importlib

_HOMES = {
    'TASKS': 'factory',
    'VerifierPool': 'verifiers',
    'arithmetic': 'arithmetic',
    'environment': 'factory',
    'math': 'math',
    'reasoning_gym': 'reasoning_gym',
}
_MODULES = frozenset({'arithmetic', 'math', 'reasoning_gym'})

__all__ = [
    'TASKS', 'VerifierPool', 'arithmetic', 'environment', 'math',
    'reasoning_gym']


def __getattr__(name):
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_HOMES[name]}')
  return module if name in _MODULES else getattr(module, name)


def __dir__():
  return sorted(__all__)
