"""Where the time of a step goes: a trace, and a table by phase.

In the steps that are profiled the parts of a step are replaced by ones that
wait for their result and look at the clock. Nothing else changes, and in other
steps nothing at all: no wait, no clock. So the seconds of a profiled step are
those of its phases one after the other, without what usually overlaps.

  plan        which prompts, and what the planner learns of them
  prefill     the prompts, read once each
  decode      everything else of sampling
  verify      the rest of the rollout scheme, on the host: prompts, verdicts,
              rewards laid on tokens
  score       forward passes before the update
  credit      rewards to advantages and weights
  update      forward, backward, optimizer
  checkpoint  saving the state
  other       what is left of the step: copies for the sampler, rows and numbers
              for the files

Prefill and decode are one compiled program. In profiled steps the prompts are
read once more by a program of their own, the same function, whose time is taken
off the step's and stands in the table as prefill; decode is sampling less that.
Of a conversation that is the first turn's prompt only.

What a phase could take is the larger of operations / (devices · product rate)
and bytes / (devices · copy bandwidth), both of `training.work` and measured by
`experiments/bench/ceilings.py`; the fraction is that over what it takes, and
says which of the two was larger.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
import contextlib
import copy
import functools
import json
import os
import time
from typing import Any

import jax
import numpy as np

from policyopt.rollouts import hosts, reading
from policyopt.training import profile_table, record, work
from policyopt.training.scores import scores_policy
from policyopt.training.work import Work
from policyopt.types import Prompts

FOLDER = 'profile'


def check(steps: int, between: Any) -> None:
  """Raises ValueError for a range of steps that cannot be profiled.

  Args:
    steps: of the run.
    between: (start, stop), or None.
  """
  if between is None:
    return
  whole = all(type(x) is int for x in between)
  if not (whole and len(between) == 2
          and 0 <= between[0] < between[1] <= steps):
    given = ','.join(map(str, between))
    raise ValueError(
        f'profile is {given}; it must be start,stop with 0 <= start < stop <= '
        f'steps = {steps}: step start is the first, counted from 0, and stop '
        'is not one of them')


class Profile:
  """Profiles some steps of a run; a context, so that no trace stays open.

  Where nothing is profiled `step` hands out its arguments again.
  """

  def __init__(self, setup, workdir: str, say: Callable[[str], None] = print):
    """Begins nothing yet.

    Args:
      setup: of the run; its config says which steps.
      workdir: folder of the run.
      say: is given the table.
    """
    self._setup, self._say = setup, say
    self._folder = os.path.join(workdir, FOLDER)
    between = setup.config.get('profile') or (0, 0)
    self._steps = range(*between)
    self._done, self._tracing = [], False

  @contextlib.contextmanager
  def step(self, step: int, state, parts, checkpoints):
    """One step of the run.

    Args:
      step: from 0.
      state: that it begins with; a step that is profiled waits for it.
      parts: of a step, `steps.Parts`.
      checkpoints: of the run.

    Yields:
      (parts, checkpoints), the same that were given or timed ones.
    """
    if step not in self._steps:
      yield parts, checkpoints
      return
    jax.block_until_ready(state)
    self._start()
    timer = _Timer(self._setup)
    with jax.profiler.StepTraceAnnotation('step', step_num=step):
      begin = time.perf_counter()
      yield timer.parts(parts), timer.checkpoints(checkpoints)
      seconds = time.perf_counter() - begin - timer.apart
    self._done.append((step, timer.finished(seconds)))
    if step + 1 == self._steps.stop:
      self._finish()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._finish()

  def _start(self):
    if self._tracing:
      return
    options = jax.profiler.ProfileOptions()
    # Each Python call as an event would slow down what is measured.
    options.python_tracer_level = 0
    jax.profiler.start_trace(self._folder, profiler_options=options)
    self._tracing = True

  def _finish(self):
    """Ends the trace and writes the table of the steps that there were."""
    if not self._tracing:
      return
    jax.profiler.stop_trace()
    self._tracing = False
    if not self._done or hosts.process():
      return
    result = profile_table.summary(self._setup, self._done)
    text = profile_table.table(result)
    os.makedirs(self._folder, exist_ok=True)
    record.write_atomically(os.path.join(self._folder, 'table.json'),
                            json.dumps(result, indent=1) + '\n')
    record.write_atomically(os.path.join(self._folder, 'table.md'), text + '\n')
    self._say(text)


class _Timer:
  """The clock of one step.

  Attributes:
    apart: seconds that are no part of the step.
  """

  def __init__(self, setup):
    self._setup = setup
    self._seconds = collections.Counter()
    self._work = {}
    self._rows = None
    self.apart = 0.

  def parts(self, parts):
    """The parts of a step, timed."""
    learner, method = parts.learner, parts.setup.method
    timed = self._timed
    return parts._replace(
        setup=parts.setup._replace(method=method._replace(
            rollout=timed('rollout', method.rollout))),
        draw=self._draw(parts.draw),
        propose=timed('plan', parts.propose),
        feedback=timed('plan', parts.feedback),
        learner=learner._replace(
            score=timed('score', learner.score),
            inform=timed('credit', learner.inform),
            credit=timed('credit', self._seen(learner.credit)),
            update=timed('update', learner.update)))

  def checkpoints(self, checkpoints):
    """The same folder; saving is timed."""
    timed = copy.copy(checkpoints)
    timed.save = self._timed('checkpoint', checkpoints.save)
    return timed

  def finished(self, seconds: float) -> dict[str, tuple[float, Work]]:
    """Phase -> seconds and work, of a step that took so long."""
    taken = self._seconds
    taken['decode'] = max(taken['sample'] - taken['prefill'], 0.)
    taken['verify'] = max(
        taken['rollout'] - self.apart - taken['sample'], 0.)
    named = sum(taken[name] for name in profile_table.PHASES)
    taken['other'] = seconds - named
    self._count_learner()
    return {name: (taken[name], self._work.get(name, Work()))
            for name in profile_table.PHASES}

  def _timed(self, name, fn):
    @functools.wraps(fn)
    def run(*args, **kwargs):
      # What came before is not its.
      jax.block_until_ready((args, kwargs))
      begin = time.perf_counter()
      with jax.profiler.TraceAnnotation(name):
        out = jax.block_until_ready(fn(*args, **kwargs))
      self._seconds[name] += time.perf_counter() - begin
      return out
    return run

  def _add(self, name, amount):
    self._work[name] = self._work.get(name, Work()) + amount

  def _draw(self, draw):
    def timed_draw(params, samples, heat=None):
      jax.block_until_ready(params)  # A copy for the sampler is none of its.
      generate = draw(params, samples, heat)
      greedy = generate.greedy
      return generate._replace(
          apply=self._sampling(generate.apply, params, samples),
          greedy=greedy and self._sampling(greedy, params, 1))
    return timed_draw

  def _sampling(self, apply, params, samples):
    run = self._timed('sample', apply)

    def sampling(prompts, *args, **kwargs):
      self._prefill(params, prompts)
      drawn = run(prompts, *args, **kwargs)
      config, layout = self._setup.model, self._setup.serving
      lengths = hosts.fetch(drawn.length)
      begin = np.repeat(np.asarray(prompts.length), samples)
      steps = max(int(drawn.steps) - 1, 0)
      self._add('decode', work.decode(
          layout.model(config), begin, lengths, steps, _copies(layout.mesh),
          layout.weights or layout.dtype))
      self._add('verify', Work(int(lengths.sum())))
      return drawn
    return sampling

  def _prefill(self, params, prompts):
    """Reads the prompts once more, by a program that does nothing else."""
    began = time.perf_counter()
    setup = self._setup
    layout = setup.serving
    model = layout.model(setup.model)
    with jax.set_mesh(layout.mesh):
      prompts = Prompts(*(np.asarray(x, np.int32) for x in prompts))
      inputs = model, params, prompts, setup.sampler.max_tokens
      jax.block_until_ready(_read(*inputs))
      begin = time.perf_counter()
      with jax.profiler.TraceAnnotation('prefill alone'):
        jax.block_until_ready(_read(*inputs))
      self._seconds['prefill'] += time.perf_counter() - begin
    self._add('prefill', work.forward(
        model, 0 * prompts.length, prompts.length, len(prompts.length),
        _copies(layout.mesh), layout.weights or layout.dtype))
    self.apart += time.perf_counter() - began

  def _seen(self, credit):
    def run(state, rollout):
      self._rows = rollout
      return credit(state, rollout)
    return run

  def _count_learner(self):
    """Of the rows that the learner was given: it has no others."""
    setup, rollout = self._setup, self._rows
    if rollout is None:
      return
    mask, batching = hosts.fetch(rollout.mask), setup.batching
    self._rows = None
    first = np.where(mask.any(1), mask.argmax(1), 0)
    last = mask.shape[1] - mask[:, ::-1].argmax(1)
    lengths = np.where(mask.any(1), last - first, 0)
    samples = setup.config.samples if batching.share_prompts else 1
    pieces = batching.microbatches * batching.minibatches
    read = (first, lengths, samples, pieces * _copies(setup.mesh))
    tokens = int((first + lengths).sum())
    # Of the policy, of the reference, or of both.
    passes = (scores_policy(rollout.extras)
              + ('ref_log_probs' in rollout.extras))
    if passes:
      self._add('score', (work.rows(setup.model, *read) * passes)._replace(
          tokens=tokens))
    self._add('credit', Work(tokens))
    self._add('update', (work.update(setup.model, *read) * batching.epochs
                         )._replace(tokens=tokens))


def _copies(mesh):
  """How often a mesh holds all weights, while they are used."""
  return mesh.size // mesh.shape['tensor']


@functools.partial(jax.jit, static_argnums=(0, 3))
def _read(config, params, prompts, limit):
  return reading.read(config, params, prompts, limit)
