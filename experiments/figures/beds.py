"""Methods on tabular policies: estimates against exact sums, and learning.

A world is a set of prompts, each with a tabular policy of its own whose
sequences can all be listed (`envs.exact`). The whole Method value is used:
rollouts are drawn from the policy, credited and turned into a gradient by the
method's own chains and loss, so what is measured is what training uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from policyopt import credit, types
from policyopt.envs import exact
from policyopt.training.credit import assign_credit, init_credit

Array = jax.Array


class World(NamedTuple):
  """Q prompts over one bed of Y sequences of T tokens.

  Attributes:
    bed: the sequences.
    reward: f32[Q, Y].
    reference: f32[Q, prefixes, V], logits of the reference policy, with which
      training starts.
    length: i32[Y], tokens of each sequence that count; None: all T.
    channels: further rewards, name -> f32[Q, Y], added to `reward`.
  """
  bed: exact.Bed
  reward: Array
  reference: Array
  length: Array | None = None
  channels: dict[str, Array] = {}

  @property
  def total(self) -> Array:
    """The sum of all rewards, f32[Q, Y]."""
    return self.reward + sum(self.channels.values())


def sequence_average(method: types.Method) -> types.Method:
  """The method with a weight of 1 / B a row, so that its target is ∇J."""
  return method._replace(weights=credit.sequence_sum())


def objective(world: World, logits) -> Array:
  """J, the expected reward, mean over prompts."""
  return jax.vmap(exact.expected, (None, 0, 0))(
      world.bed, logits, world.total).mean()


def pass_at_k(world: World, logits, k: int) -> Array:
  """Mean over prompts of the chance that one of k samples earns anything."""
  return jax.vmap(exact.pass_at_k, (None, 0, 0, None))(
      world.bed, logits, world.reward > 0, k).mean()


def entropy(world: World, logits) -> Array:
  """Entropy of sequences in nats, mean over prompts."""
  def one(logits):
    log_p = exact.log_probs(world.bed, logits).sum(1)
    return -(jnp.exp(log_p) * log_p).sum()
  return jax.vmap(one)(logits).mean()


def draw(world: World, logits, key, prompts, samples: int,
         sampler=None) -> types.Rollout:
  """A batch from the tabular policies; consumes the key.

  Args:
    world: Q prompts.
    logits: f32[Q, prefixes, V].
    key: random key.
    prompts: i32[N], which prompt each group answers.
    samples: G.
    sampler: f32[Q, prefixes, V], logits that the rows are drawn with instead;
      'log_probs' are theirs, 'old_log_probs' and all else those of `logits`.

  Returns:
    A Rollout of N*G rows with rewards on their last tokens. `extras` has what
    methods may need of it exactly ('values', 'entropy', 'ref_log_probs',
    'old_log_probs', 'sum_squared_probs', 'greedy_reward', 'answer_id',
    'truncated'), and 'sequence' and 'prompt', i32[B], which of the sequences
    and prompts a row is.
  """
  bed = world.bed
  prompt = jnp.repeat(jnp.asarray(prompts, jnp.int32), samples)
  tables = jax.vmap(exact.log_probs, (None, 0))(bed, logits)  # [Q, Y, T]
  chances = counted(world, tables).sum(-1)
  drawn = tables if sampler is None else jax.vmap(
      exact.log_probs, (None, 0))(bed, sampler)
  # Sequences that differ after their end only are drawn as one would expect.
  index = jax.random.categorical(key, drawn.sum(-1)[prompt])
  length = bed.sequences.shape[1] * jnp.ones(len(bed.sequences), jnp.int32)
  length = (length if world.length is None else world.length)[index]
  place = jnp.arange(bed.sequences.shape[1])[None]
  last = place == length[:, None] - 1
  pay = lambda reward: jnp.where(last, reward[prompt, index][:, None], 0.)
  greedy = jnp.argmax(chances, axis=-1)
  return types.Rollout(
      tokens=bed.sequences[index], mask=place < length[:, None],
      log_probs=drawn[prompt, index],
      group=jnp.repeat(jnp.arange(len(prompts), dtype=jnp.int32), samples),
      rewards={'accuracy': pay(world.reward),
               **{name: pay(x) for name, x in world.channels.items()}},
      extras=dict(
          values=_of_prefixes(world, jax.vmap(exact.values, (None, 0, 0))(
              bed, logits, world.total), prompt, index),
          entropy=_token_entropy(world, logits, prompt, index),
          sum_squared_probs=_of_prefixes(world, jnp.square(
              jax.nn.softmax(logits)).sum(-1), prompt, index),
          truncated=jnp.zeros(len(prompt), bool),
          old_log_probs=tables[prompt, index],
          ref_log_probs=jax.vmap(exact.log_probs, (None, 0))(
              bed, world.reference)[prompt, index],
          greedy_reward=jnp.take_along_axis(
              world.total, greedy[:, None], 1)[prompt, 0],
          answer_id=index.astype(jnp.int32), sequence=index, prompt=prompt))


def gradient(world: World, method: types.Method, state, logits, rollout):
  """What a method takes for the gradient of J after crediting a batch.

  Args:
    world: Q prompts.
    method: its credit chains and its loss are used.
    state: of the credit chains, from `training.credit.init_credit`.
    logits: f32[Q, prefixes, V]; those that the batch was drawn with, or later
      ones (then the loss sees importance ratios).
    rollout: from `draw`.

  Returns:
    (f32[Q, prefixes, V], the new state).
  """
  assigned, state = assign_credit(method, state, rollout)
  return _ascent(world, method, assigned, logits), state


def _ascent(world, method, assigned, logits):
  prompt, index = (assigned.rollout.extras[name]
                   for name in ('prompt', 'sequence'))

  def loss(logits):
    table = jax.vmap(exact.log_probs, (None, 0))(world.bed, logits)
    policy = types.PolicyOutput(
        log_probs=table[prompt, index],
        entropy=_token_entropy(world, logits, prompt, index))
    return method.loss.apply(
        policy, assigned.advantages, assigned.weights, assigned.rollout)[0]

  return -jax.grad(loss)(logits)


def learn(world: World, method: types.Method, key, *, steps: int,
          prompts: int, samples: int, learning_rate: float,
          watch: Callable[[Array], dict[str, Array]], reuse: int = 1,
          optimizer=optax.sgd, start=None, extras=None,
          sampler=None, lag: int = 0, rounds: int = 1) -> dict[str, Array]:
  """Trains the tabular policies with a method; pure, so map it over keys.

  Args:
    world: Q prompts.
    method: its credit chains and its loss are used.
    key: random key, consumed.
    steps: batches.
    prompts: N of a batch; Q itself: each once.
    samples: G.
    learning_rate: of the optimizer.
    watch: logits -> what is wanted before each step and after the last.
    reuse: updates with each batch.
    optimizer: learning rate -> optax transformation.
    start: f32[Q, prefixes, V], logits; None: those of the reference.
    extras: (rollout, key) -> further `extras` of each batch; None: none
      besides 'progress'.
    sampler: (logits, state of the credit chains) -> logits that batches are
      drawn with; None: the same.
    lag: steps by which the sampler's logits are older than the learner's.
    rounds: so many times N groups are drawn, of which `live_groups` are kept.

  Returns:
    What `watch` gave, stacked, [steps + 1, ...].
  """
  rule = optimizer(learning_rate)

  def step(carry, given):
    logits, state, moments, past = carry
    index, key = given
    chosen, drawn = jax.random.split(key)
    past = jnp.concatenate([past[1:], logits[None]])
    rollout = draw(
        world, logits, drawn, _choose(world, chosen, rounds * prompts),
        samples, past[0] if sampler is None else sampler(past[0], state))
    if rounds > 1:
      rollout = live_groups(rollout, prompts, samples)
    known = dict(progress=jnp.full(len(rollout.group), index / steps))
    if extras is not None:
      known |= extras(rollout, jax.random.fold_in(key, 1))
    rollout = rollout._replace(extras=rollout.extras | known)
    assigned, state = assign_credit(method, state, rollout)

    def update(carry, _):
      logits, moments = carry
      ascent = _ascent(world, method, assigned, logits)
      change, moments = rule.update(-ascent, moments, logits)
      return (optax.apply_updates(logits, change), moments), None

    (after, moments), _ = jax.lax.scan(
        update, (logits, moments), None, length=reuse)
    return (after, state, moments, past), watch(logits)

  start = world.reference if start is None else start
  past = jnp.broadcast_to(start, (lag + 1, *start.shape))
  (logits, *_), seen = jax.lax.scan(
      step, (start, init_credit(method), rule.init(start), past),
      (jnp.arange(steps), jax.random.split(key, steps)))
  return jax.tree.map(
      lambda x, last: jnp.concatenate([x, last[None]]), seen, watch(logits))


def live_groups(rollout: types.Rollout, groups: int,
                samples: int) -> types.Rollout:
  """The first N groups whose rows differ in reward; others if there are fewer.

  Args:
    rollout: from `draw`.
    groups: N.
    samples: G.

  Returns:
    A Rollout of N*G rows.
  """
  earned = types.total_reward(rollout).sum(1).reshape(-1, samples)
  order = jnp.argsort(jnp.ptp(earned, axis=1) == 0, stable=True)[:groups]
  rows = (order[:, None] * samples + jnp.arange(samples)[None]).reshape(-1)
  kept = jax.tree.map(lambda x: x[rows], rollout)
  return kept._replace(group=jnp.repeat(
      jnp.arange(groups, dtype=jnp.int32), samples))


def seeds(count: int) -> Array:
  """Keys of the seeds 0, 1, ..., to map `learn` over."""
  return jax.vmap(jax.random.key)(jnp.arange(count))


def _choose(world, key, prompts):
  count = len(world.reward)
  if prompts == count:
    return jnp.arange(count)
  return jax.random.randint(key, (prompts,), 0, count)


def counted(world, tables):
  """Log-probabilities f32[Q, Y, T] with 0 where a sequence has ended."""
  if world.length is None:
    return tables
  place = jnp.arange(tables.shape[-1])[None]
  return jnp.where((place < world.length[:, None])[None], tables, 0.)


def _of_prefixes(world, table, prompt, index):
  """What is known of prefixes [Q, prefixes], for the tokens of rows [B, T]."""
  return table[prompt[:, None], world.bed.prefix[index]]


def _token_entropy(world, logits, prompt, index):
  table = jax.nn.log_softmax(logits, axis=-1)
  return _of_prefixes(
      world, -(jnp.exp(table) * table).sum(-1), prompt, index)
