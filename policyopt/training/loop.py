"""A whole run: warm start, evaluation, reinforcement learning, evaluation.

Everything that a run decides follows from its config and its step number, and
everything that it knows is in its checkpoints: a run that is killed and
started again ends with the same bits as one that was not.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np

from policyopt.models import partitioning
from policyopt.rollouts import group
from policyopt.rollouts.sampler import sample
from policyopt.training import evaluate as evaluation
from policyopt.training import policies, record
from policyopt.training import state as states
from policyopt.training.compiles import count_compiles
from policyopt.training.errors import NonFiniteError
from policyopt.training.learner import Learner, make_learner
from policyopt.training.metrics import Writer
from policyopt.training.progress import Progress
from policyopt.training.setup import Setup, check_workdir, prepare
from policyopt.types import Method, Prompts, TrainState

# Random keys of a run: the root key folded with the purpose.
_INIT, _TRAIN, _EVALUATE = range(3)


def train(config, method: Method, workdir: str) -> dict[str, Any]:
  """Runs a config to its end, from wherever the working directory stands.

  Args:
    config: as `configs/common.py: base` returns it.
    method: as a recipe of `policyopt.methods` returns it.
    workdir: folder of the run. When it holds a run with the same config, that
      run is resumed.

  Returns:
    The contents of result.json: held-out scores before and after with their
    intervals, the gain, seconds, tokens per second, workdir.

  Raises:
    ValueError: before anything is compiled, for anything wrong in the config,
      in one line.
    NonFiniteError: after `max_skipped` updates in a row whose loss or gradient
      was not finite; a checkpoint is left behind.
  """
  check_workdir(workdir)
  record.check_same_run(config, workdir)
  setup = prepare(config, method)
  try:
    newest = policies.checkpoints_of(setup, workdir).latest()
    if newest is not None and newest > config.steps:
      raise ValueError(
          f'steps is {config.steps}, but workdir {workdir!r} is at step '
          f'{newest} already: set steps to at least {newest}')
    record.save_run(config, workdir)
    with jax.set_mesh(setup.mesh), count_compiles() as compiles:
      return _run(setup, workdir, compiles)
  finally:
    setup.close()


def _run(setup: Setup, workdir: str, compiles) -> dict[str, Any]:
  config = setup.config
  clock = record.Clock(workdir)
  root = jax.random.key(config.seed)
  params = policies.warm_params(
      setup, workdir, jax.random.fold_in(root, _INIT), clock)
  draw = make_draw(setup)
  examine = functools.partial(
      _examine, setup, draw, jax.random.fold_in(root, _EVALUATE))
  before = record.once(workdir, 'step-0', lambda: examine(params), clock)
  if config.evaluation.every:
    evaluation.summary(before)  # Compiles what later evaluations call.
  state = _reinforce(
      setup, workdir, draw, params, jax.random.fold_in(root, _TRAIN), examine,
      clock, compiles)
  after = record.once(
      workdir, f'step-{config.steps}', lambda: examine(state.params), clock)
  return record.finish(config, workdir, before, after, clock)


def make_draw(setup: Setup):
  """The compiled sampler: (params, samples, heat=None) -> Generate.

  All calls with the same number of samples share one compiled program.
  """
  jitted = jax.jit(sample, static_argnames=('config', 'sampler', 'samples'))
  rows = partitioning.rows(setup.mesh)

  def draw(params, samples: int, heat=None) -> group.Generate:
    def apply(sampler, samples, prompts, row_ids, key, max_tokens=None):
      shard = lambda x: jax.device_put(np.asarray(x, np.int32), rows)
      return jitted(
          setup.model, sampler, params, Prompts(*prompts), key,
          samples=samples, row_ids=shard(row_ids), heat=heat,
          max_tokens=None if max_tokens is None else shard(max_tokens))
    greedy = dataclasses.replace(setup.sampler, temperature=0.)
    return group.Generate(
        functools.partial(apply, setup.sampler, samples), samples,
        functools.partial(apply, greedy, 1))
  return draw


def _examine(setup: Setup, draw, key, params) -> evaluation.Evaluation:
  """Samples and judges the held-out problems."""
  config = setup.config
  return evaluation.evaluate(
      draw(params, config.evaluation.samples), setup.test,
      config.evaluation.problems, config.prompts, key)


class _Parts(NamedTuple):
  """What a step of reinforcement learning is made of."""
  setup: Setup
  learner: Learner
  draw: Any
  ref_params: Any
  propose: Any
  feedback: Any


def _reinforce(setup, workdir, draw, params, key, examine, clock, compiles):
  """The loop of reinforcement learning; returns the last state."""
  config = setup.config
  parts = _make_parts(setup, draw, params)
  state = policies.init_state(setup, params, key)
  checkpoints = policies.checkpoints_of(setup, workdir)
  found = checkpoints.restore(states.abstract_state(state))
  first = 0
  if found is not None:
    state, first = found
  if clock.checkpoint > max([first, *checkpoints.steps()]):
    warnings.warn(
        f'checkpoint of step {clock.checkpoint} is missing from '
        f'{checkpoints.folder}: going on from step {first}', stacklevel=2)
  # A resumed run stops for skipped updates where an uninterrupted one would.
  previous = {'skipped_in_a_row': (np.asarray(state.skipped), 1)}
  with (Writer(workdir, first) as writer,
        Progress(config.steps, first, config.method) as progress):
    for step in range(first, config.steps):
      clock.lap()
      state, rollout, metrics = _train_step(parts, state, step)
      tokens = _count_tokens(setup, rollout)
      clock.train_step(tokens)
      metrics = _evaluated(setup, examine, state, step, metrics)
      writer.write(step, metrics, {
          'seconds': clock.seconds(), 'tokens': tokens,
          'tokens_per_second': clock.tokens_per_second(),
          'compiles': compiles.count})
      writer.write_rows(step, record.sample_rows(
          setup.tokenizer, rollout, config.samples, config.log_prompts))
      # Those of the step before are there already: looking at them waits for
      # nothing.
      progress.update(tokens, previous)
      _save_or_stop(
          config, checkpoints, writer, clock, state, step + 1, previous)
      previous = metrics
  return state


def _make_parts(setup: Setup, draw, ref_params) -> _Parts:
  planner = setup.method.plan
  learner = make_learner(
      setup.model, setup.method, setup.optimizer, setup.mesh,
      batching=setup.batching, temperature=setup.sampler.temperature or 1.0,
      schedule=setup.schedule,
      state_shardings=states.state_shardings(
          setup.model, setup.method, setup.optimizer, setup.mesh,
          setup.train.size))

  def feedback(plan_state, rollout, advantages, plan):
    return planner.update(
        plan_state, group.feedback(rollout, advantages, plan))

  return _Parts(
      setup, learner, draw, ref_params,
      jax.jit(planner.propose, static_argnums=1), jax.jit(feedback))


def _train_step(parts: _Parts, state: TrainState, step: int):
  """plan -> rollout -> score -> credit -> update -> feedback."""
  setup, learner = parts.setup, parts.learner
  config = setup.config
  plan_key, rollout_key, update_key = jax.random.split(
      jax.random.fold_in(state.key, step), 3)
  plan, plan_state = parts.propose(state.plan_state, config.prompts, plan_key)
  heat = setup.method.heat
  generate = parts.draw(
      state.params, config.samples, heat and heat(state.credit_state[-1]))
  rollout = setup.method.rollout(generate, setup.train, plan, rollout_key)
  rollout = jax.device_put(rollout, partitioning.rows(setup.mesh))
  sampled = rollout
  rollout = learner.score(state.params, parts.ref_params, rollout)
  rollout = learner.inform(
      state.opt_state, np.float32(step / config.steps), rollout)
  credit, credit_state, metrics = learner.credit(state.credit_state, rollout)
  plan_state = parts.feedback(
      plan_state, credit.rollout, credit.advantages, plan)
  state = state._replace(credit_state=credit_state, plan_state=plan_state)
  state, update_metrics = learner.update(state, credit, update_key)
  return state, sampled, {**metrics, **update_metrics}


def _count_tokens(setup: Setup, rollout) -> int:
  """Prompt and response tokens of a batch, padding left out."""
  tokens = np.asarray(rollout.tokens)
  return int((tokens != setup.tokenizer.pad_id).sum())


def _evaluated(setup, examine, state, step, metrics):
  """Adds held-out scores to the metrics of every so many steps."""
  every = setup.config.evaluation.every
  if not every or (step + 1) % every:
    return metrics
  numbers = evaluation.summary(examine(state.params))
  scores = {f'eval/{name}': value['mean'] for name, value in numbers.items()
            if isinstance(value, dict)}
  return {**metrics, **scores}


def _save_or_stop(config, checkpoints, writer, clock, state, done, previous):
  """Checkpoints every so many steps; stops a run that has gone astray."""
  skipped = int(previous['skipped_in_a_row'][0])
  astray = skipped >= config.max_skipped
  if done % config.checkpoint_every == 0 or done == config.steps or astray:
    # The rows are on disk before the checkpoint that makes them final.
    writer.flush()
    checkpoints.save(done, state)
    clock.checkpoint = done
    clock.save()
  if astray:
    raise NonFiniteError(
        f'{skipped} updates in a row were skipped because the loss or gradient '
        f'was not finite (max_skipped = {config.max_skipped}); stopped after '
        f'step {done} with a checkpoint in {checkpoints.folder}. Lower '
        'optimizer.learning_rate, or look at metrics.jsonl for the first '
        'skipped step')
