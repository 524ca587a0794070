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

from policyopt.models import lora, packed, partitioning, shared
from policyopt.models.config import ModelConfig
from policyopt.training import compiling
from policyopt.training.credit import (
  Credit,
  assign_credit,
  credit_metrics,
  method_needs,
)
from policyopt.training.offload import fetch, make_apply
from policyopt.training.packed import make_planner
from policyopt.training.scores import add_scores, needs_scores, scores_policy
from policyopt.training.shared import with_sizes
from policyopt.training.signal import signal_metrics
from policyopt.training.updates import orders, summed_gradient
from policyopt.types import Array, Method, Metrics, Rollout, TrainState

# What a loss may ask of the policy's output in the update itself.
_OUTPUTS = ('entropy', 'values', 'logits', 'hidden', 'router')


class Batching(NamedTuple):
  """How a batch of rollouts becomes optimizer updates.

  Attributes:
    epochs: passes over the rollouts.
    minibatches: updates per pass; each sees 1/minibatches of the rows, its
      weights multiplied by `minibatches` so that every update has the scale
      of the whole batch.
    microbatches: pieces of a minibatch whose gradients are added up.
    buckets: lengths, at most, that the rows of a batch are cut to.
    packed: short rows of a microbatch share rows of the model.
    share_prompts: the model reads the prompt of a group once.
  """
  epochs: int = 1
  minibatches: int = 1
  microbatches: int = 1
  buckets: int = 1
  packed: bool = False
  share_prompts: bool = False


class Learner(NamedTuple):
  """The compiled functions of a training step.

  Attributes:
    score: (params, ref_params, rollout) -> rollout with the extras that the
      method needs of the models; ref_params None: the policy without its
      adapter.
    inform: (opt_state, progress, rollout) -> rollout with the extras that it
      needs of the trainer; progress in [0, 1].
    credit: (credit_state, rollout) -> (Credit, credit_state, metrics).
    update: (state, credit, key) -> (state, metrics); donates the state,
      consumes the key. With an adapter, it and the value head are all that is
      trained and all that the optimizer has a state for.
    measure: rollout -> keywords for `score` and `update`, which would else
      wait for the devices themselves (see `shared.with_sizes`).
  """
  score: Callable[..., Rollout]
  inform: Callable[..., Rollout]
  credit: Callable[..., tuple]
  update: Callable[..., tuple[TrainState, Metrics]]
  measure: Callable[[Rollout], dict[str, Array]] = lambda rollout: {}


