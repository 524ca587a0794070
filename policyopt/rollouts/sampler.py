"""Sampling: each prompt is read once, then all rows are decoded in one loop.

The tokens of a response are drawn by Gumbel argmax with a key that depends
only on the row's id and on the place in the response, so a row's text depends
neither on the batch around it, nor on the order of rows, nor on padding, nor
on how the batch is spread over devices.

In the cache the token at position p of a row sits in slot p, as in scoring:
sums over the same slots in the same order are rounded alike, which is why the
sampler and the learner agree on log-probabilities.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.models import cache as kv_cache
from policyopt.models import transformer
from policyopt.models.config import ModelConfig
from policyopt.models.partitioning import constrain
from policyopt.ops.signals.entropy_scale import Heat
from policyopt.rollouts.draw import Drawn, SamplerConfig, draw
from policyopt.types import Array, Prompts

_VECTOR = 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
  """Sampled rows; T = P + M, each response follows its prompt immediately.

  Attributes:
    tokens: i32[B, T], prompt, response, then `pad_id`.
    mask: bool[B, T], the response, stop token included.
    log_probs: f32[B, T], of the tokens under the distribution they were drawn
      from (after temperature and truncation); 0 where `mask` is False.
    policy_log_probs: f32[B, T], under the policy itself: temperature 1 and no
      truncation; 0 where `mask` is False.
    entropy: f32[B, T] in nats, of the distribution drawn from.
    kept: uint32[B, T, ceil(V/32)], bits of the tokens that truncation kept
      when this token was drawn, 0 where `mask` is False; None when nothing is
      truncated.
    length: i32[B], response tokens, stop token included.
    truncated: bool[B], reached the length limit without a stop token.
    steps: i32[], tokens drawn for the longest row: the length of the loop.
  """
  tokens: Array
  mask: Array
  log_probs: Array
  policy_log_probs: Array
  entropy: Array
  kept: Array | None
  length: Array
  truncated: Array
  steps: Array


class Loop(NamedTuple):
  """The carry of the decode loop.

  Attributes:
    step: i32[], tokens drawn.
    token: i32[B], the last ones.
    done: bool[B], rows that have ended.
    length: i32[B], response tokens.
    truncated: bool[B], rows that ended at their limit.
    record: of [M, B], what was drawn.
    cache: of the keys and values.
  """
  step: Array
  token: Array
  done: Array
  length: Array
  truncated: Array
  record: Drawn
  cache: Any


def sample(config: ModelConfig, sampler: SamplerConfig, params: Any,
           prompts: Prompts, key: Array, *, samples: int, row_ids: Array,
           max_tokens: Array | None = None,
           heat: Heat | None = None) -> Samples:
  """Draws `samples` responses to each prompt.

  A row draws token t with the key fold_in(fold_in(key, row_id), t). To be
  jitted with `config`, `sampler` and `samples` static; ends as soon as every
  row has ended.

  Args:
    config: of the model.
    sampler: how to draw.
    params: of the model.
    prompts: tokens i32[N, P] padded on the right, length i32[N], at least 1.
    key: random key, consumed.
    samples: G, responses per prompt (static).
    row_ids: i32[N*G], what tells rows apart; response g of prompt n is row
      n*G + g.
    max_tokens: i32[N*G], length limit of each row; None or entries of 0 mean
      `sampler.max_tokens`, which no limit exceeds.
    heat: raises the temperature of uncertain tokens and lowers that of
      certain ones; None leaves it.

  Returns:
    Samples with B = N*G rows and T = P + sampler.max_tokens.

  Raises:
    ValueError: P + sampler.max_tokens is more than the model's context, or
      `row_ids` or `max_tokens` are not one per row.

  Example:
    >>> from policyopt.models import presets
    >>> config = presets.preset('nano')
    >>> params = jax.jit(transformer.init, static_argnums=0)(
    ...     config, jax.random.key(0))
    >>> draw = jax.jit(sample, static_argnums=(0, 1),
    ...                static_argnames='samples')
    >>> prompts = Prompts(jnp.array([[5, 6, 7]]), jnp.array([3]))
    >>> out = draw(config, SamplerConfig(max_tokens=4), params, prompts,
    ...            jax.random.key(1), samples=2, row_ids=jnp.arange(2))
    >>> out.tokens.shape, out.length.tolist(), out.truncated.tolist()
    ((2, 7), [4, 4], [True, True])
  """
  sampler.validate(config.vocab_size)
  (num_prompts, width), limit = prompts.tokens.shape, sampler.max_tokens
  rows = num_prompts * samples
  _check(config, width, limit, rows, row_ids, max_tokens)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids)
  prompts = Prompts(*(jnp.asarray(x, jnp.int32) for x in prompts))
  hidden, cache = prefill(config, params, prompts, samples, limit)
  starts = jnp.repeat(prompts.length, samples, total_repeat_length=rows)
  if max_tokens is None:
    limits = jnp.full((rows,), limit, jnp.int32)
  else:
    limits = jnp.where(max_tokens > 0, jnp.minimum(max_tokens, limit), limit)
  last = decode(
      config, sampler, params, hidden, cache, keys, starts, limits, heat)
  return _join(prompts.tokens, starts, last, samples, sampler.pad_id)


def _check(config, width, limit, rows, row_ids, max_tokens):
  if width + limit > config.max_length:
    raise ValueError(
        f'prompts of {width} tokens and responses of {limit} make '
        f"{width + limit}; the model's context (max_length) is "
        f'{config.max_length}')
  for name, array in (('row_ids', row_ids), ('max_tokens', max_tokens)):
    if array is not None and array.shape != (rows,):
      raise ValueError(
          f'{name} has the shape {array.shape}; prompts x samples = {rows} '
          f'rows need ({rows},)')


def prefill(config: ModelConfig, params: Any, prompts: Prompts, samples: int,
            limit: int) -> tuple[Array, kv_cache.Cache]:
  """Reads each prompt once.

  Args:
    config: of the model.
    params: of the model.
    prompts: N of up to P tokens.
    samples: rows per prompt.
    limit: response tokens that the cache will have room for.

  Returns:
    (hidden [N*samples, D] that predicts the first tokens, the rows' cache of
    P + limit slots).
  """
  (num_prompts, width), length = prompts.tokens.shape, prompts.length
  positions = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None, :], (num_prompts, width))
  # Whole vectors of slots: sums over a few slots are rounded otherwise than
  # the same sums over many. Responses overwrite what padding has written.
  slots = min(width + limit, -(-width // _VECTOR) * _VECTOR)
  cache = kv_cache.init_cache(config, num_prompts, slots)
  hidden, cache = transformer.forward(
      config, params, prompts.tokens, positions, cache=cache,
      slot=jnp.int32(0))
  last = jnp.maximum(length - 1, 0)[:, None, None]
  hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
  cache = kv_cache.extend(
      kv_cache.repeat(cache, samples), width + limit - slots)
  return jnp.repeat(hidden, samples, axis=0), cache


def decode(config: ModelConfig, sampler: SamplerConfig, params: Any,
           hidden: Array, cache: kv_cache.Cache, keys: Array, starts: Array,
           limits: Array, heat: Heat | None = None) -> Loop:
  """The loop: draw, record, and read the drawn token to predict the next.

  Args:
    config: of the model.
    sampler: how to draw.
    params: of the model.
    hidden: [B, D] that predicts the first tokens.
    cache: of the prompts.
    keys: [B] random keys of the rows.
    starts: i32[B], length of each prompt.
    limits: i32[B], length limit of each response.
    heat: as in `sample`.

  Returns:
    The last carry, which holds what was drawn and the cache.
  """
  limit = sampler.max_tokens
  stops = jnp.asarray(sampler.stop_tokens, jnp.int32)

  def advance(step, hidden, cache, done, length, truncated, record):
    logits = transformer.logits(config, params, hidden)
    drawn = draw(
        sampler, constrain(logits, 'batch', 'vocab'), keys, step, heat)
    token = jnp.where(done, sampler.pad_id, drawn.token)
    record = jax.tree.map(
        lambda buffer, x: jax.lax.dynamic_update_index_in_dim(
            buffer, x, step, axis=0), record, drawn._replace(token=token))
    length = length + ~done
    stopped = (token[:, None] == stops[None, :]).any(axis=-1)
    truncated = truncated | (~done & ~stopped & (length >= limits))
    done = done | stopped | (length >= limits)
    return Loop(step + 1, token, done, length, truncated, record, cache)

  def body(loop):
    position = starts + loop.step - 1
    hidden, cache = transformer.forward(
        config, params, loop.token[:, None], position[:, None],
        cache=loop.cache, slot=position)
    return advance(loop.step, hidden[:, 0], cache, loop.done, loop.length,
                   loop.truncated, loop.record)

  # The first token comes from the prefill, so that the last is never read.
  rows = starts.shape[0]
  record = jax.tree.map(
      lambda x: jnp.zeros((limit, *x.shape), x.dtype),
      jax.eval_shape(lambda h, k: draw(
          sampler, transformer.logits(config, params, h), k, jnp.int32(0),
          heat),
          hidden, keys))
  loop = advance(jnp.int32(0), hidden, cache, jnp.zeros(rows, bool),
                 jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool), record)
  return jax.lax.while_loop(
      lambda loop: (loop.step < limit) & ~loop.done.all(), body, loop)


def _join(prompts, starts, loop, samples, pad_id) -> Samples:
  """Moves each response from the end of the padded prompt to its real end."""
  limit, width = loop.record.token.shape[0], prompts.shape[1]
  place = jnp.arange(width + limit)[None, :]
  index = place - starts[:, None]
  mask = (index >= 0) & (index < loop.length[:, None])
  index = jnp.clip(index, 0, limit - 1)

  def gather(recorded):
    moved = jnp.moveaxis(recorded, 0, 1)
    if moved.ndim == 3:
      moved = jnp.take_along_axis(moved, index[:, :, None], axis=1)
      return jnp.where(mask[:, :, None], moved, 0)
    return jnp.where(mask, jnp.take_along_axis(moved, index, axis=1), 0)

  token, log_probs, policy_log_probs, entropy, kept = jax.tree.map(
      gather, loop.record)
  prompt = jnp.pad(jnp.repeat(prompts, samples, axis=0), ((0, 0), (0, limit)))
  prompt = jnp.where(place < starts[:, None], prompt, pad_id)
  return Samples(
      jnp.where(mask, token, prompt), mask, log_probs, policy_log_probs,
      entropy, kept, loop.length, loop.truncated, loop.step)
