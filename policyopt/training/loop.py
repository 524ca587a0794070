"""A whole run: warm start, evaluation, reinforcement learning, evaluation.

Everything that a run decides follows from its config and its step number, and
everything that it knows is in its checkpoints: a run that is killed and
started again ends with the same bits as one that was not.
"""

from __future__ import annotations

import functools
from typing import Any
import warnings

import jax
import numpy as np

from policyopt.rollouts import hosts
from policyopt.training import ahead, policies, preemption, record
from policyopt.training import evaluate as evaluation
from policyopt.training import state as states
from policyopt.training.compiles import count_compiles
from policyopt.training.errors import NonFiniteError
from policyopt.training.metrics import Writer
from policyopt.training.profile import Profile
from policyopt.training.progress import Progress
from policyopt.training.serving import Serving
from policyopt.training.setup import Setup, prepare
from policyopt.training.steps import (
  count_tokens,
  make_draw,
  make_parts,
  train_step,
)
from policyopt.training.workdir import check_shared, check_workdir
from policyopt.types import Method

# Random keys of a run: the root key folded with the purpose.
INIT, TRAIN, EVALUATE = range(3)


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
    PreemptedError: SIGTERM has come; a checkpoint of the last step is there.
  """
  with preemption.watch():
    return _train(config, method, workdir)


def _train(config, method, workdir):
  check_workdir(workdir)
  check_shared(workdir)
  record.check_same_run(config, workdir)
  setup = prepare(config, method)
  try:
    newest = policies.checkpoints_of(setup, workdir).latest()
    if newest is not None and newest > config.steps:
      raise ValueError(
          f'steps is {config.steps}, but workdir {workdir!r} is at step '
          f'{newest} already: set steps to at least {newest}')
    # Nobody writes before all have read.
    hosts.barrier('config')
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
      setup, workdir, jax.random.fold_in(root, INIT), clock)
  draw = make_draw(setup)
  serve = Serving(setup.model, setup.serving, setup.jit)
  examine = functools.partial(
      _examine, setup, draw, serve, jax.random.fold_in(root, EVALUATE))
  before = record.once(
      workdir, 'step-0', lambda: examine(params, _stop_if_saved), clock)
  if config.evaluation.every:
    evaluation.summary(before)  # Compiles what later evaluations call.
  state = _reinforce(
      setup, workdir, make_parts(setup, draw, params, serve), params,
      jax.random.fold_in(root, TRAIN), examine, clock, compiles)
  after = record.once(
      workdir, f'step-{config.steps}',
      lambda: examine(state.params, _stop_if_saved), clock)
  return record.finish(config, workdir, before, after, clock)


def _examine(setup: Setup, draw, serve, key, params,
             interrupt=lambda: None) -> evaluation.Evaluation:
  """Samples and judges the held-out problems."""
  config = setup.config
  return evaluation.evaluate(
      draw(serve(params), config.evaluation.samples), setup.test,
      config.evaluation.problems, config.prompts, key, interrupt)


def _stop_if_saved() -> None:
  """Between steps of an evaluation before or after which all is saved."""
  if preemption.requested():
    preemption.stop('everything so far is saved')


def _reinforce(setup, workdir, parts, params, key, examine, clock, compiles):
  """The loop of reinforcement learning; returns the last state."""
  config = setup.config
  # Unless they are the reference too, the parameters exist once.
  state = policies.init_state(
      setup, params, key, donate=parts.ref_params is not params)
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
  with ahead.compiling(parts, state, needed=first < config.steps):
    probe = parts.sync.probe(parts.serve(state.params))
  with (Writer(workdir, first) as writer,
        Progress(config.steps, first, config.method) as progress,
        Profile(setup, workdir, progress.write) as profile):
    for step in range(first, config.steps):
      with profile.step(step, state, parts, checkpoints) as (own, folder):
        clock.lap()
        state, rollout, metrics = train_step(own, state, step)
        tokens = count_tokens(setup, rollout)
        clock.train_step(tokens)
        synced, probe = parts.sync.compare(
            state.params, parts.serve(state.params), probe)
        metrics = _evaluated(
            setup, examine, state, step, {**metrics, **synced})
        writer.write(step, metrics, {
            'seconds': clock.seconds(), 'tokens': tokens,
            'tokens_per_second': clock.tokens_per_second(),
            'compiles': compiles.count})
        writer.write_rows(step, record.sample_rows(
            setup.tokenizer, rollout, config.samples, config.log_prompts))
        # Those of the step before are there already: looking at them waits for
        # nothing.
        progress.update(tokens, previous)
        parts.sync.verify(step - 1, previous)
        _save_or_stop(
            config, folder, writer, clock, state, step + 1, previous)
        previous = metrics
    parts.sync.verify(config.steps - 1, previous)
  return state


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
  """Checkpoints every so many steps; stops a run that has gone astray, or that
  was asked to end."""
  skipped = int(previous['skipped_in_a_row'][0])
  astray = skipped >= config.max_skipped
  asked = preemption.requested()
  if (done % config.checkpoint_every == 0 or done == config.steps or astray
      or asked):
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
  if asked:
    preemption.stop(f'saved after step {done} of {config.steps}')
