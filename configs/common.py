"""What every config starts from: the demo task at laptop size.

A config is a short program, `get_config(arg)`, that returns one ConfigDict.
The string behind the colon of `--config=configs/X.py:arg` is a list of
comma-separated words: `quick` shrinks the run to a smoke test, `task=NAME`
changes the task and drops the arguments of the old one, and `KEY=VALUE` sets
any other key (`steps=50,method=rloo,warm_start.steps=0`).
"""

import ast
import functools
import operator
import typing

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from policyopt import methods
from policyopt.models.config import ModelConfig
from policyopt.names import check_name


def base(arg: str = '') -> ConfigDict:
  """The default configuration; see the comment at each key."""
  config = ConfigDict()
  config.seed = 0

  # What is learned: a problem generator with its own judge.
  config.task = 'reasoning_gym:spell_backward'
  config.task_kw = ConfigDict(dict(
      min_word_len=4, max_word_len=7, max_prompt=8,
      exact=True,  # Only a perfect answer earns a reward.
      workers=1, timeout_s=10.,  # Verifier processes, and a row's time limit.
      # The sentence around each word would cost a byte-level model 49 tokens.
      replace=(('Spell this word backward (example: sun -> nus): ', ''),)),
      type_safe=False)
  # 'byte', 'sentencepiece:PATH' or 'hf:PATH'; None: that of model.folder, or
  # bytes without one.
  config.tokenizer = placeholder(str)

  # The policy: a preset, or instead of it a folder of published weights (None:
  # fresh ones); fields to change (None leaves them), whether it has a value
  # head (None: if the method needs one), and where it lives.
  fields = typing.get_type_hints(ModelConfig)
  del fields['value_head'], fields['cache_dtype']
  config.model = ConfigDict(dict(
      preset='tiny', folder=placeholder(str), kw=unset(fields),
      value_head=placeholder(bool)))
  config.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1, expert=1))
  # The sampler's own mesh of the same devices (all None: that of the update;
  # else 'data' is what the others leave, and the others are 1), and the dtype
  # of its weights (None: theirs). Either takes a copy of the weights a step.
  # `weights`: 'int8' or 'float8_e4m3fn' rounds the copy's kernels and head
  # further, with a scale for each output (None: no). `cache`: what keys and
  # values are kept in, 'bfloat16', 'int8' with a scale for each token and head,
  # or 'float8_e4m3fn' (None: what the model computes in). Accelerators read
  # fewer bytes for a token then; CPUs widen all they read, and are no faster.
  # A rounded policy draws the rows, and the held-out ones too: `log_prob_gap`
  # shows how far it is from the learner's, and configs/grpo_tis.py corrects.
  # The prompts of a step are drawn in `chunks`, of which one is judged while
  # the devices draw the next: worth it where judges take long. The tokens are
  # the same; products of fewer rows may round log-probabilities otherwise.
  config.rollout = ConfigDict(dict(
      mesh=ConfigDict({axis: placeholder(int) for axis in config.mesh}),
      dtype=placeholder(str), weights=placeholder(str),
      cache=placeholder(str), chunks=1))

  # Supervised warm start on the task's reference answers. Short on purpose:
  # reinforcement learning needs a policy that is right 0.2 to 0.5 of the time.
  config.warm_start = ConfigDict(dict(
      steps=140, examples=256, rows=128, length=48, microbatches=1,
      optimizer=optimizer(learning_rate=1e-3, warmup_steps=20)))

  # Reinforcement learning: `prompts` x `samples` rows a step.
  config.method = 'grpo'
  # Its hyper-parameters; None leaves one as the recipe has it.
  config.method_kw = unset(functools.reduce(
      operator.or_, map(typing.get_type_hints, map(methods.recipe,
                                                   methods.names()))))
  config.prompts = 32
  config.samples = 8
  config.steps = 400
  config.sampler = ConfigDict(dict(
      max_tokens=8, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0,
      # Rows that are decoded at a time, one that ends making room for the next
      # (0: all at once); and prompts that are read at a time then (0: all).
      slots=0, prefill_chunk=0))
  # Rows are cut to one of `buckets` lengths; `packed` lets short rows of a
  # microbatch share rows of the model; with `share_prompts` the model reads a
  # prompt once for all of its responses, and prompts and responses are cut to
  # `buckets` lengths each.
  config.batching = ConfigDict(dict(
      epochs=1, minibatches=1, microbatches=1, buckets=1, packed=False,
      share_prompts=False))
  # What lies in host memory until it is needed: the reference model, the
  # optimizer's state.
  config.offload = ConfigDict(dict(reference=False, optimizer=False))
  # A policy gradient is noisy: at 5e-4 this task unlearns.
  config.optimizer = optimizer(learning_rate=2e-4, warmup_steps=10)
  # After so many skipped (non-finite) updates in a row the run stops.
  config.max_skipped = 10
  # Nats by which sampling with a cache and scoring may differ on a fixed row
  # of tokens (None: by dtype) before the run stops as out of sync.
  config.probe_tolerance = placeholder(float)

  # Held-out problems: before, after, and every so many steps (0: never); of
  # the same task, or of another one with its own arguments.
  config.evaluation = ConfigDict(dict(
      problems=512, samples=8, every=0, task=placeholder(str),
      task_kw=ConfigDict(type_safe=False)))

  # A folder that the run's compiled programs are kept in: where all is as it
  # was they are found there again, without being traced. Not across several
  # processes. What lies in it is executed (None: nothing is kept).
  config.programs = placeholder(str)
  config.checkpoint_every = 50
  config.keep_checkpoints = 2
  # Prompts per step whose samples are written to samples.jsonl.
  config.log_prompts = 1
  # (start, stop): steps start ... stop - 1, counted from 0, are profiled: a
  # trace and a table by phase in the run's folder (None: none are; the first
  # step of a process also compiles). `ceilings`: the file that
  # experiments/bench/ceilings.py has measured on this device.
  config.profile = placeholder(tuple)
  config.ceilings = 'experiments/results/ceilings.json'
  return adjust(config, arg)


