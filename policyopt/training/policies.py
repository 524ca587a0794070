"""Where the policy of a run comes from: its warm start, or a checkpoint."""

from __future__ import annotations

import os

import jax

from policyopt.training import state as states
from policyopt.training import warm_start
from policyopt.training.checkpoints import Checkpoints
from policyopt.training.metrics import Writer
from policyopt.training.progress import Progress
from policyopt.training.setup import Setup
from policyopt.types import TrainState


def warm_params(setup: Setup, workdir: str, key, clock):
  """Parameters after the warm start of a run: resumed, or made; consumes key.
  """
  config = setup.config.warm_start
  model, optimizer, mesh = setup.model, setup.warm_optimizer, setup.mesh
  checkpoints = _warm_checkpoints(workdir)
  if config.steps and config.steps not in checkpoints.steps():
    # Whether examples fit into the rows shows before anything large compiles.
    warm_start.warm_batch(
        setup.train, 0, config.examples, config.rows, config.length)
  state = warm_start.make_warm_state(
      model, optimizer, mesh, states.init_params(model, mesh, key))
  found = checkpoints.restore(states.abstract_state(state))
  first = 0
  if found is not None:
    state, first = found
  if first < config.steps or found is None:
    step = warm_start.make_warm_step(
        model, optimizer, mesh, config.microbatches,
        warm_start.warm_shardings(model, optimizer, mesh))
    state = _warm_steps(setup, workdir, checkpoints, step, state, first, clock)
  return state.params


def _warm_steps(setup, workdir, checkpoints, step, state, first, clock):
  config = setup.config.warm_start
  previous = {}
  with (Writer(os.path.join(workdir, 'warm_start'), first) as writer,
        Progress(config.steps, first, 'warm start') as progress):
    for index in range(first, config.steps):
      batch = warm_start.warm_batch(
          setup.train, index, config.examples, config.rows, config.length)
      state, metrics = step(state, batch)
      writer.write(index, metrics, {'seconds': clock.seconds()})
      # Those of the step before are there already: showing them waits for
      # nothing.
      progress.update(batch.tokens.size, previous)
      previous = metrics
      if ((index + 1) % setup.config.checkpoint_every == 0
          and index + 1 < config.steps):
        writer.flush()
        checkpoints.save(index + 1, state)
        clock.save()
  # Outside, so that it is there for a warm start of no steps too.
  checkpoints.save(config.steps, state)
  clock.save()
  return state


def restore_params(setup: Setup, workdir: str, step: int | None = None):
  """The policy of a run at a checkpoint.

  Args:
    setup: of the run.
    workdir: its folder.
    step: of the checkpoint; None for the newest, 0 for the policy before
      reinforcement learning.

  Returns:
    (params, step).

  Raises:
    ValueError: when there is no such checkpoint; names those that there are.
  """
  checkpoints = checkpoints_of(setup, workdir)
  warm, last = _warm_checkpoints(workdir), setup.config.warm_start.steps
  known = [0] * (last in warm.steps()) + checkpoints.steps()
  if not known or step not in (None, *known):
    raise ValueError(
        f'workdir {workdir!r} has no checkpoint of step '
        f'{0 if step is None else step}; it has {known or "none"}')
  params = states.init_params(setup.model, setup.mesh, jax.random.key(0))
  if step == 0 or (step is None and not checkpoints.steps()):
    state = warm_start.make_warm_state(
        setup.model, setup.warm_optimizer, setup.mesh, params)
    found = warm.restore(states.abstract_state(state), last)
    found = found and (found[0], 0)
  else:
    state = init_state(setup, params, jax.random.key(0))
    found = checkpoints.restore(states.abstract_state(state), step)
  if found is None:
    raise ValueError(
        f'workdir {workdir!r} has no intact checkpoint of step {step}; it has '
        f'{known}')
  return found[0].params, found[1]


def checkpoints_of(setup: Setup, workdir: str) -> Checkpoints:
  """The checkpoints of reinforcement learning in a working directory."""
  return Checkpoints(
      os.path.join(workdir, 'checkpoints'), keep=setup.config.keep_checkpoints)


def _warm_checkpoints(workdir: str) -> Checkpoints:
  return Checkpoints(os.path.join(workdir, 'warm_start', 'checkpoints'))


def init_state(setup: Setup, params, key) -> TrainState:
  """The TrainState that reinforcement learning begins with; consumes key."""
  return states.make_state(
      setup.model, setup.method, setup.optimizer, setup.mesh, params, key,
      setup.train.size)
