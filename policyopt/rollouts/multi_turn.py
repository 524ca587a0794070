"""Conversations: rows in which the task answers what the policy writes.

A conversation is one row of tokens, its prompt, then actions and replies by
turns, and it is sampled as any response is: one token after the other into one
cache. At each step of the loop a row takes what was drawn for it, or, while it
reads, the next token of its reply; the task is a part of the loop's carry. So
no row waits for another to end its turn, nothing is ever read twice, and a
row still depends on its id alone. A reply costs a step for each of its tokens.

Schemes of `group` draw conversations whenever the task has turns; methods need
not know. What such a rollout has besides:

- `mask` is True on the tokens of actions alone, `log_probs` 0 on replies;
- `turn` i32[B, T] and `extras['state_id']` i32[B, T] of each chosen token;
- rewards lie on the last token of the action that earned them;
- 'length' counts replies, too, and so does the limit on a row's tokens. A row
  that comes to it before its conversation is over is 'truncated': an action
  that was cut off is not carried out. To have used up all turns is no
  truncation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.envs import turns as conversations
from policyopt.models import cache as kv_cache
from policyopt.models import transformer, unrolled
from policyopt.models.config import ModelConfig
from policyopt.models.partitioning import constrain
from policyopt.ops.signals.entropy_scale import Heat
from policyopt.rollouts import sampler as one_turn
from policyopt.rollouts import stages
from policyopt.rollouts.draw import Drawn, SamplerConfig, draw
from policyopt.rollouts.sampler import Samples
from policyopt.types import Array, Prompts, Turns


class Loop(NamedTuple):
  """The carry of the loop.

  Attributes:
    step: i32[], tokens there are.
    token: i32[B], the last ones.
    talk: the conversations.
    done: bool[B], rows that have ended.
    length: i32[B], their tokens.
    drawn: of [M, B], what the sampler says of each token.
    heard: of [M, B], what the conversation says of it.
    cache: of the keys and values.
  """
  step: Array
  token: Array
  talk: conversations.Talk
  done: Array
  length: Array
  drawn: Drawn
  heard: conversations.Heard
  cache: kv_cache.Cache


def check(turns: Turns | None, sampler: SamplerConfig) -> None:
  """Raises ValueError for a sampler that cannot hold conversations.

  Args:
    turns: of the task, or None.
    sampler: how tokens are drawn.

  Raises:
    ValueError: rows would be decoded in slots.
  """
  if turns is not None and sampler.slots:
    raise ValueError(
        f'sampler.slots is {sampler.slots}; conversations are decoded all at '
        'once, so a task with turns needs 0')


def sample(config: ModelConfig, sampler: SamplerConfig, params: Any,
           prompts: Prompts, key: Array, *, samples: int, row_ids: Array,
           max_tokens: Array | None = None, heat: Heat | None = None,
           turns: Turns | None = None, problem: Array | None = None
           ) -> Samples:
  """`sampler.sample`, or conversations with a task that has turns.

  To be jitted with `config`, `sampler`, `samples` and `turns` static. Token t
  of a row, replies counted, is drawn with fold_in(fold_in(key, row_id), t).

  Args:
    config: of the model.
    sampler: how to draw; its stop tokens mean nothing to conversations.
    params: of the model.
    prompts: tokens i32[N, P] padded on the right, length i32[N], at least 1.
    key: random key, consumed.
    samples: G, rows per prompt (static).
    row_ids: i32[N*G], what tells rows apart.
    max_tokens: i32[N*G], most tokens behind the prompt, replies included; None
      or entries of 0 mean `sampler.max_tokens`, which no limit exceeds.
    heat: as in `sampler.sample`.
    turns: of the task; None: each row is one response.
    problem: i32[N*G] of each row; only with turns.

  Returns:
    Samples with B = N*G rows and T = P + sampler.max_tokens; with turns
    `spoken` is there.

  Raises:
    ValueError: as `sampler.sample`, or as `check`.
  """
  if turns is None:
    return one_turn.sample(
        config, sampler, params, prompts, key, samples=samples,
        row_ids=row_ids, max_tokens=max_tokens, heat=heat)
  check(turns, sampler)
  keys, prompts, starts, limits = one_turn.rows_of(
      config, sampler, prompts, key, samples, row_ids, max_tokens)
  hidden, cache = one_turn.prefill(
      config, params, prompts, samples, sampler.max_tokens)
  last = _converse(
      config, sampler, params, turns, hidden, cache, keys, starts, limits,
      conversations.begin(turns, jnp.asarray(problem, jnp.int32)), heat)
  return _finish(sampler, prompts.tokens, starts, last)


def _converse(config, sampler, params, turns, hidden, cache, keys, starts,
              limits, talk, heat) -> Loop:
  """The loop: draw or be told, let the task hear it, read it."""
  limit, rows = sampler.max_tokens, starts.shape[0]
  params = unrolled.weights(config, params, rows)

  def one(step, hidden, talk, done):
    logits = transformer.logits(config, params, hidden)
    drawn = draw(
        sampler, constrain(logits, 'batch', 'vocab'), keys, step, heat)
    talk, heard = conversations.hear(
        turns, talk._replace(done=done), drawn.token)
    token = jnp.where(done, sampler.pad_id, heard.token)
    return talk, drawn._replace(token=token), heard

  def advance(loop, hidden, cache):
    talk, drawn, heard = one(loop.step, hidden, loop.talk, loop.done)
    record = lambda buffer, x: jax.lax.dynamic_update_index_in_dim(
        buffer, x, loop.step, axis=0)
    return Loop(
        loop.step + 1, drawn.token,
        # Of rows that had ended, `hear` says nothing.
        talk._replace(done=jnp.where(loop.done, loop.talk.done, talk.done)),
        loop.done | talk.done | (loop.step + 1 >= limits),
        loop.length + ~loop.done,
        jax.tree.map(record, loop.drawn, drawn),
        jax.tree.map(record, loop.heard, heard), cache)

  def body(loop):
    position = starts + loop.step - 1
    hidden, cache = transformer.forward(
        config, params, loop.token[:, None], position[:, None],
        cache=loop.cache, slot=position)
    return advance(loop, hidden[:, 0], cache)

  none = jnp.zeros(rows, jnp.int32)
  _, drawn, heard = jax.tree.map(
      lambda x: jnp.zeros((limit, *x.shape), x.dtype),
      jax.eval_shape(one, none[0], hidden, talk, none > 0))
  loop = Loop(none[0], none, talk, none > 0, none, drawn, heard, cache)
  # The first token comes from the prefill, so that the last is never read.
  return stages.run(
      lambda loop: ~loop.done.all(), body, advance(loop, hidden, cache), limit)


def _finish(sampler, prompts, starts, last) -> Samples:
  """Moves each conversation from its own array to its prompt's end."""
  (limit, rows), (num_prompts, width) = last.drawn.token.shape, prompts.shape
  place = jnp.arange(width + limit)[None]
  index = place - starts[:, None]
  inside = (index >= 0) & (index < last.length[:, None])
  index = jnp.clip(index, 0, limit - 1)

  def gather(x):
    x = jnp.moveaxis(x, 0, 1)
    return jnp.take_along_axis(
        x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)

  drawn, heard = jax.tree.map(gather, (last.drawn, last.heard))
  chosen = inside & heard.chosen

  def only(x, other=0):
    if x is None:
      return None
    return jnp.where(
        chosen.reshape(*chosen.shape, *[1] * (x.ndim - 2)), x, other)

  prompt = jnp.repeat(prompts, rows // num_prompts, axis=0)
  prompt = jnp.pad(prompt, ((0, 0), (0, limit)))
  prompt = jnp.where(place < starts[:, None], prompt, sampler.pad_id)
  return Samples(
      jnp.where(inside, drawn.token, prompt), chosen, only(drawn.log_prob),
      only(drawn.policy_log_prob), only(drawn.entropy), only(drawn.kept),
      last.length, ~last.talk.done, last.step,
      conversations.Spoken(
          only(heard.turn, -1), only(heard.state_id, -1),
          {name: only(x) for name, x in heard.rewards.items()}))
