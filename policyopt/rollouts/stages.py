"""The decode loop in stages: early tokens need not be shown late slots.

Where rows share prompts in the cache of one CPU (`models.cache_layers`), a
token reads every slot of its response, filled or not. So there are few slots at
first, and more when these are full. Elsewhere a kernel reads what is filled
alone, or rows of all lengths are decoded side by side, or numbers are to be
those of scoring, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from policyopt.models import cache_layers
from policyopt.types import Array

# Each is compiled by itself, which is nothing that short responses earn back.
_MOST, _FEWEST_TOKENS = 4, 128
# Slots: whole tiles of the cache.
_MULTIPLE = 64


def ends(limit: int) -> tuple[int, ...]:
  """Tokens that have been drawn at the end of each stage.

  Args:
    limit: tokens of a response at most.

  Returns:
    Rising numbers, the last of them `limit`.

  Example:
    >>> ends(200), ends(300), ends(4096)
    ((200,), (192, 300), (1024, 2048, 3072, 4096))
  """
  count = min(_MOST, max(limit // _FEWEST_TOKENS, 1))
  size = -(-limit // (count * _MULTIPLE)) * _MULTIPLE
  return (*range(size, limit, size), limit)


def run(go_on: Callable[[Any], Array], body: Callable[[Any], Any], loop: Any,
        limit: int) -> Any:
  """`jax.lax.while_loop` until `limit` tokens have been drawn.

  Args:
    go_on: (carry) -> bool[], whether there is a row that has not ended.
    body: (carry) -> carry, draws a token of every row.
    loop: the carry; a named tuple with `step`, tokens drawn, and `cache`.
    limit: tokens of a response at most.

  Returns:
    The last carry; its cache has room for `limit` tokens.
  """
  # With the first of them `sampler.prefill` begins.
  first, *others = ends(limit) if cache_layers.shares(loop.cache) else [limit]

  def until(end, loop):
    return jax.lax.while_loop(
        lambda loop: (loop.step < end) & go_on(loop), body, loop)

  loop = until(first, loop)
  for end in others:
    loop = until(end, loop._replace(cache=cache_layers.grow(loop.cache, end)))
  return loop
