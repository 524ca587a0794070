"""From a config to the parts of a run; everything that can be wrong is said
here, before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import optax

from policyopt.envs.factory import environment
from policyopt.models import convert, partitioning
from policyopt.models.choice import folder_of, model_of
from policyopt.models.config import ModelConfig
from policyopt.models.tokenizer import Tokenizer, tokenizer
from policyopt.rollouts import multi_turn
from policyopt.rollouts.group import check_chunks
from policyopt.rollouts.sampler import SamplerConfig
from policyopt.training import programs
from policyopt.training.credit import method_needs
from policyopt.training.learner import Batching
from policyopt.training.offload import Offload
from policyopt.training.optimizers import make_optimizer, make_schedule
from policyopt.training.profile import check as check_profile
from policyopt.training.serving import Layout, layout
from policyopt.training.shared import check as check_shared
from policyopt.types import NEEDS, Environment, Method

_POSITIVE = (
    'prompts', 'samples', 'steps', 'batching.epochs', 'batching.minibatches',
    'batching.microbatches', 'batching.buckets', 'warm_start.examples',
    'warm_start.rows', 'warm_start.microbatches', 'max_skipped',
    'checkpoint_every', 'evaluation.problems', 'evaluation.samples')


class Setup(NamedTuple):
  """The parts of a run.

  Attributes:
    config: the ml_collections config that they were made from.
    tokenizer: text <-> token ids.
    train: the environment that is learned.
    test: the same task on held-out problems.
    model: shape of the policy.
    mesh: devices.
    sampler: how responses are drawn.
    method: what is optimised.
    optimizer: of reinforcement learning.
    schedule: of its learning rate.
    warm_optimizer: of the warm start.
    batching: epochs, minibatches, microbatches, lengths.
    serving: where the sampler's parameters live.
    offload: what lies in host memory.
    jit: what its large programs are compiled with.
  """
  config: Any
  tokenizer: Tokenizer
  train: Environment
  test: Environment
  model: ModelConfig
  mesh: Mesh
  sampler: SamplerConfig
  method: Method
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  warm_optimizer: optax.GradientTransformation
  batching: Batching
  serving: Layout
  offload: Offload = Offload()
  jit: Callable = jax.jit

  def close(self) -> None:
    """Ends the processes of the environments."""
    self.train.close()
    self.test.close()


def prepare(config, method: Method) -> Setup:
  """Makes and checks the parts of a run; compiles nothing.

  Args:
    config: as `configs/common.py: base` returns it.
    method: as a recipe of `policyopt.methods` returns it.

  Returns:
    Setup.

  Raises:
    ValueError: in one line, naming the argument, its value and what would be
      right.
  """
  (words, model, mesh, sampler, optimizer, schedule, batching, serving,
   offload) = program_parts(config, method)
  offload.check(mesh)
  # Older runs lack the key.
  jit = programs.compiler(config.get('programs'), mesh)
  if folder_of(config.model):
    convert.check(config.model.folder, model)
  warm_optimizer = make_optimizer(**config.warm_start.optimizer)
  if not config.warm_start.steps:
    # No moments of weights that a warm start never trains.
    warm_optimizer = optax.identity()
  envs = []
  try:
    for split in ('train', 'test'):
      envs.append(_environment(config, words, split))
      _check_context(envs[-1], sampler, model)
    _check_needs(method, model, envs[0])
    _check_problems(config, *envs)
    serving.warn(method, config.method)
  except Exception:
    for env in envs:
      env.close()
    raise
  return Setup(
      config, words, *envs, model, mesh, sampler, method, optimizer, schedule,
      warm_optimizer, batching, serving, offload, jit)


class ProgramParts(NamedTuple):
  """What decides the compiled programs of a run; fields as in `Setup`."""
  tokenizer: Tokenizer
  model: ModelConfig
  mesh: Mesh
  sampler: SamplerConfig
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  batching: Batching
  serving: Layout
  offload: Offload = Offload()


def program_parts(config, method: Method, devices=None) -> ProgramParts:
  """Everything of a run but its data and weights.

  Args:
    config: as `configs/common.py: base` returns it.
    method: as a recipe of `policyopt.methods` returns it.
    devices: of the mesh, which may be described and not attached; None for
      all that there are.

  Returns:
    ProgramParts.

  Raises:
    ValueError: as `prepare`.
  """
  mesh = partitioning.make_mesh(_mesh_shape(config.mesh), devices)
  _check_batch(config, method, mesh)
  words = tokenizer(_tokenizer_name(config))
  model = _model(config.model, method, words)
  sampler = SamplerConfig(
      stop_tokens=words.stop_tokens, pad_id=words.pad_id, **config.sampler)
  sampler.validate(model.vocab_size)
  # Names the parameter that the mesh does not divide.
  partitioning.param_shardings(model, mesh)
  batching = Batching(**config.batching)
  check_shared(model, method_needs(method), batching, config.prompts,
               mesh.shape['data'] * mesh.shape['fsdp'])
  # Older runs lack the key.
  serving = layout(config.get('rollout'), model, mesh,
                   config.prompts * config.samples)
  chunks = (config.get('rollout') or {}).get('chunks', 1)
  shards = serving.mesh.shape['data'] * serving.mesh.shape['fsdp']
  check_chunks(chunks, config.prompts, config.samples, shards)
  sampler.check_slots(config.prompts // chunks, config.samples, shards)
  optimizer = make_optimizer(**config.optimizer)
  if method.optimizer is not None:
    optimizer = method.optimizer(optimizer)
  rates = config.optimizer
  schedule = make_schedule(
      rates.learning_rate, rates.warmup_steps, rates.decay_steps)
  return ProgramParts(words, model, mesh, sampler, optimizer, schedule,
                      batching, serving,
                      Offload(**config.offload))


def _tokenizer_name(config) -> str:
  folder = folder_of(config.model)
  return config.tokenizer or (f'hf:{folder}' if folder else 'byte')


def _environment(config, words: Tokenizer, split: str) -> Environment:
  """The task of a split; held-out problems may be of another task."""
  task, task_kw = config.task, config.task_kw
  if split == 'test' and config.evaluation.get('task'):
    task, task_kw = config.evaluation.task, config.evaluation.task_kw
  return environment(task, words, split, **task_kw)


def _mesh_shape(mesh) -> dict[str, int]:
  return {name: int(size) for name, size in mesh.items()}


def _model(config, method: Method, words: Tokenizer) -> ModelConfig:
  """The preset, or the model of the folder, with its changes.

  A value head when the method asks for one.
  """
  if config.kw.get('value_head') is not None:
    raise ValueError(
        f'model.kw.value_head is {config.kw.value_head!r}; set '
        'model.value_head instead')
  value_head = config.value_head
  if value_head is None:
    value_head = 'values' in method_needs(method)
  model = model_of(config, value_head=value_head)
  if words.vocab_size > model.vocab_size:
    raise ValueError(
        f'tokenizer {words.name!r} has {words.vocab_size} tokens, more than '
        f'the vocabulary of the model ({model.vocab_size}): set '
        f'model.kw.vocab_size to at least {words.vocab_size}')
  return model


def _check_batch(config, method: Method, mesh: Mesh) -> None:
  """Rows must divide into shards, minibatches and microbatches."""
  for name in _POSITIVE:
    value = functools.reduce(lambda c, part: c[part], name.split('.'), config)
    if value < 1:
      raise ValueError(f'{name} is {value}; it must be at least 1')
  # Older runs lack the keys.
  check_profile(config.steps, config.get('profile'))
  tolerance = config.get('probe_tolerance')
  if tolerance is not None and not tolerance > 0:
    raise ValueError(f'probe_tolerance is {tolerance}; it must be positive, in '
                     'nats, or None')
  if config.samples < method.min_group:
    raise ValueError(
        f'samples is {config.samples}: method {config.method!r} compares '
        f'responses to the same prompt, so it needs at least '
        f'{method.min_group} samples per prompt')
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  rows = config.prompts * config.samples
  pieces = config.batching.minibatches * config.batching.microbatches
  if config.prompts % pieces:
    raise ValueError(
        f'prompts is {config.prompts}; it must be a multiple of '
        f'batching.minibatches x batching.microbatches = {pieces}, so that no '
        'group is cut')
  if rows % (pieces * shards):
    raise ValueError(
        f'prompts x samples is {rows} rows in {pieces} pieces; each piece '
        f'must be a multiple of the {shards} shards of the mesh '
        f"('data' x 'fsdp')")
  warm = config.warm_start
  if warm.steps and warm.rows % (warm.microbatches * shards):
    raise ValueError(
        f'warm_start.rows is {warm.rows}; it must be a multiple of '
        f'warm_start.microbatches x shards = {warm.microbatches * shards}')


def _check_context(env: Environment, sampler: SamplerConfig,
                   model: ModelConfig) -> None:
  multi_turn.check(env.turns, sampler)
  need = env.max_prompt + sampler.max_tokens
  if need > model.max_length:
    raise ValueError(
        f'task {env.name!r} has prompts of up to {env.max_prompt} tokens and '
        f'sampler.max_tokens is {sampler.max_tokens}: together {need}, more '
        f'than model.max_length = {model.max_length}')


def _check_problems(config, train: Environment, test: Environment) -> None:
  """There must be answers to start from, and problems to evaluate on."""
  if config.warm_start.steps and train.answer is None:
    raise ValueError(
        f'task {train.name!r} has no reference answers, so it cannot be warm '
        'started: set warm_start.steps to 0')
  problems = config.evaluation.problems
  if test.size is not None and problems > test.size:
    raise ValueError(
        f'evaluation.problems is {problems}, but task {test.name!r} has only '
        f'{test.size} held-out problems')


def _check_needs(method: Method, model: ModelConfig, env: Environment) -> None:
  unmet = set()
  for need in method_needs(method):
    if need not in NEEDS:
      unmet.add(need)
    elif need == 'values' and not model.value_head:
      unmet.add(need)
    elif need == 'router' and not model.num_experts:
      unmet.add(need)
    elif need in ('turn', 'state_id') and env.turns is None:
      unmet.add(need)
    elif need == 'answer_id' and not env.answer_ids:
      unmet.add(need)
  if unmet:
    need = sorted(unmet)[0]
    supply = NEEDS.get(need, f'nothing; known are {", ".join(sorted(NEEDS))}')
    raise ValueError(
        f'the method needs {need!r}, which this run does not supply. '
        f'It comes from: {supply}')
