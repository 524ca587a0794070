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
import numpy as np
import optax

from policyopt import credit, types
from policyopt.envs import exact
from policyopt.training.credit import assign_credit, init_credit

Array = jax.Array

# Batches whose gradients exist at a time.
_AT_ONCE = 128


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


class Measured(NamedTuple):
  """What an estimator gave; D numbers of a gradient.

  Attributes:
    mean: f64[D] of the estimates.
    error: f64[D], standard errors of the means.
    target: f64[D], what the estimate is compared with.
    variance: of one batch's estimate, summed over D.
    rows: responses that were sampled.
  """
  mean: np.ndarray
  error: np.ndarray
  target: np.ndarray
  variance: float
  rows: int

  @property
  def bias(self) -> float:
    """‖mean − target‖ / ‖target‖."""
    return float(np.linalg.norm(self.mean - self.target)
                 / np.linalg.norm(self.target))

  @property
  def largest_z(self) -> float:
    """The largest distance from the target, in standard errors."""
    # What cannot vary is compared as it is, up to rounding.
    floor = 1e-7 * np.abs(self.target).max() + 1e-12
    return float((np.abs(self.mean - self.target)
                  / np.maximum(self.error, floor)).max())

  @property
  def scale(self) -> float:
    """c of the multiple of the target that is nearest to the mean."""
    return float(self.mean @ self.target / (self.target @ self.target))

  @property
  def angle(self) -> float:
    """Degrees between the mean and the target."""
    cosine = self.mean @ self.target / np.linalg.norm(
        self.mean) / np.linalg.norm(self.target)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

  @property
  def noise(self) -> float:
    """Variance over the squared norm of the mean: what steps suffer from."""
    return self.variance / float(self.mean @ self.mean)


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


def draw(world: World, logits, key, prompts, samples: int) -> types.Rollout:
  """A batch from the tabular policies; consumes the key.

  Args:
    world: Q prompts.
    logits: f32[Q, prefixes, V].
    key: random key.
    prompts: i32[N], which prompt each group answers.
    samples: G.

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
  chances = _counted(world, tables).sum(-1)
  # Sequences that differ after their end only are drawn as one would expect.
  index = jax.random.categorical(key, tables.sum(-1)[prompt])
  length = bed.sequences.shape[1] * jnp.ones(len(bed.sequences), jnp.int32)
  length = (length if world.length is None else world.length)[index]
  place = jnp.arange(bed.sequences.shape[1])[None]
  last = place == length[:, None] - 1
  pay = lambda reward: jnp.where(last, reward[prompt, index][:, None], 0.)
  greedy = jnp.argmax(chances, axis=-1)
  log_probs = tables[prompt, index]
  return types.Rollout(
      tokens=bed.sequences[index], mask=place < length[:, None],
      log_probs=log_probs,
      group=jnp.repeat(jnp.arange(len(prompts), dtype=jnp.int32), samples),
      rewards={'accuracy': pay(world.reward),
               **{name: pay(x) for name, x in world.channels.items()}},
      extras=dict(
          values=_of_prefixes(world, jax.vmap(exact.values, (None, 0, 0))(
              bed, logits, world.total), prompt, index),
          entropy=_token_entropy(world, logits, prompt, index),
          sum_squared_probs=_of_prefixes(world, jnp.square(
              jax.nn.softmax(logits)).sum(-1), prompt, index),
          truncated=jnp.zeros(len(prompt), bool), old_log_probs=log_probs,
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


def measure(world: World, method: types.Method, logits, target, *,
            prompts: int, samples: int, rows: int, seed=0) -> Measured:
  """Mean and variance of a method's gradient over many batches.

  Args:
    world: Q prompts.
    method: its credit chains and its loss are used; the chains start anew.
    logits: f32[Q, prefixes, V], of the policies.
    target: f32[Q, prefixes, V], what the gradient is compared with.
    prompts: N of a batch, drawn with replacement; Q itself: each once.
    samples: G.
    rows: responses to sample in all, at least.
    seed: of the random key.

  Returns:
    Measured.
  """
  pieces = -(-rows // (prompts * samples * _AT_ONCE))
  target = jnp.asarray(target).reshape(-1)

  def one(key):
    chosen, drawn = jax.random.split(key)
    rollout = draw(
        world, logits, drawn, _choose(world, chosen, prompts), samples)
    return gradient(
        world, method, init_credit(method), logits, rollout)[0].reshape(-1)

  def piece(key):
    # Centred, so that float32 sums keep their digits.
    given = jax.vmap(one)(jax.random.split(key, _AT_ONCE)) - target[None]
    return given.sum(0), jnp.square(given).sum(0)

  keys = jax.random.split(jax.random.key(seed), pieces)
  total, squares = (np.asarray(x, np.float64).sum(0) for x in jax.jit(
      lambda keys: jax.lax.map(piece, keys))(keys))
  count = pieces * _AT_ONCE
  mean = total / count
  variance = np.maximum(squares / count - mean ** 2, 0) * count / (count - 1)
  target = np.asarray(target, np.float64)
  return Measured(mean + target, np.sqrt(variance / count), target,
                  float(variance.sum()), count * prompts * samples)


def learn(world: World, method: types.Method, key, *, steps: int,
          prompts: int, samples: int, learning_rate: float,
          watch: Callable[[Array], dict[str, Array]], reuse: int = 1,
          optimizer=optax.sgd, start=None, extras=None) -> dict[str, Array]:
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

  Returns:
    What `watch` gave, stacked, [steps + 1, ...].
  """
  rule = optimizer(learning_rate)

  def step(carry, given):
    logits, state, moments = carry
    index, key = given
    chosen, drawn = jax.random.split(key)
    rollout = draw(
        world, logits, drawn, _choose(world, chosen, prompts), samples)
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
    return (after, state, moments), watch(logits)

  start = world.reference if start is None else start
  (logits, _, _), seen = jax.lax.scan(
      step, (start, init_credit(method), rule.init(start)),
      (jnp.arange(steps), jax.random.split(key, steps)))
  return jax.tree.map(
      lambda x, last: jnp.concatenate([x, last[None]]), seen, watch(logits))


def seeds(count: int) -> Array:
  """Keys of the seeds 0, 1, ..., to map `learn` over."""
  return jax.vmap(jax.random.key)(jnp.arange(count))


def _choose(world, key, prompts):
  count = len(world.reward)
  if prompts == count:
    return jnp.arange(count)
  return jax.random.randint(key, (prompts,), 0, count)


def _counted(world, tables):
  """Log-probabilities [Q, Y, T], 0 where a sequence has ended."""
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
