"""Supervised warm start: next-token loss on a task's own reference answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from policyopt.data import order
from policyopt.data.packing import pack_examples
from policyopt.envs import turns
from policyopt.models import lora, partitioning, scoring
from policyopt.models.config import ModelConfig
from policyopt.training.state import optimizer_shardings
from policyopt.training.updates import apply_if_finite, summed_gradient
from policyopt.types import Array, Environment

# Problem ids of the warm start begin here, far from those that reinforcement
# learning draws from the same endless stream.
FIRST_PROBLEM = 2**24


class Batch(NamedTuple):
  """Packed examples; all [R, T].

  Attributes:
    tokens: i32, several examples in a row.
    positions: i32, restarting at 0 in each example.
    segments: i32, 1, 2, ... for the examples of a row, 0 on padding.
    weights: f32, 1 / (answer tokens of the batch) on answer tokens, else 0.
  """
  tokens: Any
  positions: Any
  segments: Any
  weights: Any


class WarmState(NamedTuple):
  """What a resumed warm start needs: step i32[], params, opt_state."""
  step: Array
  params: Any
  opt_state: Any


def warm_batch(env: Environment, step: int, examples: int, rows: int,
               length: int) -> Batch:
  """The packed batch of a step: a function of the step alone.

  Args:
    env: gives prompts and reference answers.
    step: of the warm start, from 0.
    examples: new problems of this step.
    rows: R, rows that they are packed into.
    length: T, tokens per row.

  Returns:
    Batch of numpy arrays.

  Raises:
    ValueError: when the task has no reference answers, or when the examples
      of a step do not fit into rows × length tokens.
  """
  if env.answer is None:
    raise ValueError(
        f'task {env.name!r} has no reference answers, so it cannot be warm '
        'started: set warm_start.steps to 0')
  ids = step * examples + np.arange(examples, dtype=np.int32)
  if env.size is None:
    ids = FIRST_PROBLEM + ids
  else:
    # Every epoch in an order of its own.
    ids = order.at(order.shuffled(env.size), ids)
  answers, chosen = env.answer(ids), None
  if env.turns is not None:  # What the task says is read, not learned.
    chosen = turns.replay(env.turns, jnp.asarray(ids), answers).chosen
  try:
    packed = pack_examples(
        env.reset(ids), answers, rows, length, chosen=chosen)
  except ValueError as error:
    raise ValueError(
        f'warm_start.rows is {rows} and warm_start.length is {length}, too '
        f'little for warm_start.examples = {examples} of task {env.name!r}: '
        f'{error}') from error
  mask = np.asarray(packed['mask'], np.float32)
  return Batch(
      packed['tokens'], packed['positions'], packed['segments'],
      mask / max(mask.sum(), 1.))


def make_warm_step(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh,
    microbatches: int = 1, shardings=None,
    jit: Callable = jax.jit) -> Callable:
  """Builds the jitted `step(state, batch) -> (state, metrics)`.

  The state is donated. A step whose loss or gradient is not finite leaves the
  parameters as they were and is counted in 'skipped_updates'.

  Args:
    config: of the model.
    optimizer: of the warm start.
    mesh: rows are spread over its 'data' and 'fsdp' axes.
    microbatches: pieces whose gradients are added up.
    shardings: of the WarmState.
    jit: compiles, as that of `make_learner`.

  Returns:
    The jitted function; metrics are (sum, weight) pairs.
  """
  return jit(
      warm_update(config, optimizer, microbatches), donate_argnums=0,
      in_shardings=(shardings, partitioning.rows(mesh)),
      out_shardings=(shardings, None))


def warm_update(config: ModelConfig, optimizer: optax.GradientTransformation,
                microbatches: int = 1) -> Callable:
  """The function that `make_warm_step` compiles; its arguments are the same.
  """
  # An adapter stays as it is, off: it belongs to what comes after.
  plain = config.replace(lora_rank=0)

  def loss_fn(params, batch: Batch):
    out = scoring.score(plain, params, batch.tokens,
                        positions=batch.positions, segments=batch.segments)
    return -(batch.weights * out.log_probs).sum(), {}

  def step(state: WarmState, batch: Batch):
    _, params = lora.base(config, state.params)
    loss, _, grads = summed_gradient(loss_fn, params, batch, microbatches)
    params, opt_state, _, metrics = apply_if_finite(
        optimizer, loss, grads, params, state.opt_state)
    params = lora.join(params, lora.adapter_only(state.params))
    return WarmState(state.step + 1, params, opt_state), metrics

  return step


def make_warm_state(config, optimizer, mesh, params,
                    jit: Callable = jax.jit) -> WarmState:
  """A WarmState at step 0, laid out on the mesh; copies the parameters."""
  def make(params):
    return WarmState(
        jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params),
        optimizer.init(lora.base(config, params)[1]))

  return jit(
      make, out_shardings=warm_shardings(config, optimizer, mesh))(params)


def warm_shardings(config, optimizer, mesh) -> WarmState:
  """A NamedSharding for every leaf of the WarmState."""
  return WarmState(
      step=partitioning.replicated(mesh),
      params=partitioning.param_shardings(config, mesh),
      opt_state=optimizer_shardings(
          config.replace(lora_rank=0), optimizer, mesh))
