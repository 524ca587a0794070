"""One step of reinforcement learning, from a plan to an update."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from policyopt.models import partitioning
from policyopt.models.shared import Sizes
from policyopt.rollouts import group, hosts
from policyopt.rollouts.lengths import trim
from policyopt.rollouts.multi_turn import sample
from policyopt.rollouts.sampler import Samples
from policyopt.training import compiling
from policyopt.training import state as states
from policyopt.training.credit import method_needs
from policyopt.training.learner import Learner, make_learner
from policyopt.training.offload import to_host
from policyopt.training.scores import keeps_reference
from policyopt.training.serving import Serving
from policyopt.training.setup import Setup
from policyopt.training.sync import Sync, make_sync
from policyopt.types import Prompts, TrainState


def make_draw(setup: Setup):
  """The compiled sampler: (params, samples, heat=None, call=...) -> Generate.

  The parameters are those that `Serving` hands out. The rows that are drawn lie
  on the mesh of the update, whatever mesh drew them. `call` is given the
  program, the shardings of what it returns, and its arguments by name.

  All calls with the same number of samples share one compiled program. With
  several processes it is one program on all their devices; each has given it
  the same prompts, and each reads only the rows that lie with it.
  """
  own, model = setup.serving.mesh, setup.serving.model(setup.model)
  inside, bring = contextlib.nullcontext, lambda tree, sharding: tree
  if own is not setup.mesh:
    # A program computes with arrays of one mesh.
    inside, bring = functools.partial(jax.set_mesh, own), hosts.spread

  @functools.cache
  def jitted(rows):
    return setup.jit(
        sample, static_argnames=('config', 'sampler', 'samples', 'turns'),
        out_shardings=_sample_shardings(rows),
        # Numbers of 16 bits are converted in loops.
        compiler_options=compiling.options(
            own, loops=model.dtype != 'float32'))

  def draw(params, samples: int, heat=None, call=_call) -> group.Generate:
    def apply(sampler, samples, prompts, row_ids, key, max_tokens=None,
              turns=None, problem=None):
      rows = _row_sharding(own, len(row_ids))
      shard = lambda x: hosts.place(np.asarray(x, np.int32), rows)
      key, heated = bring((key, heat), partitioning.replicated(own))
      with inside():
        drawn = call(
            jitted(rows), _sample_shardings(rows),
            config=model, sampler=sampler, params=params,
            prompts=Prompts(*prompts), key=key,
            samples=samples, row_ids=shard(row_ids), heat=heated,
            max_tokens=None if max_tokens is None else shard(max_tokens),
            turns=turns, problem=None if problem is None else shard(problem))
      # Not by the sampler itself, which would cut the rows of its loop up.
      return bring(drawn, _sample_shardings(
          _row_sharding(setup.mesh, len(row_ids))))
    greedy = dataclasses.replace(setup.sampler, temperature=0.)
    return group.Generate(
        functools.partial(apply, setup.sampler, samples), samples,
        functools.partial(apply, greedy, 1),
        (setup.config.get('rollout') or {}).get('chunks', 1))
  return draw


def _call(program, shardings, **kwargs):
  del shardings
  return program(**kwargs)


class Parts(NamedTuple):
  """What a step of reinforcement learning is made of.

  Attributes:
    setup: of the run.
    learner: what follows sampling.
    draw: from `make_draw`.
    ref_params: of the reference model; None without one.
    propose: (plan_state, key, step) -> (plan, plan_state, and the keys of the
      rollout and of the update).
    feedback: (plan_state, rollout, advantages, plan) -> plan_state.
    sync: checks the sampler's parameters.
    serve: hands them out.
  """
  setup: Setup
  learner: Learner
  draw: Any
  ref_params: Any
  propose: Any
  feedback: Any
  sync: Sync
  serve: Serving


def make_parts(setup: Setup, draw, params,
               serve: Serving | None = None) -> Parts:
  """The compiled parts of a step.

  Args:
    setup: of the run.
    draw: from `make_draw`.
    params: the policy before reinforcement learning; the reference of methods
      that want one.
    serve: hands out the sampler's parameters; None makes one.

  Returns:
    Parts.
  """
  planner = setup.method.plan
  reference = None
  if keeps_reference(setup.model, method_needs(setup.method)):
    reference = params
  shardings = None
  if setup.offload.reference and reference is not None:
    shardings = to_host(partitioning.param_shardings(setup.model, setup.mesh))
    reference = jax.device_put(params, shardings)
  learner = make_learner(
      setup.model, setup.method, setup.optimizer, setup.mesh,
      batching=setup.batching, temperature=setup.sampler.temperature or 1.0,
      schedule=setup.schedule,
      state_shardings=states.state_shardings(
          setup.model, setup.method, setup.optimizer, setup.mesh,
          setup.train.size, setup.offload.optimizer),
      reference_shardings=shardings, sizes=Sizes(
          setup.config.samples, setup.train.max_prompt,
          setup.sampler.max_tokens), jit=setup.jit)

  # A number has a fingerprint, the config has none.
  prompts = setup.config.prompts

  def propose(plan_state, key, step):
    plan_key, *keys = jax.random.split(jax.random.fold_in(key, step), 3)
    return (*planner.propose(plan_state, prompts, plan_key), *keys)

  def feedback(plan_state, rollout, advantages, plan):
    return planner.update(
        plan_state, group.feedback(rollout, advantages, plan))

  return Parts(
      setup, learner, draw, reference,
      # Every process reads the plan, so every process must hold all of it.
      setup.jit(propose, out_shardings=partitioning.replicated(setup.mesh)),
      setup.jit(feedback),
      make_sync(setup.model, setup.config.get('probe_tolerance'),
                setup.serving, setup.jit),
      serve or Serving(setup.model, setup.serving, setup.jit))


def train_step(parts: Parts, state: TrainState, step: int):
  """plan -> rollout -> score -> credit -> update -> feedback.

  Args:
    parts: from `make_parts`.
    state: donated.
    step: of the run, from 0.

  Returns:
    (state, the rollout as it was sampled, metrics).
  """
  setup, learner = parts.setup, parts.learner
  config = setup.config
  plan, plan_state, rollout_key, update_key = parts.propose(
      state.plan_state, state.key, step)
  heat = setup.method.heat
  generate = parts.draw(
      parts.serve(state.params), config.samples,
      heat and heat(state.credit_state[-1]))
  rollout = setup.method.rollout(generate, setup.train, plan, rollout_key)
  del generate  # It holds the sampler's parameters.
  parts.serve.release()
  rollout = hosts.spread(rollout, partitioning.rows(setup.mesh))
  sampled = rollout
  rollout = trim(rollout, setup.batching.buckets)
  known = learner.measure(rollout)
  rollout = learner.score(state.params, parts.ref_params, rollout, **known)
  rollout = learner.inform(state.opt_state, step / config.steps, rollout)
  credit, credit_state, metrics = learner.credit(state.credit_state, rollout)
  plan_state = parts.feedback(
      plan_state, credit.rollout, credit.advantages, plan)
  state = state._replace(credit_state=credit_state, plan_state=plan_state)
  state, update_metrics = learner.update(state, credit, update_key, **known)
  return state, sampled, {**metrics, **update_metrics}


def count_tokens(setup: Setup, rollout) -> int:
  """Prompt and response tokens of a batch, padding left out."""
  return int(_count(rollout.tokens, setup.tokenizer.pad_id))


@jax.jit
def _count(tokens, pad_id):
  return (tokens != pad_id).sum()


def _row_sharding(mesh, count):
  """Rows over the mesh; whole on every device when it does not divide them."""
  rows = partitioning.rows(mesh)
  shards = math.prod(mesh.shape[axis] for axis in partitioning.RULES['batch'])
  return partitioning.replicated(mesh) if count % shards else rows


def _sample_shardings(rows):
  fields = [field.name for field in dataclasses.fields(Samples)]
  whole = jax.sharding.NamedSharding(rows.mesh, jax.sharding.PartitionSpec())
  return Samples(**{name: rows for name in fields} | {'steps': whole})
