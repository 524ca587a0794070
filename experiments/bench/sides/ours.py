"""A GRPO step of this library: what `experiments/train.py` runs, timed.

The argument is the case as JSON (see peer_cases.py), the last line printed the
result. The parts are those of a run, made from a config as a run makes them;
its loop is that of `training.loop`, without the files that it writes.
"""

import dataclasses
import os
import pathlib
import sys
import time

# As `experiments.bench.X`, and not by their names in this folder.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[3])

from experiments.bench.sides import common  # noqa: E402
from policyopt import large_pages  # noqa: E402


def make_config(spec: dict):
  """The settings that a user would write down for this case."""
  from configs.common import base
  config, shape = base(), spec['shape']
  config.task, config.task_kw = 'arithmetic', {}
  config.warm_start.steps = 0
  config.method_kw.beta = 0.0  # No reference model, as with the others.
  config.model.kw.update(
      vocab_size=spec['vocabulary'], width=shape['width'],
      num_layers=shape['layers'], num_heads=shape['heads'],
      num_kv_heads=shape['kv_heads'], head_dim=shape['head_dim'],
      mlp_width=shape['mlp'], qk_norm=True, tied_embeddings=True,
      dtype=spec['dtype'], max_length=spec['prompt'] + spec['response'],
      remat=spec.get('remat', 'none'))
  if spec['dtype'] != 'float32':
    config.rollout.dtype = spec['dtype']
  config.update(prompts=spec['prompts'], samples=spec['samples'])
  config.sampler.update(max_tokens=spec['response'], slots=spec['slots'])
  config.batching.update(microbatches=spec['microbatches'],
                         share_prompts=spec.get('share_prompts', False))
  # Beside what JAX keeps.
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  config.programs = cache and os.path.join(cache, 'programs')
  return config


def task(spec: dict):
  """The environment: random words, judged by Python from text."""
  import numpy as np

  from policyopt.envs import text
  from policyopt.types import Environment, Scores

  prompts = []  # Of as many steps as are asked for.

  def reset(ids):
    rows = []
    for i in np.asarray(ids).tolist():
      while len(prompts) <= i:
        prompts.extend(common.words(spec, len(prompts)))
      rows.append(prompts[i])
    return text.pad(rows, spec['prompt'], common.PAD)

  def score(ids, responses):
    rows = zip(np.asarray(responses.tokens).tolist(),
               np.asarray(responses.length).tolist())
    rewards = [common.reward(common.text(row[:length])) for row, length in rows]
    return Scores({'even': np.asarray(rewards, np.float32)},
                  np.zeros(len(rewards), np.int32))

  return Environment('words', None, spec['prompt'], reset, score)


class Run:
  """The parts of a run, and its loop."""

  def __init__(self, spec: dict):
    import jax

    from policyopt import methods
    from policyopt.training import ahead, policies, setup, steps
    from policyopt.training.serving import Serving

    self.jax, self.spec = jax, spec
    self.ahead, self.steps = ahead, steps
    config = make_config(spec)
    made = setup.prepare(config, methods.from_config(config))
    made.close()
    # Nothing ends a response but its length.
    self.setup = made._replace(
        train=task(spec),
        sampler=dataclasses.replace(made.sampler, stop_tokens=()))
    jax.set_mesh(self.setup.mesh)
    key, first = jax.random.split(jax.random.key(config.seed))
    params = policies.first_params(self.setup, first)
    self.count = sum(x.size for x in jax.tree.leaves(params))
    self.draw = steps.make_draw(self.setup)
    self.serve = Serving(
        self.setup.model, self.setup.serving, self.setup.jit)
    if not spec['steps']:
      self.params = jax.block_until_ready(params)
      return
    self.parts = steps.make_parts(self.setup, self.draw, params, self.serve)
    self.state = jax.block_until_ready(policies.init_state(
        self.setup, params, key, donate=self.parts.ref_params is not params))
    self.probe = None

  def step(self, number: int) -> float:
    """One step as the loop of a run makes it; returns its milliseconds."""
    start = time.perf_counter()
    parts = self.parts
    if self.probe is None:
      with self.ahead.compiling(parts, self.state):
        self.probe = parts.sync.probe(self.serve(self.state.params))
    self.state, self.rollout, self.metrics = self.steps.train_step(
        parts, self.state, number)
    self.steps.count_tokens(self.setup, self.rollout)
    _, self.probe = parts.sync.compare(
        self.state.params, self.serve(self.state.params), self.probe)
    self.jax.block_until_ready((self.state, self.metrics, self.probe))
    return 1e3 * (time.perf_counter() - start)

  def generation(self):
    """The sampler alone; a function that draws one batch."""
    import numpy as np
    spec, jax = self.spec, self.jax
    params = self.state.params if spec['steps'] else self.params
    prompts = self.setup.train.reset(np.arange(spec['prompts']))
    rows = np.arange(spec['prompts'] * spec['samples'], dtype=np.int32)
    limits = np.asarray(common.lengths(spec), np.int32)

    def generate():
      # The copy in the sampler's dtype is made once a step: part of its cost.
      self.serve.release()
      draw = self.draw(self.serve(params), spec['samples'])
      self.drawn = jax.block_until_ready(
          draw.apply(prompts, rows, jax.random.key(3), limits))
    return generate

  def update(self):
    """All that follows sampling: scores, credit, update."""
    from policyopt.rollouts.lengths import trim
    learner, jax, parts = self.parts.learner, self.jax, self.parts
    rollout = trim(self.rollout, self.setup.batching.buckets)

    def update():
      state = self.state
      scored = learner.score(state.params, parts.ref_params, rollout)
      scored = learner.inform(state.opt_state, 0., scored)
      credit, credit_state, _ = learner.credit(state.credit_state, scored)
      self.state, _ = jax.block_until_ready(learner.update(
          state._replace(credit_state=credit_state), credit,
          jax.random.key(4)))
    return update


def measure(spec, clock):
  import jax

  import policyopt.training.loop  # noqa: F401
  compiled = common.watch_compiles(jax)
  clock.lap('imports')
  run = Run(spec)
  clock.lap('build')
  result = dict(parameters=run.count)
  if spec['steps']:
    run.step(0)
    clock.lap('first_step')
    # With a cache of programs that holds them these are times of reading.
    result['compile_s'] = sum(compiled)
    result['step_ms'] = [run.step(1 + i) for i in range(spec['steps'])]
    # With what was compiled after the first step, which should be nothing.
    result['late_compile_s'] = sum(compiled) - result['compile_s']
    result['peak_mb'] = common.peak_mb()
  if spec['calls']:
    result['generate_ms'] = common.times(run.generation(), spec['calls'])
    lengths = run.drawn.length
    assert int(lengths.sum()) == sum(common.lengths(spec)), lengths
    result.setdefault('peak_mb', common.peak_mb())
  if spec['steps'] and spec['calls']:
    result['update_ms'] = common.times(run.update(), spec['steps'])
  result['versions'] = common.versions('policyopt', 'jax')
  return result


if __name__ == '__main__':
  large_pages.restart()  # As `experiments/train.py` does.
  common.run(measure)