def unset(hints: dict) -> ConfigDict:
  """A key for each annotated name, without a value but with a type."""
  keys = ConfigDict()
  for name, hint in hints.items():
    # `float | None` takes a float, but a tuple of floats none.
    kind = next(iter(typing.get_args(hint)), hint)
    if typing.get_origin(hint) is tuple:
      kind = tuple
    if name != 'return':
      keys[name] = placeholder(kind if isinstance(kind, type) else object)
  return keys


def optimizer(**changes) -> ConfigDict:
  """An optax optimizer: factory name, schedule, clipping, other arguments."""
  return ConfigDict(dict(
      name='adamw', learning_rate=1e-3, warmup_steps=0, decay_steps=0,
      clip_norm=1.0,
      # 'stochastic' rounding lets parameters in bfloat16 learn; the dtype of
      # the moments: 'float32', 'bfloat16', or None for the parameters' own.
      rounding='nearest', moments=placeholder(str),
      kw=ConfigDict(dict(b1=0.9, b2=0.99, weight_decay=0.0), type_safe=False),
  ) | changes)


def adjust(config: ConfigDict, arg: str) -> ConfigDict:
  """Applies the words of a config argument, such as 'quick,steps=5'."""
  for word in filter(None, (arg or '').split(',')):
    name, equals, value = word.partition('=')
    if word == 'quick':
      quick(config)
    elif equals and name == 'task':
      set_task(config, value)
    elif equals and name in _settable(config):
      config.update_from_flattened_dict({name: _literal(value)})
    else:
      known = ['quick', 'task'] + _settable(config)
      check_name('word of the config argument', name, known)
      raise ValueError(f'config argument {word!r} lacks a value: {name}=VALUE')
  return config


def set_task(config: ConfigDict, task: str, **task_kw) -> None:
  """Another task: drops the arguments of the old one."""
  config.task = task
  general = {}
  if task.startswith('reasoning_gym:'):
    general = {name: config.task_kw[name]
               for name in ('exact', 'workers', 'timeout_s')
               if name in config.task_kw}
  config.task_kw = ConfigDict(general | task_kw, type_safe=False)


def from_published_weights(config: ConfigDict) -> None:
  """Settings for a model that can answer already: small steps, no warm start.

  Without `model.folder` it is a fresh model of the preset, which learns nothing
  from here; set warm_start.steps for that.
  """
  config.model.preset = 'qwen3-0.6b'
  config.warm_start.update(steps=0, examples=64, rows=32, length=1024)
  config.update(prompts=32, samples=8, steps=200)
  config.batching.microbatches = 8
  config.optimizer.update(learning_rate=1e-6, warmup_steps=10)
  config.optimizer.kw.update(b2=0.999)


def _settable(config: ConfigDict, prefix: str = '') -> list[str]:
  """The keys that hold no further keys, as 'section.key'."""
  names = []
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      names += _settable(value, f'{prefix}{name}.')
    else:
      names.append(prefix + name)
  return names


def quick(config: ConfigDict) -> None:
  """Shrinks a run to seconds, to see that all of it works."""
  config.model.preset = 'nano'
  if 'path' in config.task_kw:
    config.model.kw.max_length = 1024  # Problems of files are long.
  warm = config.warm_start
  warm.update(steps=min(warm.steps, 4), examples=32, rows=8,
              length=max(warm.length, 64))
  config.sampler.update(max_tokens=min(config.sampler.max_tokens, 32),
                        slots=min(config.sampler.slots, 8), prefill_chunk=0)
  config.batching.microbatches = 1
  # Chosen for a slice that is not here.
  config.rollout.mesh.update({axis: None for axis in config.rollout.mesh})
  config.update(prompts=8, samples=4, steps=4, checkpoint_every=2)
  config.evaluation.update(problems=16, samples=4)


def _literal(value: str):
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return value
