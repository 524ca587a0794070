"""Scores of rows that share the rows of the model.

The model runs over packed rows, where no place is lost to padding; what it
says is laid back into the rows that the tokens came from. So whoever reads
the scores sees rows, and need not know.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.models import config as config_lib
from policyopt.models import partitioning, scoring, shared

Array = jax.Array


class Packing(NamedTuple):
  """Where the rows of a batch lie in packed rows, as `data.packing.pack_rows`.

  Attributes:
    row: i32[R, P], the row that a token comes from, -1 for none. The tokens
      of a row lie side by side.
    start: i32[B], place of a row's first token, counted through the R·P.
    length: i32[B], tokens of a row that are packed; 0 leaves it out.
  """
  row: Array
  start: Array
  length: Array


def score(config: config_lib.ModelConfig, params: Any, tokens: Array,
          packing: Packing | shared.Shared | None, *,
          temperature: float | Array = 1.0, kept: Array | None = None,
          counted: Array | None = None, prompts: bool = False,
          needs: Collection[str] = frozenset()) -> types.PolicyOutput:
  """`scoring.score` of rows, computed in packed rows.

  Args:
    config: of the model.
    params: its parameters.
    tokens: i32[B, T], padded on the right.
    packing: of the B rows, or the prompts that they share; None scores them
      as they are.
    temperature: a number, as in `scoring.score`.
    kept: uint32[B, T, ⌈V / 32⌉], as in `scoring.score`.
    counted: bool[B, T], as in `scoring.score`.
    prompts: whether the scores of shared prompts are wanted; those of others
      are always there.
    needs: as in `scoring.score`.

  Returns:
    A PolicyOutput for [B, T], 0 after the packed tokens of each row.
  """
  options = dict(temperature=temperature, needs=needs)
  if packing is None:
    return scoring.score(
        config, params, tokens, kept=kept, counted=counted, **options)
  if isinstance(packing, shared.Shared):
    return shared.score(config, params, tokens, packing, kept=kept,
                        prompts=prompts, **options)
  place = jnp.arange(packing.row.size).reshape(packing.row.shape)
  source = jnp.maximum(packing.row, 0)
  column = jnp.where(packing.row >= 0, place - packing.start[source], 0)

  def pack(x):
    if x is None:
      return None
    y = x[source, column]
    real = (packing.row >= 0).reshape(packing.row.shape + (1,) * (y.ndim - 2))
    y = jnp.where(real, y, jnp.zeros((), y.dtype))
    return partitioning.constrain(y, 'batch', *[None] * (y.ndim - 1))

  out = scoring.score(
      config, params, pack(tokens), positions=column, segments=packing.row + 1,
      kept=pack(kept), counted=pack(counted), **options)
  index = jnp.arange(tokens.shape[1])
  real = index[None, :] < packing.length[:, None]
  index = jnp.where(real, packing.start[:, None] + index[None, :], 0)

  def unpack(x):
    y = x.reshape(-1, *x.shape[2:])[index]
    y = jnp.where(real.reshape(real.shape + (1,) * (y.ndim - 2)), y,
                  jnp.zeros((), y.dtype))
    return partitioning.constrain(y, 'batch', *[None] * (y.ndim - 1))

  router, out = out.router, out._replace(router=None)
  out = jax.tree.map(unpack, out)
  if router is not None:  # Sums over tokens, but for what is per token.
    out = out._replace(router=router | {'z': unpack(router['z'])})
  return out