def make_learner(
    config: ModelConfig, method: Method,
    optimizer: optax.GradientTransformation, mesh: Mesh, *,
    batching: Batching = Batching(), temperature: float = 1.0,
    schedule: optax.Schedule | None = None, state_shardings=None,
    reference_shardings=None, sizes: shared.Sizes | None = None,
    jit: Callable = jax.jit) -> Learner:
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
    reference_shardings: of the reference parameters when they lie in host
      memory.
    sizes: of groups, their prompts and responses, at most; for shared prompts.
    jit: compiles; `programs.Programs.jit` keeps what it has compiled.

  Returns:
    Learner.

  Raises:
    ValueError: the method needs the learning rate and there is no schedule,
      or prompts are shared and there are no sizes.
  """
  needs = method_needs(method)
  if batching.share_prompts and sizes is None:
    raise ValueError('sizes is None; batching.share_prompts needs them')
  current = _old_is_current(method, batching)
  scored = needs - {'old_log_probs'} if current else needs
  if 'learning_rate' in needs and schedule is None:
    raise ValueError(
        'schedule is None; the method needs the learning rate of each update')
  rows = partitioning.rows(mesh)
  apply = make_apply(
      optimizer, state_shardings and state_shardings.opt_state)

  def score(params, ref_params, rollout, packing=None, sizes=None):
    if sizes is not None:
      packing = shared.lay(rollout.mask, sizes)
    if ref_params is not None:
      ref_params = fetch(ref_params, reference_shardings)
    return add_scores(
        config, params, ref_params, rollout, scored, temperature,
        batching.microbatches * batching.minibatches, packing)

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

  def update(state, assigned, key, packing=None, order=None, sizes=None):
    if sizes is not None:
      packing = shared.lay(assigned.rollout.mask, sizes)
    # What is frozen is neither differentiated nor carried from step to step.
    trainable, frozen = lora.split(state.params)
    loss_fn = _loss_function(config, method, temperature, frozen, current)
    state, metrics = _update(
        state._replace(params=trainable), assigned, key, loss_fn, apply,
        batching, packing, order)
    return state._replace(params=lora.join(state.params, frozen)), metrics

  measure = lambda rollout: {}
  options = compiling.options(mesh, loops=True)
  score = jit(score, out_shardings=rows, static_argnames='sizes',
              compiler_options=options)
  update = jit(
      update, donate_argnums=0, out_shardings=(state_shardings, None),
      static_argnames='sizes', compiler_options=options)
  if batching.packed:
    score, update = _with_packing(score, update, batching, mesh, jit)
  elif batching.share_prompts:
    measure, score, update = with_sizes(
        score, update, mesh, sizes, batching.buckets, jit)
  return Learner(
      score=score if needs_scores(scored)
      else lambda params, ref_params, rollout, **_: rollout,
      inform=jit(inform, out_shardings=rows)
      if needs & {'progress', 'learning_rate'}
      else lambda opt_state, progress, rollout: rollout,
      credit=jit(credit), update=update, measure=measure)


def _with_packing(score, update, batching, mesh, jit):
  """The same functions, which plan the packed rows first."""
  plan = make_planner(mesh, jit)
  shuffle = jit(
      lambda key, group: orders(
          key, group, batching.epochs, batching.minibatches),
      out_shardings=partitioning.replicated(mesh))

  def packed_score(params, ref_params, rollout):
    pieces = batching.microbatches * batching.minibatches
    return score(params, ref_params, rollout, plan(rollout.mask, pieces))

  def packed_update(state, assigned, key):
    mask, order = assigned.rollout.mask, None
    if batching.epochs * batching.minibatches > 1:
      order = shuffle(key, assigned.rollout.group)
    return update(state, assigned, None,
                  plan(mask, batching.microbatches, order), order)

  return packed_score, packed_update


def _count(opt_state):
  """Updates that the optimizer has made; skipped ones are not counted."""
  counts = optax.tree_utils.tree_get_all_with_path(opt_state, 'count')
  return counts[0][1]


def _old_is_current(method, batching):
  """Whether the update itself has the policy's log-probs before the update.

  With one update for a batch they are those that it differentiates. Credit
  assignment may want them before, or another score bring them for nothing.
  """
  early = method_needs(method._replace(
      loss=method.loss._replace(needs=frozenset())))
  return (batching.epochs * batching.minibatches == 1
          and 'old_log_probs' in method.loss.needs - early
          and not scores_policy(method_needs(method) - {'old_log_probs'}))


def _loss_function(config, method, temperature, frozen, current):
  """loss(trainable, (credit, packing)) -> (sum, metrics) of one piece."""
  outputs = frozenset(method.loss.needs & set(_OUTPUTS))

  def loss(trainable, inputs):
    piece, packing = inputs
    params, rollout = lora.join(trainable, frozen), piece.rollout
    # Routers count a row's tokens up to the last chosen one, no padding.
    counted = lax.cummax(
        rollout.mask.astype(jnp.int32), axis=1, reverse=True) > 0
    policy = packed.score(
        config, params, rollout.tokens, packing, temperature=temperature,
        kept=rollout.extras.get('kept'), counted=counted, needs=outputs)
    if current:
      old = jnp.where(rollout.mask, lax.stop_gradient(policy.log_probs), 0)
      rollout = rollout._replace(extras=rollout.extras | {
          'old_log_probs': old})
    return method.loss.apply(
        policy, piece.advantages, piece.weights, rollout)
  return loss


def _update(state: TrainState, credit: Credit, key: Array | None, loss_fn,
            apply, batching: Batching, packing, order):
  """All the optimizer updates that one batch of rollouts gives."""
  steps = batching.epochs * batching.minibatches
  if steps == 1:
    state, metrics = _step(
        state, (credit, packing), loss_fn, apply, batching)
  else:
    if isinstance(packing, shared.Shared):
      # Whole blocks, also those with rows that take no part.
      blocks = jnp.arange(packing.start.shape[0]) // packing.sizes.samples
      order = orders(key, blocks, batching.epochs, batching.minibatches)
      packing = jax.tree.map(lambda x: x[order], packing)
    elif order is None:
      order = orders(key, credit.rollout.group, batching.epochs,
                     batching.minibatches)
    state, metrics = _several_steps(
        state, credit, order, packing, loss_fn, apply, batching)
  metrics = {**metrics, 'skipped_in_a_row': (
      state.skipped.astype(jnp.float32), jnp.ones(()))}
  return state._replace(step=state.step + 1), metrics


def _several_steps(state, credit, order, packing, loss_fn, apply, batching):
  """One update for each of the minibatches that `order` lists the rows of."""
  credit = credit._replace(weights=credit.weights * batching.minibatches)

  def body(state, inputs):
    rows, packing = inputs
    piece = jax.tree.map(lambda x: x[rows], credit)
    return _step(state, (piece, packing), loss_fn, apply, batching)

  state, metrics = lax.scan(body, state, (order, packing))
  return state, jax.tree.map(lambda x: x.sum(0), metrics)


def _step(state: TrainState, batch, loss_fn, apply, batching):
  """One optimizer update; left out when anything is not finite."""
  loss, metrics, grads = summed_gradient(
      loss_fn, state.params, batch, batching.microbatches)
  params, opt_state, ok, update_metrics = apply(
      loss, grads, state.params, state.opt_state)
  state = state._replace(
      params=params, opt_state=opt_state,
      skipped=jnp.where(ok, 0, state.skipped + 1))
  if 'ratio/squared' in metrics:
    # (Σρ)² / (n Σρ²), a fraction of the tokens; 1 when nothing has moved.
    (total, count), (squares, _) = metrics['ratio'], metrics['ratio/squared']
    update_metrics['effective_sample_size'] = (
        jnp.square(total) / jnp.maximum(squares, 1e-30), count)
  return state, {**metrics, **update_metrics}
