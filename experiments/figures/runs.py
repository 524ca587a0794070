"""Training runs of many seeds and several methods, from one warm start."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np

from configs import common
from experiments.figures import beds
from policyopt import methods
from policyopt.training import one_program
from policyopt.types import Method

# So many seeds are the least that a verdict rests on.
SEEDS = 16
# What --fast runs, to see that all of it works.
FAST_SEEDS = 3


def config(task: str, alphabet: str, *, max_tokens: int, steps: int,
           warm_steps: int, width: int = 32, layers: int = 2,
           prompts: int = 16, samples: int = 8, learning_rate: float = 1e-3,
           **task_kw) -> ml_collections.ConfigDict:
  """A config for seconds of training on a laptop.

  Args:
    task: one of the synthetic tasks.
    alphabet: its characters.
    max_tokens: of a response.
    steps: of reinforcement learning.
    warm_steps: of the warm start, 64 packed rows of 64 tokens each.
    width: of the policy, D.
    layers: of the policy.
    prompts: a step.
    samples: of a prompt.
    learning_rate: of reinforcement learning.
    **task_kw: arguments of the task.

  Returns:
    The config; change what else should differ.
  """
  made = common.base(f'task={task}')
  made.task_kw.update(task_kw)
  made.tokenizer = f'characters:{alphabet}'
  made.model.preset = 'nano'
  # The tokenizer has a few symbols of its own.
  made.model.kw.update(
      vocab_size=-(-(len(alphabet) + 8) // 8) * 8, num_layers=layers,
      width=width, mlp_width=3 * width, num_heads=4, num_kv_heads=4,
      head_dim=width // 4, max_length=64)
  made.sampler.max_tokens = max_tokens
  made.warm_start.update(
      steps=warm_steps, examples=256, rows=64, length=64)
  made.warm_start.optimizer.update(learning_rate=3e-3, warmup_steps=20)
  made.optimizer.update(learning_rate=learning_rate, warmup_steps=10)
  made.evaluation.update(problems=64, samples=8)
  made.update(prompts=prompts, samples=samples, steps=steps)
  return made


def train(settings: ml_collections.ConfigDict,
          arms: Mapping[str, Mapping], seeds: int,
          keep: tuple[str, ...] = ('reward',),
          finish: Callable[[str, Method], Method] | None = None) -> dict:
  """Every arm from the same warm start, with the same seeds.

  Seed s draws the same problems and the same random numbers in every arm, so
  differences between arms are paired by seed.

  Args:
    settings: what the arms have in common, from `config`.
    arms: name -> keys that differ, as 'method' or 'method_kw.beta'.
    seeds: S.
    keep: metrics of each step that are wanted, of arms that report them.
    finish: (arm, its method) -> the method that is trained; None: the same.

  Returns:
    arm -> {metric f32[S, steps], 'pass1_before' and 'pass1' f32[S], 'solved'
    bool[S, problems, samples] after the last step}.
  """
  made, params = {}, None
  for name, changes in arms.items():
    changed = settings.copy_and_resolve_references()
    changed.update_from_flattened_dict(dict(changes))
    method = methods.from_config(changed)
    if finish is not None:
      method = finish(name, method)
    program = one_program.make_program(changed, method)
    if params is None:
      params = jax.jit(program.init)(jax.random.key(settings.seed))
    made[name] = _many(program, params, seeds, keep)
  return made


def _many(program: one_program.Program, params, seeds, keep):
  def one(key):
    run = program.train(key, params)
    return dict(
        {name: run.metrics[name] for name in keep if name in run.metrics},
        pass1_before=run.before.solved.mean(), pass1=run.after.solved.mean(),
        solved=run.after.solved)

  return jax.tree.map(
      np.asarray, jax.jit(jax.vmap(one))(beds.seeds(seeds)))
