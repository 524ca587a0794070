"""Rows that share prompts: checked on the host, and how large they are.

A compiled program needs to know how many places prompts and responses take;
that the rows of a prompt lie side by side is a promise of the rollout scheme,
and only the tokens tell whether it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from policyopt.data.sizes import buckets, smallest
from policyopt.models import partitioning, shared
from policyopt.models.config import ModelConfig
from policyopt.models.shared import Sizes
from policyopt.training import programs
from policyopt.types import Array, Rollout


def check(config: ModelConfig, needs, batching, prompts: int,
          shards: int) -> None:
  """Raises ValueError for what cannot share prompts.

  Args:
    config: of the model.
    needs: of the method.
    batching: of the update; nothing is checked unless it shares prompts.
    prompts: of a step.
    shards: of the mesh that rows are spread over.
  """
  if not batching.share_prompts:
    return
  if batching.packed:
    raise ValueError(
        'batching.share_prompts and batching.packed are both True; rows that '
        'share a prompt are packed already: set one of them to False')
  try:
    shared.check(config, needs)
  except ValueError as error:
    raise ValueError(f'batching.share_prompts is True, but {error}') from None
  pieces = batching.minibatches * batching.microbatches
  if prompts % (pieces * shards):
    raise ValueError(
        f'batching.share_prompts is True: prompts is {prompts} in {pieces} '
        f'pieces; it must be a multiple of pieces x shards = {pieces} x '
        f"{shards} ('data' x 'fsdp'), so that no group is cut")


class Measure(NamedTuple):
  """How large the rows that share prompts are, found out in two parts.

  Attributes:
    begin: rollout -> what a device finds out of it; waits for nothing.
    end: what `begin` gave -> Sizes; waits for that.
  """
  begin: Callable[[Rollout], Array]
  end: Callable[[Array], Sizes]

  def __call__(self, rollout: Rollout) -> Sizes:
    """Both."""
    return self.end(self.begin(rollout))


def make_measure(mesh: Mesh, largest: Sizes, count: int,
                 jit: Callable = jax.jit) -> Measure:
  """Builds `measure(rollout) -> Sizes`, which also checks the rollout.

  Args:
    mesh: that the rows are spread over.
    largest: sizes that hold every batch.
    count: of prompt sizes, and of response sizes, at most; each pair is
      compiled once.
    jit: compiles, as that of `make_learner`.

  Returns:
    Measure. It raises ValueError where rows of a group do not share their
    prompt, or do not fit. While it is traced it cannot look, and returns the
    largest.
  """
  measured = jit(functools.partial(_measure, sizes=largest),
                 out_shardings=partitioning.replicated(mesh))
  prompts = buckets(largest.prompt, count)
  responses = buckets(largest.response, count)

  def begin(rollout: Rollout) -> Array:
    rows = rollout.mask.shape[0]
    if rows % largest.samples:
      raise ValueError(
          f'batching.share_prompts is True, but a batch of {rows} rows is not '
          f'made of groups of samples = {largest.samples}')
    return measured(rollout.tokens, rollout.mask)

  def end(found: Array) -> Sizes:
    if isinstance(found, jax.core.Tracer):
      return largest
    prompt, response, apart, rows = map(int, np.asarray(found))
    if apart < rows:
      raise ValueError(
          'batching.share_prompts is True, but the tokens before the response '
          f'of row {apart} are not those of the first row of its group of '
          f'{largest.samples} rows side by side: this rollout scheme needs '
          'share_prompts = False')
    if response > largest.response:
      raise ValueError(
          f'batching.share_prompts is True, but a response has {response} '
          f'tokens, more than sampler.max_tokens = {largest.response}')
    return Sizes(largest.samples, smallest(prompts, prompt),
                 smallest(responses, response))

  return Measure(begin, end)


def with_sizes(score, update, mesh: Mesh, largest: Sizes, count: int,
               jit: Callable = jax.jit):
  """Compiled functions that are told the smallest sizes that hold a batch.

  Args:
    score: of a learner, with an argument `sizes`.
    update: the same.
    mesh: as in `make_measure`, as are all that follow.
    largest: sizes that hold every batch.
    count: of prompt sizes, and of response sizes.
    jit: compiles.

  Returns:
    (measure, score, update). `measure` begins to find out the sizes of a
    rollout and returns {'found': what it will be}, which the other two take
    instead of `sizes`; without it they look by themselves, which waits for
    everything that the devices were told before. Their `lower`,
    `eval_shape` and `begin` take the largest sizes.
  """
  measure = make_measure(mesh, largest, count, jit)

  def sizes_of(rollout, found):
    return measure(rollout) if found is None else measure.end(found)

  def shared_score(params, ref_params, rollout, found=None):
    return score(params, ref_params, rollout, sizes=sizes_of(rollout, found))

  def shared_update(state, assigned, key, found=None):
    return update(
        state, assigned, key, sizes=sizes_of(assigned.rollout, found))

  for given, plain in (shared_score, score), (shared_update, update):
    for name in 'lower', 'eval_shape':
      setattr(given, name, functools.partial(
          getattr(plain, name), sizes=largest))
    given.begin = functools.partial(programs.begin, plain, sizes=largest)
    given.kept = getattr(plain, 'kept', False)
  return (lambda rollout: {'found': measure.begin(rollout)},
          shared_score, shared_update)


def _measure(tokens: Array, mask: Array, sizes: Sizes) -> Array:
  """i32[4]: longest prompt and response, the first row that is apart (all
  rows, if none is), and how many rows there are."""
  rows = mask.shape[0]
  start = shared.lay(mask, sizes).start
  place = jnp.arange(mask.shape[1])[None, :]
  end = jnp.max(jnp.where(mask, place + 1, 0), axis=1)
  first = jnp.repeat(tokens[::sizes.samples], sizes.samples, axis=0)
  apart = ((tokens != first) & (place < start[:, None])).any(axis=1)
  apart = apart & mask.any(axis=1)
  return jnp.stack([
      jnp.max(start), jnp.max(end - start),
      jnp.min(jnp.where(apart, jnp.arange(rows), rows)),
      jnp.int32(rows)]).astype(jnp.int32)
