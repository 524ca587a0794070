"""The records that every part of the library speaks in; needs only jax.

Shape letters: B rows, T tokens, K turns, N prompts, G samples per prompt,
P prompt tokens, V vocabulary, L layers, D width.

Alignment: everything `[B, T]` is indexed by the token it belongs to, so
`log_probs[b, t]` is log π(tokens[b, t] | tokens[b, :t]); position 0 holds 0.

Padding: rows are padded on the right with `mask` False. A row that takes no
part at all has an all-False mask and `group` -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax

Array = jax.Array
State = Any
Metrics = Mapping[str, tuple[Array, Array]]

# What a part may ask for in its `needs`, and what supplies it.
NEEDS = {
    # Rollout.extras, filled by the scoring pass before credit is assigned.
    'ref_log_probs': 'a forward pass of the reference model (the policy '
                     'as it was when reinforcement learning began)',
    'old_log_probs': 'a forward pass of the policy before its update',
    'values': 'a model with a value head (`model.value_head = True`)',
    'entropy': 'a forward pass of the policy that also sums its entropy',
    'prompt_log_probs': 'a forward pass of the policy: f32[B, T], the '
                        "log-probabilities of the prompt's own tokens",
    'hidden_states': 'a forward pass of the policy: f32[B, T, D], the last '
                     'hidden state that predicts each token',
    'top_probs': 'a forward pass of the policy: f32[B, T, K], the K = '
                 'min(50, V) largest probabilities at each token, descending',
    'top_ids': 'a forward pass of the policy: i32[B, T, K], their tokens',
    'sum_squared_probs': 'a forward pass of the policy: f32[B, T], the sum '
                         'over the vocabulary of squared probabilities',
    # Rollout.extras, filled by the trainer; the same number in every row.
    'progress': 'the trainer: f32[B], the fraction of the run that is done',
    'learning_rate': 'the trainer: f32[B], of the update to come',
    # Rollout.extras, filled by the sampler or the rollout scheme.
    'policy_log_probs': 'the sampler: log-probabilities under the policy at '
                        'temperature 1 and without truncation',
    'truncated': 'the sampler: rows that hit their length limit, bool[B]',
    'answer_id': 'an environment that extracts final answers: i32[B], equal '
                 'for equal answers to the same prompt, -1 for no answer',
    'greedy_reward': 'the rollout scheme `with_greedy`: f32[B], what the '
                     'greedy response to the same prompt earned',
    # Rollout.extras, filled by credit assignment.
    'token_rewards': 'credit assignment: the reward after its transforms',
    # PolicyOutput, of the policy that is being updated.
    'logits': 'the forward pass of the update',
    'hidden': 'the forward pass of the update',
    'router': 'the forward pass of the update of a model with experts '
              '(`model.kw.num_experts`)',
    # Rollout.turn, and what goes with it in Rollout.extras.
    'turn': 'an environment with several turns',
    'state_id': 'an environment with several turns: i32[B, T], at each chosen '
                'token the state that its action was taken in, equal for '
                'equal states of the same prompt; -1 elsewhere',
}


def _record(cls):
  """A frozen dataclass that is also a pytree."""
  cls = dataclasses.dataclass(frozen=True)(cls)
  names = [field.name for field in dataclasses.fields(cls)]
  return jax.tree_util.register_dataclass(
      cls, data_fields=names, meta_fields=[])


class _Replace:
  """Gives a record the `_replace` that NamedTuples have."""

  def _replace(self, **changes):
    return dataclasses.replace(self, **changes)


@_record
class Rollout(_Replace):
  """What happened: sampled tokens, what they earned, and who they compete with.

  Attributes:
    tokens: i32[B, T], prompt then response, padded on the right.
    mask: bool[B, T], tokens that the policy chose; False on the prompt,
      observations, tool output and padding.
    log_probs: f32[B, T], log-probability of each chosen token under the
      distribution it was really drawn from (after temperature and truncation);
      0 where `mask` is False.
    group: i32[B], the prompt that a row belongs to: ids in [0, B) in any order
      and of any multiplicity; -1 for a row that takes no part.
    rewards: channel name -> f32[B, T], each placed on the token that earned it
      (an outcome reward on the last chosen token).
    turn: i32[B, T] or None, index of the turn or segment of each chosen token,
      -1 elsewhere (what the policy only reads belongs to none).
    extras: name -> array, everything optional (see `NEEDS`).
  """
  tokens: Array
  mask: Array
  log_probs: Array
  group: Array
  rewards: Mapping[str, Array]
  turn: Array | None = None
  extras: Mapping[str, Array] = dataclasses.field(default_factory=dict)


@_record
class PolicyOutput(_Replace):
  """What the policy says of the tokens of a rollout.

  Attributes:
    log_probs: f32[B, T], under the same temperature and truncation as
      `Rollout.log_probs`.
    entropy: f32[B, T] in nats, of the distribution that token t was drawn from.
    values: f32[B, T], the value predicted before token t was chosen.
    logits: f32[B, T, V], of the distribution that token t was drawn from.
    hidden: f32[B, T, D], last hidden state that predicts token t.
    top_probs: f32[B, T, K], the K = min(50, V) largest probabilities of the
      distribution that token t was drawn from, in descending order.
    top_ids: i32[B, T, K], their tokens.
    sum_squared_probs: f32[B, T], Σᵥ π(v)² of that distribution.
    router: of a model with experts: 'assigned' f32[L, E], how many of the
      counted tokens each expert is among the k of; 'probs' f32[L, E], the sum
      of their probabilities; 'tokens' f32[], how many are counted; 'z'
      f32[B, T], the mean over the layers of (log Σ exp)² of the router's
      logits where token t is predicted.
  """
  log_probs: Array
  entropy: Array | None = None
  values: Array | None = None
  logits: Array | None = None
  hidden: Array | None = None
  top_probs: Array | None = None
  top_ids: Array | None = None
  sum_squared_probs: Array | None = None
  router: Mapping[str, Array] | None = None


@_record
class Plan(_Replace):
  """What to sample next.

  Attributes:
    prompt: i32[N], ids of problems of the environment.
    samples: i32[N], rollouts to draw for each.
    hint: f32[N], fraction of the reference answer to reveal, in [0, 1].
    max_tokens: i32[N], response tokens allowed; 0: the sampler's own limit.
  """
  prompt: Array
  samples: Array
  hint: Array
  max_tokens: Array


@_record
class Feedback(_Replace):
  """A rollout reduced to one number per prompt of the plan, for planners.

  Attributes:
    prompt: i32[N], ids as in `Plan`.
    success: f32[N], mean total reward of the prompt's rows.
    abs_advantage: f32[N], mean |advantage| per chosen token.
    length: f32[N], mean response length in tokens.
    count: f32[N], rows that were sampled (0: the prompt was not used).
  """
  prompt: Array
  success: Array
  abs_advantage: Array
  length: Array
  count: Array


def read_extra(rollout: Rollout, name: str, reader: str) -> Array:
  """`rollout.extras[name]`, or an error that says who wants it and why not.

  Args:
    rollout: the rollout.
    name: one of `types.NEEDS`.
    reader: name of the part that reads it.

  Returns:
    The array.

  Raises:
    ValueError: the rollout does not carry it.
  """
  if name in rollout.extras:
    return rollout.extras[name]
  supplier = NEEDS.get(name, 'the rollout scheme')
  raise ValueError(
      f"{reader} needs rollout.extras['{name}'], which is missing; it is "
      f'supplied by {supplier}')


def no_metrics(x: Array, state: State, rollout: Rollout) -> Metrics:
  """Nothing to report.

  Returns:
    {}.
  """
  del x, state, rollout
  return {}


def total_reward(rollout: Rollout) -> Array:
  """The sum of all reward channels, each where it was earned.

  Args:
    rollout: with any number of channels; none is a reward of zero.

  Returns:
    f32[B, T], or [B, T] in the channels' own dtype.
  """
  zero = jax.numpy.zeros(rollout.mask.shape, jax.numpy.float32)
  # In the order of the names, so that rounding does not depend on insertion.
  return sum((rollout.rewards[name] for name in sorted(rollout.rewards)), zero)


class CreditTransform(NamedTuple):
  """A step of the path from rewards to advantages, or from mask to weights.

  `init() -> state`; `update(x, state, rollout) -> (x, state)` with x f32[B, T].
  Pure, and traceable by jit. `needs` names what it reads from
  `rollout.extras` (or 'turn'). `metrics` is called with what `update` is
  called with and reports name -> (sum, weight), as a Loss does; what both
  compute is computed once when both are compiled together.
  """
  init: Callable[[], State]
  update: Callable[[Array, State, Rollout], tuple[Array, State]]
  needs: frozenset[str] = frozenset()
  metrics: Callable[[Array, State, Rollout], Metrics] = no_metrics


class Loss(NamedTuple):
  """A weighted SUM over tokens; every mean already lives in the weights.

  `apply(policy, advantages, weights, rollout) -> (f32[], metrics)` where
  metrics maps a name to (sum, weight): microbatches and shards add both parts,
  and only the writer divides.
  """
  apply: Callable[[PolicyOutput, Array, Array, Rollout], tuple[Array, Metrics]]
  needs: frozenset[str] = frozenset()


class Planner(NamedTuple):
  """Decides prompts, samples per prompt, hints and length limits.

  `init(size) -> state`, with the number of problems or None when endless;
  `propose(state, count, key) -> (Plan, state)` for `count` prompts (static),
  consumes the key; `update(state, feedback) -> state`.
  """
  init: Callable[[int | None], State]
  propose: Callable[[State, int, Array], tuple[Plan, State]]
  update: Callable[[State, Feedback], State]


class Prompts(NamedTuple):
  """Token sequences: tokens i32[N, P] padded on the right, length i32[N]."""
  tokens: Any
  length: Any


class Scores(NamedTuple):
  """What an environment makes of finished rows.

  Attributes:
    rewards: channel name -> f32[B]; the total is the sum of the channels.
    verdict: i32[B]: 0 scored, 1 the verifier timed out, 2 it crashed. A row
      that was not scored is left out of the update and counted.
    answer: i32[B], the same number for the same final answer to the same
      prompt, -1 for no answer; None when the task extracts none.
  """
  rewards: Mapping[str, Any]
  verdict: Any
  answer: Any = None


class Turns(NamedTuple):
  """How a task answers back: JAX functions of B rows, which may be traced.

  A turn is an action of the policy, which ends with a stop token or when it is
  `action` tokens long, and then the task's reply, which the policy reads.

  Attributes:
    limit: K, most turns of a conversation.
    action: A, most tokens of an action, stop token included.
    reply: W, most tokens of a reply, at least 1.
    stop: stop tokens of actions.
    begin: problem ids i32[B] -> state, a tree of [B, ...].
    step: (state, actions Prompts [B, A] with zeros behind their ends) ->
      (state, channel name -> f32[B], whether the conversation is over bool[B]).
      Also called for rows whose action is not complete; what it says of them
      is dropped.
    observe: state -> (Prompts [B, W], i32[B]): the reply that the policy reads
      before its next action, and a number >= 0 that is the same for the same
      state of the same problem. Before the first action only the number
      counts: what the policy reads is the prompt.
  """
  limit: int
  action: int
  reply: int
  stop: tuple[int, ...]
  begin: Callable[[Any], Any]
  step: Callable[[Any, Prompts], tuple[Any, Mapping[str, Any], Any]]
  observe: Callable[[Any], tuple[Prompts, Any]]


class Environment(NamedTuple):
  """Problems and their judge; text never leaves it.

  Attributes:
    name: as in configs and error messages.
    size: number of problems, or None when they never end.
    max_prompt: P, the longest prompt in tokens.
    reset: prompt ids i32[N] -> Prompts.
    score: (prompt ids i32[B], responses Prompts) -> Scores; responses hold
      the chosen tokens only, stop token included when there is one. With
      turns: everything behind the prompt, replies included.
    turns: None for single-turn tasks; with them rewards come from its `step`.
    answer: prompt ids i32[N] -> Prompts with a reference answer that ends in
      the stop token, or with turns a whole conversation; or None when the task
      has none.
    answer_ids: whether `score` tells which responses give the same answer.
    pure: whether `reset` and `score` are JAX functions that may be traced, so
      that the task can be part of a compiled program.
    close: releases what the environment holds (processes, files).
  """
  name: str
  size: int | None
  max_prompt: int
  reset: Callable[[Any], Prompts]
  score: Callable[[Any, Prompts], Scores]
  turns: Turns | None = None
  answer: Callable[[Any], Prompts] | None = None
  answer_ids: bool = False
  pure: bool = False
  close: Callable[[], None] = lambda: None


class Method(NamedTuple):
  """A published method: its parts, each replaceable by `_replace`.

  Attributes:
    loss: what is minimised.
    advantages: rewards f32[B, T] -> advantages f32[B, T].
    weights: the mask as f32[B, T] -> token weights; ends in an aggregator.
    rewards: the sum of the channels f32[B, T] -> the reward to be credited.
    plan: a Planner.
    rollout: a rollout scheme, (generate, env, plan, key) -> Rollout.
    derived: what the loss must know of the WHOLE batch, or None: its update
      takes the advantages and returns a dict of arrays [B, ...] that join
      `rollout.extras`. A loss itself sees one microbatch at a time.
    heat: state of `derived` -> the sampler's `Heat`, which sets the
      temperature of each token by its entropy; None: one temperature.
    optimizer: wraps the configured optax optimizer, or None.
    min_group: smallest number of samples per prompt that makes sense.
  """
  loss: Loss
  advantages: CreditTransform
  weights: CreditTransform
  rewards: CreditTransform
  plan: Planner
  rollout: Callable[..., Rollout]
  derived: CreditTransform | None = None
  heat: Callable[[State], Any] | None = None
  optimizer: Callable[[Any], Any] | None = None
  min_group: int = 1


class TrainState(NamedTuple):
  """Everything a resumed run needs, and the only thing checkpointed.

  Attributes:
    step: i32[], updates done.
    params: the policy's parameters.
    opt_state: of the optax optimizer.
    credit_state: (rewards, advantages, weights, derived) transform states.
    plan_state: of the planner; holds the position in the data.
    key: root random key; step keys are `fold_in(key, step)`.
    skipped: i32[], updates skipped in a row because something was not finite.
  """
  step: Array
  params: Any
  opt_state: Any
  credit_state: State
  plan_state: State
  key: Array
  skipped: Array
