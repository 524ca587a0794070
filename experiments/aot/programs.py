"""The programs of a training step, ready to be compiled without any array.

They are the functions that `training.loop` runs: the learner's scoring pass
and update, the copy of the weights for the sampler, and the sampler, whole and
in its two parts.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.experimental.layout import Format, Layout
import jax.numpy as jnp

from experiments.aot import shapes
from experiments.aot.shapes import Run
from policyopt.models import partitioning
from policyopt.models.shared import Sizes
from policyopt.rollouts import sampler as sampling
from policyopt.training.learner import make_learner
from policyopt.training.serving import abstract_copy, make_copy
from policyopt.types import Rollout

NAMES = ('update', 'score', 'reshard', 'sample', 'prefill', 'decode')


@dataclasses.dataclass(frozen=True)
class Program:
  """One jitted function with the shapes that it is called with.

  Attributes:
    name: one of `NAMES`.
    function: jitted.
    args: of ShapeDtypeStruct, and static arguments.
    kwargs: likewise.
    mesh: that it runs in; of the devices of the run, in their order.
    params: the weights that it computes with.
    held: what else of the run lies in memory meanwhile; a tree of
      ShapeDtypeStruct.
    tokens: that one call handles; 0 when it handles none.
    rate: of which tokens its speed is told, such as 'trained'.
    trips: times that a while loop with matrix products runs at most.
  """
  name: str
  function: Any
  args: tuple
  kwargs: dict[str, Any]
  mesh: Any
  params: Any
  held: Any
  tokens: int
  rate: str
  trips: int | None = None

  def trace(self):
    """The traced function, as it is called inside of the mesh."""
    with jax.set_mesh(self.mesh):
      return self.function.trace(*self.args, **self.kwargs)

  def lower(self, traced):
    """Lowers it for TPUs."""
    with jax.set_mesh(self.mesh):
      return traced.lower(lowering_platforms=('tpu',))


def programs(run: Run, names=NAMES) -> list[Program]:
  """The programs of a run.

  Args:
    run: from `describe`.
    names: which of `NAMES`; a scoring pass that the method does not need, and
      a copy for a sampler that takes the weights as they are, are left out.

  Returns:
    Programs in the order of `NAMES`.
  """
  makers = {'update': _update, 'score': _score, 'reshard': _reshard,
            'sample': _sample, 'prefill': _prefill, 'decode': _decode}
  made = [makers[name](run) for name in NAMES if name in names]
  return [program for program in made if program is not None]


# --- the programs ----------------------------------------------------------


def _update(run: Run) -> Program:
  """The optimizer step: forward, backward, adamw."""
  learner, state = _learner(run), shapes.abstract_state(run)
  params = state.params
  rollout = learner_rollout(learner, run, params, state)
  credit = shapes.in_rows(jax.eval_shape(
      learner.credit, state.credit_state, rollout)[0], run.parts.mesh)
  return Program(
      'update', learner.update, (state, credit, shapes.abstract_key()), {},
      run.parts.mesh, state.params, held=_reference(run),
      tokens=run.rows * run.length * run.parts.batching.epochs, rate='trained')


def _score(run: Run) -> Program | None:
  """The forward passes that the method asks for before credit."""
  learner = _learner(run)
  if not hasattr(learner.score, 'lower'):
    return None
  state = shapes.abstract_state(run)
  return Program(
      'score', learner.score,
      (state.params, _reference(run), shapes.abstract_rollout(run)), {},
      run.parts.mesh, state.params, held=state.opt_state,
      tokens=run.rows * run.length, rate='scored')


def _reshard(run: Run) -> Program | None:
  """The copy of the weights that the sampler draws with."""
  parts, state = run.parts, shapes.abstract_state(run)
  if not parts.serving.copied:
    return None
  return Program(
      'reshard', make_copy(parts.model, parts.serving), (state.params,), {},
      parts.mesh, state.params, held=(state.opt_state, _reference(run)),
      tokens=0, rate='')


def _sample(run: Run) -> Program:
  """What the loop calls: prefill and decode in one program."""
  parts, mesh = run.parts, run.parts.serving.mesh
  params, held = _served(run)
  rows = shapes.in_rows(jax.ShapeDtypeStruct((run.rows,), jnp.int32), mesh)
  args = (_drawn(run), parts.sampler, params, shapes.abstract_prompts(run),
          shapes.abstract_key())
  kwargs = dict(samples=run.samples, row_ids=rows, max_tokens=rows)
  static = ('config', 'sampler', 'samples')
  drawn = jax.eval_shape(
      jax.jit(sampling.sample, static_argnames=static), *args, **kwargs)
  # As `training.steps` has it: every device keeps its rows.
  places = jax.tree.map(
      lambda x: (partitioning.rows if x.ndim else partitioning.replicated)(
          mesh), drawn)
  return Program(
      'sample', jax.jit(sampling.sample, static_argnames=static,
                        out_shardings=places), args, kwargs, mesh, params, held,
      tokens=run.rows * parts.sampler.max_tokens, rate='sampled',
      trips=parts.sampler.max_tokens - 1)


def _prefill(run: Run) -> Program:
  """The first part of the sampler."""
  parts = run.parts
  params, held = _served(run)
  return Program(
      'prefill', jax.jit(sampling.prefill, static_argnums=(0, 3, 4)),
      (_drawn(run), params, shapes.abstract_prompts(run), run.samples,
       parts.sampler.max_tokens), {}, parts.serving.mesh, params, held,
      tokens=run.prompts * run.prompt_length, rate='prompt')


def _decode(run: Run) -> Program:
  """The second part, whose cache is given and taken back."""
  parts, mesh = run.parts, run.parts.serving.mesh
  params, held = _served(run)
  # In the mesh: the form of the cache is that of its platform.
  with jax.set_mesh(mesh):
    hidden, cache = jax.eval_shape(
        lambda params, prompts: sampling.prefill(
            _drawn(run), params, prompts, run.samples,
            parts.sampler.max_tokens), params, shapes.abstract_prompts(run))
  in_rows = lambda tree: shapes.in_rows(tree, mesh)
  cache = shapes.placed(cache, jax.tree.map(
      lambda x: shapes.cache_sharding(mesh, x.shape), cache))
  ints = jax.ShapeDtypeStruct((run.rows,), jnp.int32)
  keys = jax.eval_shape(
      lambda key: jax.random.split(key, run.rows), shapes.abstract_key())
  # Inside of `sample` the compiler lays the cache out as it likes; here it may
  # too, or it would copy the whole cache at the loop's ends.
  free = jax.tree.map(
      lambda x: Format(Layout.AUTO, x.sharding), cache)
  function = jax.jit(
      sampling.decode, static_argnums=(0, 1), donate_argnums=4,
      in_shardings=(None, None, free, None, None, None),
      out_shardings=sampling.Loop(
          **{name: None for name in sampling.Loop._fields} | {'cache': free}))
  return Program(
      'decode', function,
      (_drawn(run), parts.sampler, params, in_rows(hidden), cache,
       in_rows(keys), in_rows(ints), in_rows(ints)), {}, mesh, params, held,
      tokens=run.rows * parts.sampler.max_tokens, rate='sampled',
      trips=parts.sampler.max_tokens - 1)


def learner_rollout(learner, run: Run, params, state) -> Rollout:
  """The batch with all that scoring and the trainer add to it."""
  rollout = shapes.abstract_rollout(run)
  # In the mesh: what a kernel is asked for depends on its platform.
  with jax.set_mesh(run.parts.mesh):
    rollout = jax.eval_shape(learner.score, params, _reference(run), rollout)
  rollout = jax.eval_shape(
      learner.inform, state.opt_state,
      jax.ShapeDtypeStruct((), jnp.float32), rollout)
  return shapes.in_rows(rollout, run.parts.mesh)


def _drawn(run: Run):
  """The model as the sampler runs it."""
  return run.parts.serving.model(run.parts.model)


def _served(run: Run):
  """(the sampler's weights, what lies beside them while it runs)."""
  state, serving = shapes.abstract_state(run), run.parts.serving
  beside = state.opt_state, _reference(run)
  if not serving.copied:
    return state.params, beside
  return abstract_copy(run.parts.model, serving), (state.params, beside)


def _learner(run: Run):
  parts = run.parts
  reference = jax.tree.map(lambda x: x.sharding, _reference(run))
  return make_learner(
      parts.model, run.method, parts.optimizer, parts.mesh,
      batching=parts.batching, temperature=parts.sampler.temperature or 1.0,
      schedule=parts.schedule, state_shardings=shapes.shardings(run),
      reference_shardings=reference, sizes=Sizes(
          run.samples, run.prompt_length, parts.sampler.max_tokens))


def _reference(run: Run):
  return shapes.abstract_reference(run)
