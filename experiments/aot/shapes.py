"""The arrays of a run, described by shape, dtype and place."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from policyopt.models import partitioning, transformer
from policyopt.ops import bits
from policyopt.training import state as states
from policyopt.training.credit import method_needs
from policyopt.training.offload import to_host
from policyopt.training.scores import keeps_reference
from policyopt.training.setup import ProgramParts, program_parts
from policyopt.types import Method, Prompts, Rollout


class Run(NamedTuple):
  """What is to be compiled.

  Attributes:
    parts: model, mesh, sampler, optimizer, batching.
    method: what is optimised.
    prompts: N of a step.
    samples: G per prompt.
    prompt_length: P, width of the prompts.
  """
  parts: ProgramParts
  method: Method
  prompts: int
  samples: int
  prompt_length: int

  @property
  def rows(self) -> int:
    """B, rows of a step."""
    return self.prompts * self.samples

  @property
  def length(self) -> int:
    """T, tokens of a row."""
    return self.prompt_length + self.parts.sampler.max_tokens


def describe(config, method: Method, devices,
             prompt_length: int | None = None) -> Run:
  """The run of a config on the given devices.

  Args:
    config: as `configs/common.py: base` returns it.
    method: as a recipe returns it.
    devices: attached or not.
    prompt_length: P; None asks the config's task.

  Returns:
    Run.

  Raises:
    ValueError: as `training.setup.prepare`, or a context that is too short.
  """
  parts = program_parts(config, method, devices)
  if prompt_length is None:
    prompt_length = _prompt_length(config, parts.tokenizer)
  run = Run(parts, method, config.prompts, config.samples, prompt_length)
  if run.length > parts.model.max_length:
    raise ValueError(
        f'prompts of {prompt_length} tokens and sampler.max_tokens = '
        f'{parts.sampler.max_tokens} make {run.length}, more than '
        f'model.max_length = {parts.model.max_length}')
  if parts.batching.packed:
    raise ValueError(
        'batching.packed is True; how rows are packed depends on the data. '
        'Set it to False here: unpacked rows take as much memory or more')
  return run


def placed(tree, shardings):
  """Gives every leaf its sharding."""
  return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding), tree, shardings)


def in_rows(tree, mesh):
  """Arrays whose first axis is rows, spread as the trainer spreads them."""
  rows = partitioning.rows(mesh)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), tree)


def everywhere(tree, mesh):
  """Arrays that every device holds."""
  whole = partitioning.replicated(mesh)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)


def bytes_per_device(tree) -> int:
  """What a tree of placed shapes takes of the memory of one device."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    if (isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None
        and leaf.sharding.memory_kind != 'pinned_host'):
      shape, dtype = leaf.sharding.shard_shape(leaf.shape), leaf.dtype
      if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        shape, dtype = (*shape, 2), jnp.dtype('uint32')
      total += math.prod(shape) * jnp.dtype(dtype).itemsize
  return total


def parts_of(tree, count: int) -> list[tuple[int, str]]:
  """(bytes on one device, name) of the largest parts of a tree.

  A part is what has one name in the records that lead to it: of a train state
  'params', 'opt_state.mu', and so on.
  """
  found: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    words = [key.name for key in path
             if isinstance(key, jax.tree_util.GetAttrKey)]
    name = '.'.join(words) or 'parameters'
    found[name] = found.get(name, 0) + bytes_per_device(leaf)
  return sorted(((size, name) for name, size in found.items()),
                reverse=True)[:count]


def abstract_params(run: Run):
  """The policy's parameters, where they lie."""
  model, mesh = run.parts.model, run.parts.mesh
  return placed(transformer.abstract_params(model),
                partitioning.param_shardings(model, mesh))


def abstract_reference(run: Run):
  """The policy as it was, where it lies, if the loop keeps it for scoring."""
  parts = run.parts
  if not keeps_reference(parts.model, method_needs(run.method)):
    return None
  params = abstract_params(run)
  if not parts.offload.reference:
    return params
  return placed(params, to_host(
      partitioning.param_shardings(parts.model, parts.mesh)))


def abstract_state(run: Run):
  """The train state, where it lies."""
  parts = run.parts
  shape = jax.eval_shape(
      lambda params, key: states.make_state(
          parts.model, run.method, parts.optimizer, parts.mesh, params, key),
      transformer.abstract_params(parts.model), abstract_key())
  return placed(shape, shardings(run))


def abstract_rollout(run: Run) -> Rollout:
  """A batch as the rollout scheme hands it to the learner."""
  rows, length = run.rows, run.length
  sampler, vocab = run.parts.sampler, run.parts.model.vocab_size
  shape = jax.ShapeDtypeStruct
  ints, floats = (shape((rows,), kind) for kind in (jnp.int32, jnp.float32))
  tokens = shape((rows, length), jnp.int32)
  numbers = shape((rows, length), jnp.float32)
  extras = dict(
      prompt=ints, plan_index=ints, verdict=ints, length=ints,
      truncated=shape((rows,), jnp.bool_), policy_log_probs=numbers,
      entropy=numbers)
  if sampler.truncates:
    extras['kept'] = shape(
        (rows, length, bits.num_words(vocab)), jnp.uint32)
  needs = method_needs(run.method)
  if 'answer_id' in needs:
    extras['answer_id'] = ints
  if 'greedy_reward' in needs:
    extras['greedy_reward'] = floats
  return in_rows(Rollout(
      tokens=tokens, mask=shape((rows, length), jnp.bool_), log_probs=numbers,
      group=ints, rewards={'reward': numbers}, extras=extras),
      run.parts.mesh)


def abstract_prompts(run: Run) -> Prompts:
  """The prompts of a step, which every device holds."""
  shape = jax.ShapeDtypeStruct
  return everywhere(Prompts(
      shape((run.prompts, run.prompt_length), jnp.int32),
      shape((run.prompts,), jnp.int32)), run.parts.serving.mesh)


def abstract_key():
  """A random key."""
  return jax.eval_shape(lambda: jax.random.key(0))


def shardings(run: Run):
  """Of the train state."""
  parts = run.parts
  return states.state_shardings(
      parts.model, run.method, parts.optimizer, parts.mesh,
      offload=parts.offload.optimizer)


def cache_sharding(mesh, shape):
  """Rows over 'data' and 'fsdp', heads over 'tensor', where these divide."""
  spec = []
  for size, name in zip(
      shape, ('layers', 'length', 'batch', 'kv_heads', 'head_dim')):
    axes = partitioning.RULES[name] or ()
    axes = (axes,) if isinstance(axes, str) else axes
    shards = math.prod(mesh.shape[axis] for axis in axes)
    spec.append(axes if axes and size % shards == 0 else None)
  return jax.sharding.NamedSharding(mesh, partitioning.P(*spec))


def _prompt_length(config, words) -> int:
  """The width that the task gives its prompts."""
  given = config.task_kw.get('max_prompt')
  if given:
    return int(given)
  from policyopt.envs.factory import environment
  env = environment(config.task, words, 'train', **config.task_kw)
  try:
    return env.max_prompt
  finally:
    env.close()
