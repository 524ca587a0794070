"""Where the policy of a run comes from: a folder of published weights or fresh
ones, its warm start, or a checkpoint."""

from __future__ import annotations

import os

import jax

from policyopt.models import convert, partitioning, transformer
from policyopt.models.choice import folder_of
from policyopt.rollouts import hosts
from policyopt.training import preemption, warm_start
from policyopt.training import state as states
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
  found = None
  if hosts.first_process(bool(checkpoints.steps())):
    found = checkpoints.restore(_abstract_warm_state(setup))
  if found is not None:
    state, first = found
  else:
    state, first = warm_start.make_warm_state(
        model, optimizer, mesh, first_params(setup, key), setup.jit), 0
  if first < config.steps or found is None:
    step = warm_start.make_warm_step(
        model, optimizer, mesh, config.microbatches,
        warm_start.warm_shardings(model, optimizer, mesh), setup.jit)
    state = _warm_steps(setup, workdir, checkpoints, step, state, first, clock)
  return state.params


def first_params(setup: Setup, key):
  """The parameters before any training; consumes key.

  Those of the folder of the config, streamed onto the mesh, or fresh ones.
  """
  folder = folder_of(setup.config.model)
  if folder:
    return convert.load(folder, setup.model, setup.mesh, key)
  return states.init_params(setup.model, setup.mesh, key, setup.jit)


def _abstract_warm_state(setup: Setup):
  """Shapes, dtypes and shardings of a WarmState: nothing is made or read."""
  model, optimizer, mesh = setup.model, setup.warm_optimizer, setup.mesh
  return _with_shardings(
      jax.eval_shape(
          lambda params: warm_start.make_warm_state(
              model, optimizer, mesh, params),
          transformer.abstract_params(model)),
      warm_start.warm_shardings(model, optimizer, mesh))


def _abstract_state(setup: Setup) -> TrainState:
  """Shapes, dtypes and shardings of a TrainState: nothing is made or read."""
  return _with_shardings(
      jax.eval_shape(
          lambda params: init_state(setup, params, jax.random.key(0)),
          transformer.abstract_params(setup.model)),
      states.state_shardings(setup.model, setup.method, setup.optimizer,
                             setup.mesh, setup.train.size,
                             setup.offload.optimizer))


def _with_shardings(shapes, shardings):
  return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding), shapes, shardings)


def _warm_steps(setup, workdir, checkpoints, step, state, first, clock):
  config = setup.config.warm_start
  previous = {}
  rows = partitioning.rows(setup.mesh)
  with (Writer(os.path.join(workdir, 'warm_start'), first) as writer,
        Progress(config.steps, first, 'warm start') as progress):
    for index in range(first, config.steps):
      batch = warm_start.warm_batch(
          setup.train, index, config.examples, config.rows, config.length)
      state, metrics = step(state, hosts.place_tree(batch, rows))
      writer.write(index, metrics, {'seconds': clock.seconds()})
      # Those of the step before are there already: showing them waits for
      # nothing.
      progress.update(batch.tokens.size, previous)
      previous = metrics
      asked = preemption.requested()
      if index + 1 < config.steps and (
          asked or (index + 1) % setup.config.checkpoint_every == 0):
        writer.flush()
        checkpoints.save(index + 1, state)
        clock.save()
        if asked:
          preemption.stop(f'saved after step {index + 1} of the warm start')
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
  if step == 0 or (step is None and not checkpoints.steps()):
    found = warm.restore(_abstract_warm_state(setup), last)
    found = found and (found[0], 0)
  else:
    found = checkpoints.restore(_abstract_state(setup), step)
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


def init_state(setup: Setup, params, key, donate: bool = False) -> TrainState:
  """The TrainState that reinforcement learning begins with; consumes key.

  With `donate` it takes over the parameters; otherwise it copies them.
  """
  return states.make_state(
      setup.model, setup.method, setup.optimizer, setup.mesh, params, key,
      setup.train.size, donate, setup.offload.optimizer, setup.jit)
