"""Conversations token by token, as functions of B rows that may be traced.

A row is one sequence of tokens: actions that somebody chooses, and replies
that the task forces. `hear` is told a candidate for the next token of each
row. Where a reply is being read it takes the reply's token instead; where an
action ends it lets the task answer. So whoever has a next token, a sampler or
a text that is there already, needs to know nothing of turns, and rows may be
at different places of their conversations.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.types import Array, Prompts, Turns


class Talk(NamedTuple):
  """How far B conversations have come.

  Attributes:
    state: of the task, a tree of [B, ...].
    action: i32[B, A], tokens of the action that is being written, then 0.
    written: i32[B], how many.
    reply: Prompts [B, W], the last reply.
    read: i32[B], tokens of it that have been read.
    turn: i32[B], turns that are complete.
    state_id: i32[B], of the state that the next action is taken in.
    done: bool[B], nothing follows.
  """
  state: Any
  action: Array
  written: Array
  reply: Prompts
  read: Array
  turn: Array
  state_id: Array
  done: Array


class Heard(NamedTuple):
  """One token of each row, [B], or all of them, [B, T].

  Attributes:
    token: i32, the candidate, or what the reply has instead.
    chosen: bool, whether it is part of an action.
    turn: i32, its turn if it was chosen, else -1.
    state_id: i32, the state that its action is taken in; else -1.
    rewards: channel -> f32, on the token that ends an action; else 0.
  """
  token: Array
  chosen: Array
  turn: Array
  state_id: Array
  rewards: dict[str, Array]


class Spoken(NamedTuple):
  """What the task said in rows of a prompt and a conversation.

  Attributes:
    turn: i32[B, T], of each chosen token, -1 elsewhere.
    state_id: i32[B, T], the state that its action was taken in, -1 elsewhere.
    rewards: channel name -> f32[B, T], on the last tokens of actions.
  """
  turn: Array
  state_id: Array
  rewards: dict[str, Array]


def begin(turns: Turns, problem: Array) -> Talk:
  """Conversations about problems i32[B], of which only the prompt is there."""
  state = turns.begin(problem)
  reply, state_id = turns.observe(state)
  zero = jnp.zeros(problem.shape, jnp.int32)
  return Talk(
      state, jnp.zeros((*problem.shape, turns.action), jnp.int32), zero,
      # The first observation is in the prompt.
      Prompts(reply.tokens, zero), zero, zero, state_id, zero > 0)


def hear(turns: Turns, talk: Talk, token: Array) -> tuple[Talk, Heard]:
  """The next token of each row.

  Args:
    turns: of the task.
    talk: how far the rows have come.
    token: i32[B], what comes next where an action is written.

  Returns:
    (talk, Heard [B]); of no meaning where `talk.done`.
  """
  reading = talk.read < talk.reply.length
  chosen = ~reading & ~talk.done
  index = jnp.minimum(talk.read, turns.reply - 1)
  forced = jnp.take_along_axis(talk.reply.tokens, index[:, None], axis=1)[:, 0]
  token = jnp.where(reading, forced, token)
  place = jnp.arange(turns.action)[None]
  here = chosen[:, None] & (place == talk.written[:, None])
  action = jnp.where(here, token[:, None], talk.action)
  written = talk.written + chosen
  stops = (token[:, None] == jnp.asarray(turns.stop, jnp.int32)[None]).any(1)
  ends = chosen & (stops | (written == turns.action))
  state, earned, over = turns.step(talk.state, Prompts(action, written))
  state = _where(ends, state, talk.state)
  over = over | (talk.turn + 1 >= turns.limit)
  reply, state_id = turns.observe(state)
  new = Talk(
      state, jnp.where(ends[:, None], 0, action), jnp.where(ends, 0, written),
      _where(ends, reply, talk.reply),
      jnp.where(ends, 0, talk.read + (reading & ~talk.done)),
      talk.turn + ends, jnp.where(ends, state_id, talk.state_id),
      talk.done | (ends & over))
  return new, Heard(
      token, chosen, jnp.where(chosen, talk.turn, -1),
      jnp.where(chosen, talk.state_id, -1),
      {name: jnp.where(ends, value, 0.) for name, value in earned.items()})


@functools.partial(jax.jit, static_argnums=0)
def replay(turns: Turns, problem: Array, text: Prompts) -> Heard:
  """What conversations that are there already amount to.

  Args:
    turns: of the task.
    problem: i32[B].
    text: everything behind the prompt, [B, T]; what it has in the place of a
      reply is not looked at.

  Returns:
    Heard [B, T], with nothing chosen and no reward behind a row's end.
  """
  def step(talk, item):
    token, place = item
    talk = talk._replace(done=talk.done | (place >= text.length))
    return hear(turns, talk, token)

  tokens = jnp.asarray(text.tokens, jnp.int32)
  _, heard = jax.lax.scan(
      step, begin(turns, problem), (tokens.T, jnp.arange(tokens.shape[1])))
  return jax.tree.map(lambda x: x.T, heard)


@functools.partial(jax.jit, static_argnums=0)
def follow(turns: Turns, problem: Array, script: Prompts) -> Prompts:
  """The conversations in which given actions are taken.

  Args:
    turns: of the task.
    problem: i32[B].
    script: the tokens of all actions one after the other, [B, S]; those that
      a conversation does not come to are left out.

  Returns:
    Everything behind the prompt, [B, A·K + W·(K − 1)], 0 behind the end.
  """
  def step(carry, _):
    talk, used = carry
    talk = talk._replace(done=talk.done | (used >= script.length))
    index = jnp.minimum(used, script.tokens.shape[1] - 1)
    token = jnp.take_along_axis(script.tokens, index[:, None], axis=1)[:, 0]
    there = ~talk.done
    talk, heard = hear(turns, talk, token)
    return (talk, used + heard.chosen), (
        jnp.where(there, heard.token, 0), there)

  width = turns.action * turns.limit + turns.reply * (turns.limit - 1)
  used = jnp.zeros(problem.shape, jnp.int32)
  _, (token, there) = jax.lax.scan(
      step, (begin(turns, problem), used), length=width)
  return Prompts(token.T, there.sum(axis=0, dtype=jnp.int32))


def _where(rows, new, old):
  """The new tree in some rows, the old one in the others."""
  return jax.tree.map(
      lambda x, y: jnp.where(rows.reshape(-1, *[1] * (x.ndim - 1)), x, y),
      new, old)
