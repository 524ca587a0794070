"""Long rows in pieces of one size, for what is computed bit by bit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

# Of a long row of queries; each is compiled by itself.
_STAGES = 4


def split(x: Array, count: int, size: int) -> Array:
  """Cuts axis 1 into pieces, padded with zeros.

  Args:
    x: [B, T, ...], T at most count · size.
    count: of pieces.
    size: of a piece.

  Returns:
    [count, B, size, ...].

  Example:
    >>> split(jnp.array([[1, 2, 3]]), 2, 2).tolist()
    [[[1, 2]], [[3, 0]]]
  """
  pad = [(0, 0)] * x.ndim
  pad[1] = (0, count * size - x.shape[1])
  x = jnp.pad(x, pad).reshape(x.shape[0], count, size, *x.shape[2:])
  return jnp.swapaxes(x, 0, 1)


def join(x: Array, length: int) -> Array:
  """Puts the pieces together again and drops the padding.

  Args:
    x: [count, B, size, ...].
    length: T.

  Returns:
    [B, T, ...].

  Example:
    >>> join(split(jnp.array([[1, 2, 3]]), 2, 2), 3).tolist()
    [[1, 2, 3]]
  """
  x = jnp.swapaxes(x, 0, 1)
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def of_queries(run, query: Array, *aside: Array, block: int) -> Array:
  """Causal attention of long rows, a few queries at a time.

  In a few stages, so that early queries need not be shown late keys: `run` is
  told where a stage ends. Within a stage blocks follow one another, and what
  they leave for the backward pass is computed again: memory grows with the
  length and not with its square.

  Args:
    run: (end, index, query, *aside) -> [B, S', ...] of the queries at the
      places index i32[S'], all before the int `end`.
    query: [B, S, ...].
    *aside: [B or 1, S, ...], what else there is of every query.
    block: queries at a time; up to two blocks, of a row or a stage, are left
      whole.

  Returns:
    [B, S, ...].

  Source: "Self-attention Does Not Need O(n²) Memory", Rabe and Staats, 2021,
    arXiv 2112.05682.

  Example:
    >>> x = jnp.arange(5.)[None]
    >>> run = lambda end, index, query: query + 10 * end
    >>> of_queries(run, x, block=1).tolist()
    [[20.0, 21.0, 42.0, 43.0, 54.0]]
  """
  length = query.shape[1]
  if length <= 2 * block:
    return run(length, jnp.arange(length), query, *aside)
  size = -(-length // min(_STAGES, -(-length // (2 * block))))
  out = []
  for start in range(0, length, size):
    part = slice(start, min(start + size, length))
    stage = jax.checkpoint(functools.partial(run, part.stop), prevent_cse=False)
    out.append(_one_after_another(
        stage, jnp.arange(part.start, part.stop),
        [x[:, part] for x in (query, *aside)], block))
  return jnp.concatenate(out, axis=1)


def _one_after_another(stage, index, parts, block):
  """stage(index, *parts) of a block of queries at a time."""
  length = len(index)
  if length <= 2 * block:
    return stage(index, *parts)
  count = -(-length // block)
  size = -(-length // count)  # Even blocks: the least padding.
  out = jax.lax.map(lambda piece: stage(piece[0][0], *piece[1:]), tuple(
      split(x, count, size) for x in (index[None], *parts)))
  return join(out, length)
