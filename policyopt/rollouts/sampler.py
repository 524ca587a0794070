"""Sampling: each prompt is read once, then all rows are decoded in one loop.

The tokens of a response are drawn by Gumbel argmax with a key that depends
only on the row's id and on the place in the response, so a row's text depends
neither on the batch around it, nor on the order of rows, nor on padding, nor
on how the batch is spread over devices.

In the cache the token at position p of a row sits in slot p, as in scoring:
sums over the same slots in the same order are rounded alike, which is why the
sampler and the learner agree on log-probabilities. Rows of one prompt may share
its slots (`models.cache_layers`); they then agree to float32's rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.envs.turns import Spoken
from policyopt.models import cache as kv_cache
from policyopt.models import cache_layers, transformer, unrolled
from policyopt.models.config import ModelConfig
from policyopt.models.layers import AnyCache
from policyopt.models.partitioning import constrain
from policyopt.ops.signals.entropy_scale import Heat
from policyopt.rollouts import reading, slots, stages
from policyopt.rollouts.draw import Drawn, SamplerConfig, draw, ends, stops
from policyopt.types import Array, Prompts


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
  """Sampled rows; T = P + M, each response follows its prompt immediately.

  Attributes:
    tokens: i32[B, T], prompt, response, then `pad_id`.
    mask: bool[B, T], the response, stop token included; of a conversation
      what the policy chose.
    log_probs: f32[B, T], of the tokens under the distribution they were drawn
      from (after temperature and truncation); 0 where `mask` is False.
    policy_log_probs: f32[B, T], under the policy itself: temperature 1 and no
      truncation; 0 where `mask` is False.
    entropy: f32[B, T] in nats, of the distribution drawn from.
    kept: uint32[B, T, ceil(V/32)], bits of the tokens that truncation kept
      when this token was drawn, 0 where `mask` is False; None when nothing is
      truncated.
    length: i32[B], response tokens, stop token and replies included.
    truncated: bool[B], reached the length limit without a stop token, or
      before the conversation was over.
    steps: i32[], draws that it took: the tokens of the longest row when all
      rows are decoded at once.
    spoken: of conversations; None of single responses.
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
  spoken: Spoken | None = None


class Loop(NamedTuple):
  """The carry of the decode loop.

  Attributes:
    step: i32[], tokens drawn.
    token: i32[B], the last ones.
    done: bool[B], rows that have ended.
    record: of [M, B], what was drawn.
    cache: of the keys and values.
  """
  step: Array
  token: Array
  done: Array
  record: Drawn
  cache: Any


