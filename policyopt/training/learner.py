"""The compiled parts of a training step: score, credit, update.

Each is one jitted function over the whole batch. Inside, `lax.scan` walks over
microbatches and ADDS: the weights already hold every mean, so the split into
microbatches, and the shards of a mesh, change nothing but memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from policyopt.models import partitioning, scoring
from policyopt.models.config import ModelConfig
from policyopt.training.credit import (
  Credit,
  assign_credit,
  credit_metrics,
  method_needs,
)
from policyopt.training.signal import signal_metrics
from policyopt.training.updates import (
  apply_if_finite,
  microbatch,
  summed_gradient,
)
from policyopt.types import Array, Method, Metrics, Rollout, TrainState

# Scored before credit is assigned, by a forward pass of the policy; the
# entropy already comes with the samples.
_SCORED = {
    'old_log_probs': 'log_probs', 'prompt_log_probs': 'log_probs',
    'values': 'values', 'hidden_states': 'hidden', 'top_probs': 'top_probs',
    'top_ids': 'top_ids', 'sum_squared_probs': 'sum_squared_probs'}
# What a loss may ask of the policy's output in the update itself.
_OUTPUTS = ('entropy', 'values', 'logits', 'hidden')


class Batching(NamedTuple):
  """How a batch of rollouts becomes optimizer updates.

  Attributes:
    epochs: passes over the rollouts.
    minibatches: updates per pass; each sees 1/minibatches of the rows, its
      weights multiplied by `minibatches` so that every update has the scale
      of the whole batch.
    microbatches: pieces of a minibatch whose gradients are added up.
  """
  epochs: int = 1
  minibatches: int = 1
  microbatches: int = 1


class Learner(NamedTuple):
  """The compiled functions of a training step.

  Attributes:
    score: (params, ref_params, rollout) -> rollout with the extras that the
      method needs of the models.
    inform: (opt_state, progress, rollout) -> rollout with the extras that it
      needs of the trainer; progress in [0, 1].
    credit: (credit_state, rollout) -> (Credit, credit_state, metrics).
    update: (state, credit, key) -> (state, metrics); donates the state,
      consumes the key.
  """
  score: Callable[..., Rollout]
  inform: Callable[..., Rollout]
  credit: Callable[..., tuple]
  update: Callable[..., tuple[TrainState, Metrics]]


def make_learner(
    config: ModelConfig, method: Method,
    optimizer: optax.GradientTransformation, mesh: Mesh, *,
    batching: Batching = Batching(), temperature: float = 1.0,
    schedule: optax.Schedule | None = None, state_shardings=None) -> Learner:
  """Builds the jitted functions of a training step.

  Args:
    config: of the model.
    method: what to compute.
    optimizer: applied to the summed gradient.
    mesh: the rows of a batch are spread over its 'data' and 'fsdp' axes.
    batching: epochs, minibatches and microbatches.
    temperature: that the rollouts are sampled at.
    schedule: updates -> learning rate, for methods that need to know it.
    state_shardings: of the TrainState, so that an update keeps its layout.

  Returns:
    Learner.

  Raises:
    ValueError: the method needs the learning rate and there is no schedule.
  """
  needs = method_needs(method)
  if 'learning_rate' in needs and schedule is None:
    raise ValueError(
        'schedule is None; the method needs the learning rate of each update')
  rows = partitioning.rows(mesh)

  def score(params, ref_params, rollout):
    return _add_scores(
        config, params, ref_params, rollout, needs, temperature, batching)

  def inform(opt_state, progress, rollout):
    numbers = {'progress': progress}
    if 'learning_rate' in needs:
      numbers['learning_rate'] = schedule(_count(opt_state))
    return rollout._replace(extras=rollout.extras | {
        name: jnp.broadcast_to(
            jnp.asarray(numbers[name], jnp.float32), rollout.group.shape)
        for name in sorted(needs & numbers.keys())})

  def credit(credit_state, rollout):
    reported = credit_metrics(method, credit_state, rollout)
    assigned, credit_state = assign_credit(method, credit_state, rollout)
    return assigned, credit_state, {**signal_metrics(assigned), **reported}

  def update(state, assigned, key):
    loss_fn = _loss_function(config, method, temperature)
    return _update(state, assigned, key, loss_fn, optimizer, batching)

  return Learner(
      score=jax.jit(score, out_shardings=rows) if _needs_scores(needs)
      else lambda params, ref_params, rollout: rollout,
      inform=jax.jit(inform, out_shardings=rows)
      if needs & {'progress', 'learning_rate'}
      else lambda opt_state, progress, rollout: rollout,
      credit=jax.jit(credit),
      update=jax.jit(update, donate_argnums=0,
                     out_shardings=(state_shardings, None)))


def _needs_scores(needs) -> bool:
  return bool(needs & (set(_SCORED) | {'ref_log_probs'}))


def _add_scores(config, params, ref_params, rollout, needs, temperature,
                batching):
  """The rollout with reference log-probs, old log-probs and values."""
  wanted = needs & set(_SCORED)

  def one(piece):
    kept = piece.extras.get('kept')
    extras = {}
    if wanted:
      out = scoring.score(
          config, params, piece.tokens, temperature=temperature, kept=kept,
          needs=frozenset(_SCORED[name] for name in wanted) - {'log_probs'})
      extras = {name: getattr(out, _SCORED[name]) for name in wanted}
    if 'ref_log_probs' in needs:
      extras['ref_log_probs'] = scoring.score(
          config, ref_params, piece.tokens, temperature=temperature,
          kept=kept).log_probs
    return extras

  count = batching.microbatches * batching.minibatches
  pieces = microbatch(rollout, count)
  extras = lax.map(one, pieces)

  def whole(name, x):
    mask = _prompt(rollout.mask) if name == 'prompt_log_probs' else rollout.mask
    x = x.reshape(*mask.shape, *x.shape[3:])
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)

  return rollout._replace(extras={
      **rollout.extras, **{name: whole(name, x) for name, x in extras.items()}})


def _prompt(mask):
  """The tokens before the first chosen one, in rows that have any."""
  return (jnp.cumsum(mask, axis=1) == 0) & mask.any(axis=1, keepdims=True)


def _count(opt_state):
  """Updates that the optimizer has made; skipped ones are not counted."""
  counts = optax.tree_utils.tree_get_all_with_path(opt_state, 'count')
  return counts[0][1]


def _loss_function(config, method, temperature):
  """loss(params, credit) -> (sum, metrics) of one piece of the batch."""
  outputs = frozenset(method.loss.needs & set(_OUTPUTS))

  def loss(params, piece: Credit):
    rollout = piece.rollout
    policy = scoring.score(
        config, params, rollout.tokens, temperature=temperature,
        kept=rollout.extras.get('kept'), needs=outputs)
    return method.loss.apply(
        policy, piece.advantages, piece.weights, rollout)
  return loss


def _update(state: TrainState, credit: Credit, key: Array, loss_fn, optimizer,
            batching: Batching):
  """All the optimizer updates that one batch of rollouts gives."""
  steps = batching.epochs * batching.minibatches
  if steps == 1:
    state, metrics = _step(state, credit, loss_fn, optimizer, batching)
  else:
    state, metrics = _several_steps(
        state, credit, key, loss_fn, optimizer, batching)
  metrics = {**metrics, 'skipped_in_a_row': (
      state.skipped.astype(jnp.float32), jnp.ones(()))}
  return state._replace(step=state.step + 1), metrics


def _several_steps(state, credit, key, loss_fn, optimizer, batching):
  """Epochs over shuffled minibatches; groups of equal size are never cut."""
  credit = credit._replace(weights=credit.weights * batching.minibatches)
  order = jax.vmap(lambda k: _group_order(k, credit.rollout.group))(
      jax.random.split(key, batching.epochs))
  order = order.reshape(batching.epochs * batching.minibatches, -1)

  def body(state, rows):
    piece = jax.tree.map(lambda x: x[rows], credit)
    return _step(state, piece, loss_fn, optimizer, batching)

  state, metrics = lax.scan(body, state, order)
  return state, jax.tree.map(lambda x: x.sum(0), metrics)


def _group_order(key, group):
  """Row indices with groups in random order, the rows of one side by side."""
  rank = jax.random.permutation(key, group.shape[0])
  # Rows that take no part (group -1) go last.
  return jnp.argsort(jnp.where(group < 0, group.shape[0], rank[group]),
                     stable=True)


def _step(state: TrainState, credit: Credit, loss_fn, optimizer, batching):
  """One optimizer update; left out when anything is not finite."""
  loss, metrics, grads = summed_gradient(
      loss_fn, state.params, credit, batching.microbatches)
  params, opt_state, ok, update_metrics = apply_if_finite(
      optimizer, loss, grads, state.params, state.opt_state)
  state = state._replace(
      params=params, opt_state=opt_state,
      skipped=jnp.where(ok, 0, state.skipped + 1))
  if 'ratio/squared' in metrics:
    # (Σρ)² / (n Σρ²), a fraction of the tokens; 1 when nothing has moved.
    (total, count), (squares, _) = metrics['ratio'], metrics['ratio/squared']
    update_metrics['effective_sample_size'] = (
        jnp.square(total) / jnp.maximum(squares, 1e-30), count)
  return state, {**metrics, **update_metrics}
