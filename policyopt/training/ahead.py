"""The large programs of a first step, compiled side by side.

A step needs the sampler first and the update last. XLA takes long to compile
either, and much of that time it uses one core. But what the update is given is
known before anything is sampled, all but the numbers: here a step is rehearsed
with blank rows, and what it would wait for is compiled meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from policyopt.models import partitioning
from policyopt.rollouts import hosts
from policyopt.training import programs
from policyopt.training.setup import Setup
from policyopt.training.steps import Parts, train_step
from policyopt.types import Environment, Prompts, Scores, TrainState

# Each takes memory while it is compiled.
_AT_ONCE = 2


@contextlib.contextmanager
def compiling(parts: Parts, state: TrainState,
              needed: bool = True) -> Iterator[None]:
  """Compiles what the first step will need, in the background of the block.

  Nothing is sampled, and no number of the run changes. Where it is not known
  what the step will be given (rows that are packed or cut to their length, a
  task that judges no blank row), and where the update has been kept by an
  earlier run, it compiles nothing.

  Args:
    parts: from `steps.make_parts`.
    state: of the first step; not donated.
    needed: whether there will be a step.

  Yields:
    None, once all is traced; the block ends when all is compiled.
  """
  with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
    running = []

    def begin(function, *args, **kwargs):
      running.append(pool.submit(programs.begin(function, *args, **kwargs)))

    blank = needed and _foreseen(parts) and _blank(parts.setup)
    if blank:
      train_step(_rehearsed(parts, blank, begin), state, 0)
    yield
    for future in running:
      future.result()


def _foreseen(parts: Parts) -> bool:
  batching, update = parts.setup.batching, parts.learner.update
  return (batching.buckets == 1 and not batching.packed
          and hasattr(update, 'lower') and not getattr(update, 'kept', False))


def _blank(setup: Setup) -> Environment | None:
  """The task with a judge that looks at nothing; None if it takes no blanks.

  Only the judge itself knows the channels of its rewards.
  """
  env, width = setup.train, setup.sampler.max_tokens
  if env.turns is not None:
    return env  # The rows themselves bring their rewards.
  row = Prompts(np.zeros((1, width), np.int32), np.ones(1, np.int32))
  known = None
  with hosts.own_device(), contextlib.suppress(Exception):
    # That a row which nobody sampled has no score is no fault of the run.
    known = env.score(np.zeros(1, np.int32), row)
  if hosts.any_process(known is None):
    return None

  def score(problem, responses):
    del responses
    # No group is flat, or some schemes would sample on.
    rewards = np.arange(len(problem), dtype=np.float32) % 2
    zeros = np.zeros(len(problem), np.int32)
    return Scores({name: rewards for name in known.rewards}, zeros,
                  None if known.answer is None else zeros)

  return env._replace(score=score)


def _rehearsed(parts: Parts, env: Environment, begin: Callable) -> Parts:
  """Parts whose large programs are begun, and return blanks."""
  learner, setup = parts.learner, parts.setup
  rows = partitioning.rows(setup.mesh)
  drawn = {}

  def call(program, shardings, **kwargs):
    # A scheme may draw in chunks, in rounds, and greedily beside.
    which = program, kwargs['sampler'], kwargs['samples']
    if which not in drawn:
      begin(program, **kwargs)
      drawn[which] = _blanks(program.eval_shape(**kwargs), shardings)
    return drawn[which]()

  def serve(params):
    return parts.serve(params)

  serve.release = lambda: None  # The copy is wanted again, and soon.

  def draw(*args):
    return parts.draw(*args, call=call)

  def score(params, ref_params, rollout, **known):
    if not hasattr(learner.score, 'lower'):
      return learner.score(params, ref_params, rollout, **known)
    begin(learner.score, params, ref_params, rollout)
    return _blanks(
        learner.score.eval_shape(params, ref_params, rollout), rows)()

  def update(state, credit, key, **_):
    begin(learner.update, state, credit, key)
    return state, {}

  return parts._replace(
      setup=setup._replace(train=env), draw=draw, serve=serve,
      learner=learner._replace(score=score, update=update))


def _blanks(shapes, shardings):
  """Makes zeros where they lie: a host may not hold what its devices do."""
  make = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.jit(make, out_shardings=shardings)
