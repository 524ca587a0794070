"""Counts compiled programs: after its first step a run should compile none."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib

import jax

_EVENT = '/jax/core/compile/backend_compile_duration'


class Compiles:
  """Programs that XLA was asked for since the counter was made.

  Attributes:
    count: programs so far, those found in the persistent cache included.
  """

  def __init__(self):
    self.count = 0

  def __call__(self, event: str, duration: float, **_) -> None:
    self.count += event == _EVENT


@contextlib.contextmanager
def count_compiles() -> Iterator[Compiles]:
  """Counts the programs that are compiled inside the block.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> double = jax.jit(lambda x: 2 * x)
    >>> x = jnp.ones(3)
    >>> with count_compiles() as compiles:
    ...   _ = double(x), double(x)
    >>> compiles.count
    1
  """
  compiles = Compiles()
  jax.monitoring.register_event_duration_secs_listener(compiles)
  try:
    yield compiles
  finally:
    jax.monitoring.unregister_event_duration_listener(compiles)
