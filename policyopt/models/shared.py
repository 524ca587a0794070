"""Scores of rows that share prompts: the model reads each prompt once.

G rows side by side that begin with the same prompt become one row of the
model, [prompt | response 1 | ... | response G]. What it says is laid back into
the rows that the tokens came from, so whoever reads the scores need not know.
"""

from __future__ import annotations

from collections.abc import Collection
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.models import config as config_lib
from policyopt.models import partitioning, scoring, transformer
from policyopt.models.attention_shared import SharedPrompts

Array = jax.Array


class Sizes(NamedTuple):
  """The rows of the model, as a compiled program must know them.

  Attributes:
    samples: G, rows of a batch that share a prompt, side by side.
    prompt: P, places of a prompt; tokens of a longer one that do not find a
      place there are read once for every response.
    response: M, places of a response.
  """
  samples: int
  prompt: int
  response: int


@functools.partial(jax.tree_util.register_dataclass, data_fields=['start'],
                   meta_fields=['sizes'])
@dataclasses.dataclass(frozen=True)
class Shared:
  """Where the prompts of B rows end.

  Attributes:
    start: i32[B], tokens at the beginning of a row that it shares with the
      rows of its prompt; equal in all of them.
    sizes: of the rows of the model.
  """
  start: Array
  sizes: Sizes


def lay(mask: Array, sizes: Sizes) -> Shared:
  """What may be shared: everything before the first chosen token of a prompt.

  Args:
    mask: bool[B, T], the chosen tokens; B is a multiple of G.
    sizes: of the rows of the model.

  Returns:
    Shared.

  Example:
    >>> mask = jnp.array([[0, 0, 1, 1], [0, 0, 0, 0]], bool)
    >>> lay(mask, Sizes(samples=2, prompt=3, response=2)).start.tolist()
    [2, 2]
  """
  first = jnp.where(mask.any(axis=1), jnp.argmax(mask, axis=1), mask.shape[1])
  start = jnp.min(first.reshape(-1, sizes.samples), axis=1)
  # Of a prompt without any chosen token nothing is read.
  start = jnp.where(start == mask.shape[1], 0, start)
  start = jnp.minimum(start, sizes.prompt).astype(jnp.int32)
  return Shared(jnp.repeat(start, sizes.samples), sizes)


def score(config: config_lib.ModelConfig, params: Any, tokens: Array,
          shared: Shared, *, temperature: float | Array = 1.0,
          kept: Array | None = None, prompts: bool = False,
          needs: Collection[str] = frozenset()) -> types.PolicyOutput:
  """`scoring.score` of rows, with each prompt computed once.

  Args:
    config: of the model.
    params: its parameters.
    tokens: i32[B, T], padded on the right.
    shared: where the prompts end.
    temperature: a number, as in `scoring.score`.
    kept: uint32[B, T, ⌈V / 32⌉], as in `scoring.score`.
    prompts: whether the scores of the prompts' own tokens are wanted.
    needs: as in `scoring.score`, but for 'router'.

  Returns:
    A PolicyOutput for [B, T], 0 on the prompts (unless they are wanted), and
    after the M places of each response.

  Raises:
    ValueError: as `scoring.score`; for 'router', and experts whose places are
      counted in rows.
  """
  scoring.check(config, tokens, temperature, kept, needs)
  check(config, needs)
  samples, width, length = shared.sizes
  batch = tokens.shape[0]
  rows = batch // samples
  start = shared.start.reshape(rows, samples)[:, 0]
  place = jnp.arange(width)[None, :] - (width - start)[:, None]
  column = shared.start[:, None] + jnp.arange(length)[None, :]

  def prompt_of(x):
    x = x.reshape(rows, samples, *x.shape[1:])[:, 0]
    return _take(x, jnp.maximum(place, 0))

  def lay_out(x):
    return prompt_of(x), _take(x, jnp.minimum(column, x.shape[1] - 1))

  prompt, response = lay_out(tokens)
  positions = jnp.concatenate(
      [jnp.maximum(place, 0), column.reshape(rows, -1)], axis=1)
  whole = jnp.concatenate([prompt, response.reshape(rows, -1)], axis=1)
  hidden, _ = transformer.forward(
      config, params, partitioning.constrain(whole, 'batch', None), positions,
      shared=SharedPrompts(start, width, samples))
  read, hidden = hidden[:, :width], hidden[:, width:]
  # What predicts a response's first token is the same for all of a prompt.
  last = jnp.where(start[:, None, None] > 0, read[:, -1:], 0)
  hidden = jnp.concatenate([
      jnp.repeat(last, samples, axis=0),
      hidden.reshape(batch, length, -1)[:, :-1]], axis=1)
  head = functools.partial(
      scoring.head, config, params, temperature=temperature, needs=needs)
  kept = (None, None) if kept is None else lay_out(kept)
  out = head(hidden, response, kept=kept[1])
  index = jnp.arange(tokens.shape[1])[None, :] - shared.start[:, None]
  out = _lay_back(out, index, 0)
  if prompts:
    before = jnp.where((place > 0)[:, :, None],
                       jnp.pad(read[:, :-1], [(0, 0), (1, 0), (0, 0)]), 0)
    of_prompt = head(before, prompt, kept=kept[0], first=place <= 0)
    of_prompt = jax.tree.map(
        lambda x: jnp.repeat(x, samples, axis=0), of_prompt)
    # Its places end where the response begins.
    back = _lay_back(of_prompt, index + width, (width - shared.start)[:, None])
    out = jax.tree.map(jnp.add, out, back)
  return types.PolicyOutput(**out)


def check(config: config_lib.ModelConfig, needs: Collection[str]) -> None:
  """Raises ValueError where rows with shared prompts are not the same.

  Args:
    config: of the model.
    needs: as `score`.
  """
  if 'router' in needs:
    raise ValueError(
        "'router' is needed, but routers count a prompt once for each of its "
        'responses: prompts cannot be shared')
  if config.num_experts and config.expert_dispatch == 'capacity':
    raise ValueError(
        "expert_dispatch is 'capacity': an expert's places are counted in each "
        "row, so prompts cannot be shared; 'dropless' can")


def _take(x, index):
  """x[b, index[b]] on axis 1, for [B, T] and [B, T, ...]."""
  return jnp.take_along_axis(
      x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)


def _lay_back(out, index, first):
  """[B, M, ...] -> [B, T, ...] by index; 0 below `first` and from M on."""

  def one(x):
    real = (index >= first) & (index < x.shape[1])
    y = _take(x, jnp.clip(index, 0, x.shape[1] - 1))
    y = jnp.where(real.reshape(real.shape + (1,) * (y.ndim - 2)), y,
                  jnp.zeros((), y.dtype))
    return partitioning.constrain(y, 'batch', *[None] * (y.ndim - 1))

  return jax.tree.map(one, out)
