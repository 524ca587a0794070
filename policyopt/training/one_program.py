"""A whole training run as one program: no host between its steps.

`make_train(config, method)` returns a pure function of a random key. Prompts
are drawn, answered, judged, credited and learned from inside one `lax.scan`,
so a run can be jitted, mapped over seeds or hyper-parameters, and repeated bit
for bit. It takes the same configs and the same Method values as
`training.loop`, and its numbers are the same.

The task must be made of pure JAX functions (`Environment.pure`).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from policyopt.models import transformer
from policyopt.rollouts import group, traced
from policyopt.rollouts.multi_turn import sample
from policyopt.training import evaluate, loop, steps, warm_start
from policyopt.training import state as states
from policyopt.training.setup import Setup, prepare
from policyopt.types import Array, Method, Plan, Prompts, TrainState


class Run(NamedTuple):
  """What a run leaves behind; leading axes come from `jax.vmap` or `lax.map`.

  Attributes:
    params: the policy after its last step.
    metrics: name -> f32[steps], NaN where a step had nothing to report.
    before: `evaluate.Evaluation` of the held-out problems at the start.
    after: the same at the end.
    curve: the same every `evaluation.every` steps, stacked on axis 0; None
      when that is 0.
  """
  params: Any
  metrics: dict[str, Array]
  before: evaluate.Evaluation
  after: evaluate.Evaluation
  curve: evaluate.Evaluation | None


class Program(NamedTuple):
  """The functions of a run, each pure and traceable.

  Attributes:
    setup: parts that the config and the method gave.
    init: key -> parameters, after the warm start; consumes the key.
    train: (key, params=None) -> Run; without parameters it starts with
      `init`. The same key as in `training.loop` gives the same run.
    examine: (params, key) -> Evaluation.
  """
  setup: Setup
  init: Callable[..., Any]
  train: Callable[..., Run]
  examine: Callable[..., evaluate.Evaluation]


def make_train(config, method: Method) -> Callable[..., Run]:
  """A run as a pure function, (key, params=None) -> Run.

  `jax.random.key(config.seed)` gives what `training.loop.train` does with the
  same config. Jit it; `jax.lax.map(train, keys)` and `jax.vmap(train)(keys)`
  give seeds, the first in the memory of one.

  Args:
    config: as `configs/common.py: base` returns it; the task must be pure.
    method: as a recipe of `policyopt.methods` returns it.

  Returns:
    The function.

  Raises:
    ValueError: for anything wrong in the config, and for a task that judges
      on the host.
  """
  return make_program(config, method).train


def make_program(config, method: Method) -> Program:
  """The parts of `make_train`, for callers that share a warm start.

  Args:
    config: as for `make_train`.
    method: as for `make_train`.

  Returns:
    Program.

  Raises:
    ValueError: as `make_train`.

  Example:
    program = make_program(config, method)
    params = jax.jit(program.init)(jax.random.key(0))
    runs = jax.jit(lambda keys: jax.lax.map(
        lambda key: program.train(key, params), keys))(keys)
  """
  setup = prepare(config, method)
  setup.close()  # A pure task holds nothing open.
  for env in setup.train, setup.test:
    traced.check_pure(env)
  _check_static(config.batching)
  if setup.serving.copied or setup.serving.rounds:
    raise ValueError(
        f'rollout is {config.rollout.to_dict()}; one program has one mesh and '
        'one copy of the weights, so all of it must be None')
  init = functools.partial(_init, setup)
  examine = functools.partial(_examine, setup)
  return Program(setup, init, functools.partial(_train, setup), examine)


def _train(setup: Setup, key: Array, params=None) -> Run:
  config = setup.config
  init_key, train_key, evaluate_key = (
      jax.random.fold_in(key, purpose)
      for purpose in (loop.INIT, loop.TRAIN, loop.EVALUATE))
  if params is None:
    params = _init(setup, init_key)
  examine = functools.partial(_examine, setup, key=evaluate_key)
  before = examine(params)
  step = _make_step(setup, params)
  state = states.make_state(
      setup.model, setup.method, setup.optimizer, setup.mesh, params,
      train_key, setup.train.size)
  every = config.evaluation.every
  if not every:
    state, metrics = jax.lax.scan(step, state, jnp.arange(config.steps))
    return Run(state.params, metrics, before, examine(state.params), None)

  def some(state, steps):
    state, metrics = jax.lax.scan(step, state, steps)
    return state, (metrics, examine(state.params))

  whole = config.steps // every * every
  state, (metrics, curve) = jax.lax.scan(
      some, state, jnp.arange(whole).reshape(-1, every))
  metrics = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), metrics)
  state, rest = jax.lax.scan(step, state, jnp.arange(whole, config.steps))
  metrics = jax.tree.map(lambda *x: jnp.concatenate(x), metrics, rest)
  return Run(state.params, metrics, before, examine(state.params), curve)


def _make_step(setup: Setup, ref_params):
  """(state, index) -> (state, metrics): a step of `training.loop`, traced."""
  parts = steps.make_parts(setup, make_draw(setup), ref_params)

  def step(state: TrainState, index):
    state, _, metrics = steps.train_step(parts, state, index)
    return state, {name: total / count
                   for name, (total, count) in metrics.items()}

  return step


def _check_static(batching) -> None:
  """What a run decides by looking at its samples has no place here."""
  for name, wanted in ('buckets', 1), ('packed', False):
    value = batching.get(name, wanted)
    if value != wanted:
      raise ValueError(
          f'batching.{name} is {value}; one program has one shape, so it must '
          f'be {wanted}')


def make_draw(setup: Setup):
  """The sampler of `training.steps`, without arrays of the host."""
  def draw(params, samples: int, heat=None) -> group.Generate:
    def apply(sampler, samples, prompts, row_ids, key, max_tokens=None,
              turns=None, problem=None):
      return sample(
          setup.model, sampler, params, Prompts(*prompts), key,
          samples=samples, row_ids=row_ids, heat=heat, max_tokens=max_tokens,
          turns=turns, problem=problem)
    greedy = dataclasses.replace(setup.sampler, temperature=0.)
    return group.Generate(
        functools.partial(apply, setup.sampler, samples), samples,
        functools.partial(apply, greedy, 1))
  return draw


def _init(setup: Setup, key: Array):
  """Parameters after the warm start, whose batches do not depend on the key."""
  config = setup.config.warm_start
  params = transformer.init(setup.model, key)
  if not config.steps:
    return params
  # They are packed on the host, now, and are constants of the program.
  with jax.ensure_compile_time_eval():
    batches = jax.tree.map(lambda *x: np.stack(x), *(
        warm_start.warm_batch(
            setup.train, index, config.examples, config.rows, config.length)
        for index in range(config.steps)))
  update = warm_start.warm_update(
      setup.model, setup.warm_optimizer, config.microbatches)
  state = warm_start.make_warm_state(
      setup.model, setup.warm_optimizer, setup.mesh, params)
  return jax.lax.scan(update, state, batches)[0].params


def _examine(setup: Setup, params, key: Array) -> evaluate.Evaluation:
  """Samples and judges the held-out problems."""
  config = setup.config
  problems, prompts = config.evaluation.problems, config.prompts
  generate = make_draw(setup)(params, config.evaluation.samples)
  scheme = group.sample_groups()

  def some(start):
    ids = jnp.minimum(start + jnp.arange(prompts), problems - 1)
    zeros = jnp.zeros(prompts, jnp.int32)
    plan = Plan(ids.astype(jnp.int32), zeros, zeros.astype(jnp.float32), zeros)
    rollout = scheme(
        generate, setup.test, plan, jax.random.fold_in(key, start))
    return _judged(rollout, generate.samples)

  parts = jax.lax.map(some, jnp.arange(0, problems, prompts))
  return jax.tree.map(
      lambda x: x.reshape(-1, x.shape[-1])[:problems], parts)


def _judged(rollout, samples: int) -> evaluate.Evaluation:
  """As `evaluate.evaluate` judges, in JAX."""
  shape = (-1, samples)
  reward = sum(x.sum(1) for x in rollout.rewards.values()).reshape(shape)
  scored = (rollout.extras['verdict'] == 0).reshape(shape)
  rows = rollout.tokens.reshape(-1, samples, rollout.tokens.shape[1])
  # The first sample that is the same response.
  same = (rows[:, :, None] == rows[:, None]).all(-1)
  return evaluate.Evaluation(
      solved=reward >= evaluate.SOLVED, scored=scored,
      answer=jnp.where(scored, jnp.argmax(same, axis=2), -1),
      length=rollout.extras['length'].reshape(shape),
      truncated=rollout.extras['truncated'].reshape(shape))
