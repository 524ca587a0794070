"""The train state: made, laid out on a mesh, and described for a restore."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from policyopt.models import lora, partitioning, transformer
from policyopt.models.config import ModelConfig
from policyopt.training import compiling
from policyopt.training.credit import init_credit
from policyopt.training.offload import to_host
from policyopt.types import Array, Method, TrainState


def make_state(
    config: ModelConfig, method: Method,
    optimizer: optax.GradientTransformation, mesh: Mesh, params, key: Array,
    size: int | None = None, donate: bool = False,
    offload: bool = False, jit: Callable = jax.jit) -> TrainState:
  """A train state at step 0, laid out on the mesh.

  Args:
    config: of the model.
    method: gives the credit and planner states.
    optimizer: gives the optimizer state, sharded like the parameters.
    mesh: where everything lives.
    params: the policy's parameters; copied, so that donating the state leaves
      them intact, unless `donate`.
    key: root key of the run; consumed.
    size: number of problems of the task, None when endless.
    donate: the state takes over the buffers of `params`, which nobody may
      read any more: there is never a second copy.
    offload: moments lie in pinned host memory.
    jit: compiles, as that of `make_learner`.

  Returns:
    TrainState.
  """
  def make(params, key):
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        # A new buffer: the caller keeps its own parameters.
        params=params if donate else jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(lora.split(params)[0]),
        credit_state=init_credit(method),
        plan_state=method.plan.init(size),
        key=key,
        skipped=jnp.zeros((), jnp.int32))

  shardings = state_shardings(config, method, optimizer, mesh, size, offload)
  return jit(make, donate_argnums=(0,) if donate else (),
             out_shardings=shardings,
             compiler_options=compiling.options(mesh))(params, key)


def init_params(config: ModelConfig, mesh: Mesh, key: Array,
                jit: Callable = jax.jit):
  """Random parameters, created where they belong on the mesh; consumes key."""
  def init(key):
    return transformer.init(config, key)

  return jit(init, out_shardings=partitioning.param_shardings(config, mesh),
             compiler_options=compiling.options(mesh))(key)


def state_shardings(config, method, optimizer, mesh, size=None,
                    offload=False) -> TrainState:
  """A NamedSharding for every leaf of the train state."""
  replicated = partitioning.replicated(mesh)
  everywhere = lambda tree: jax.tree.map(lambda _: replicated, tree)
  return TrainState(
      step=replicated, params=partitioning.param_shardings(config, mesh),
      opt_state=optimizer_shardings(config, optimizer, mesh, offload),
      credit_state=everywhere(jax.eval_shape(lambda: init_credit(method))),
      plan_state=everywhere(jax.eval_shape(lambda: method.plan.init(size))),
      key=replicated, skipped=replicated)


def optimizer_shardings(config, optimizer, mesh, offload=False):
  """Moments lie where their parameter lies; counters are everywhere.

  With an adapter there are moments of what is trained only. With `offload`
  they lie in the pinned memory of the hosts of those devices.
  """
  params, _ = lora.split(transformer.abstract_params(config))
  opt_state = jax.eval_shape(optimizer.init, params)
  shardings, _ = lora.split(partitioning.param_shardings(config, mesh))
  return optax.tree.map_params(
      optimizer, lambda _, sharding: sharding, opt_state,
      to_host(shardings) if offload else shardings,
      transform_non_params=lambda _: partitioning.replicated(mesh))


def abstract_state(state):
  """The same tree as shapes, dtypes and shardings: the target of a restore."""
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state)