def sample(config: ModelConfig, sampler: SamplerConfig, params: Any,
           prompts: Prompts, key: Array, *, samples: int, row_ids: Array,
           max_tokens: Array | None = None,
           heat: Heat | None = None) -> Samples:
  """Draws `samples` responses to each prompt.

  A row draws token t with the key fold_in(fold_in(key, row_id), t). To be
  jitted with `config`, `sampler` and `samples` static; ends as soon as every
  row has ended. With fewer slots than rows, `sampler.slots` rows are decoded at
  a time (see `rollouts.slots`): the same tokens, in fewer draws when rows
  differ in length.

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
      `row_ids` or `max_tokens` are not one per row, or the prompts cannot be
      read in chunks of `sampler.prefill_chunk`.

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
  keys, prompts, starts, limits = rows_of(
      config, sampler, prompts, key, samples, row_ids, max_tokens)
  if 0 < sampler.slots < starts.shape[0]:
    drawn, steps = slots.decode(config, sampler, params, prompts, keys, starts,
                                limits, heat)
    return _finish(sampler, prompts.tokens, starts, limits, drawn, steps)
  hidden, cache = prefill(
      config, params, prompts, samples, sampler.max_tokens)
  last = decode(
      config, sampler, params, hidden, cache, keys, starts, limits, heat)
  record = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), last.record)
  return _finish(sampler, prompts.tokens, starts, limits, record, last.step)


def rows_of(config: ModelConfig, sampler: SamplerConfig, prompts: Prompts,
            key: Array, samples: int, row_ids: Array,
            max_tokens: Array | None) -> tuple[Array, Prompts, Array, Array]:
  """What is known of the rows before anything is drawn; checked.

  Args:
    config: of the model.
    sampler: how to draw.
    prompts: N of up to P tokens.
    key: consumed.
    samples: G.
    row_ids: i32[N*G].
    max_tokens: as in `sample`.

  Returns:
    (keys [N*G], prompts of i32, starts i32[N*G] the lengths of the prompts,
    limits i32[N*G] the most tokens of the responses).

  Raises:
    ValueError: as `sample`.
  """
  sampler.validate(config.vocab_size)
  (num_prompts, width), limit = prompts.tokens.shape, sampler.max_tokens
  rows = num_prompts * samples
  _check(config, width, limit, rows, row_ids, max_tokens)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids)
  prompts = Prompts(*(jnp.asarray(x, jnp.int32) for x in prompts))
  starts = jnp.repeat(prompts.length, samples, total_repeat_length=rows)
  if max_tokens is None:
    return keys, prompts, starts, jnp.full((rows,), limit, jnp.int32)
  return keys, prompts, starts, jnp.where(
      max_tokens > 0, jnp.minimum(max_tokens, limit), limit)


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
            limit: int) -> tuple[Array, AnyCache]:
  """Reads each prompt once.

  Args:
    config: of the model.
    params: of the model.
    prompts: N of up to P tokens.
    samples: rows per prompt.
    limit: most tokens of a response.

  Returns:
    (hidden [N*samples, D] that predicts the first tokens, the rows' cache of
    P + limit slots in the form that is decoded fastest; where that grows, of
    those of the first of its `stages`).
  """
  width = prompts.tokens.shape[1]
  hidden, cache = reading.read(config, params, prompts, limit)
  hidden = jnp.repeat(hidden, samples, axis=0)
  if unrolled.large(config):
    return hidden, cache_layers.share(
        cache, prompts.length, samples, stages.ends(limit)[0])
  spare = width + limit - cache.slots
  cache = kv_cache.extend(kv_cache.repeat(cache, samples), spare)
  return hidden, unrolled.by_layer(config, cache, cache.slots)


def decode(config: ModelConfig, sampler: SamplerConfig, params: Any,
           hidden: Array, cache: AnyCache, keys: Array, starts: Array,
           limits: Array, heat: Heat | None = None) -> Loop:
  """The loop: draw, record, and read the drawn token to predict the next.

  Args:
    config: of the model.
    sampler: how to draw.
    params: of the model.
    hidden: [B, D] that predicts the first tokens.
    cache: of the prompts, from `prefill`.
    keys: [B] random keys of the rows.
    starts: i32[B], length of each prompt.
    limits: i32[B], length limit of each response.
    heat: as in `sample`.

  Returns:
    The last carry, which holds what was drawn and the cache.
  """
  limit = sampler.max_tokens
  params = unrolled.weights(config, params, starts.shape[0])

  def advance(step, hidden, cache, done, record):
    logits = transformer.logits(config, params, hidden)
    drawn = draw(
        sampler, constrain(logits, 'batch', 'vocab'), keys, step, heat)
    token = jnp.where(done, sampler.pad_id, drawn.token)
    record = jax.tree.map(
        lambda buffer, x: jax.lax.dynamic_update_index_in_dim(
            buffer, x, step, axis=0), record, drawn._replace(token=token))
    done = done | ends(sampler, token, step, limits)
    return Loop(step + 1, token, done, record, cache)

  def body(loop):
    position = starts + loop.step - 1
    hidden, cache = transformer.forward(
        config, params, loop.token[:, None], position[:, None],
        cache=loop.cache, slot=position)
    return advance(loop.step, hidden[:, 0], cache, loop.done, loop.record)

  # The first token comes from the prefill, so that the last is never read.
  rows = starts.shape[0]
  record = jax.tree.map(
      lambda x: jnp.zeros((limit, *x.shape), x.dtype),
      jax.eval_shape(lambda h, k: draw(
          sampler, transformer.logits(config, params, h), k, jnp.int32(0),
          heat),
          hidden, keys))
  loop = advance(
      jnp.int32(0), hidden, cache, jnp.zeros(rows, bool), record)
  return stages.run(lambda loop: ~loop.done.all(), body, loop, limit)


def _finish(sampler, prompts, starts, limits, record, steps) -> Samples:
  """Moves each response, [B, M], from its own array to its prompt's end."""
  (rows, limit), (num_prompts, width) = record.token.shape, prompts.shape
  step = jnp.arange(limit)[None]
  stopped = stops(sampler, record.token)
  ended = stopped | (step + 1 >= limits[:, None])
  # The first end is the only one: what follows is of no row, or of another.
  length = jnp.argmax(ended, axis=1).astype(jnp.int32) + 1
  last = step == length[:, None] - 1
  place = jnp.arange(width + limit)[None, :]
  index = place - starts[:, None]
  mask = (index >= 0) & (index < length[:, None])
  index = jnp.clip(index, 0, limit - 1)

  def gather(x):
    if x.ndim == 3:
      x = jnp.take_along_axis(x, index[:, :, None], axis=1)
      return jnp.where(mask[:, :, None], x, 0)
    return jnp.where(mask, jnp.take_along_axis(x, index, axis=1), 0)

  token, log_probs, policy_log_probs, entropy, kept = jax.tree.map(
      gather, record)
  prompt = jnp.repeat(prompts, rows // num_prompts, axis=0)
  prompt = jnp.pad(prompt, ((0, 0), (0, limit)))
  prompt = jnp.where(place < starts[:, None], prompt, sampler.pad_id)
  return Samples(
      jnp.where(mask, token, prompt), mask, log_probs, policy_log_probs,
      entropy, kept, length, ~(stopped & last).any(axis=1), steps)
