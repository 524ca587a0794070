"""What a first step needs is compiled before it, and nothing else is."""

import contextlib
import functools

import jax
import numpy as np
import pytest

from policyopt import methods
from policyopt.models import partitioning
from policyopt.training import ahead, policies, setup, steps
from policyopt.training.serving import Serving
from policyopt.types import Scores
from tests.training.test_profile import make_config

# Each way that a step is given something else.
CASES = {
    'score': {},
    'current': {'method_kw.beta': 0.},
    'shared prompts': {
        'method_kw.beta': 0., 'batching.share_prompts': True},
    'minibatches': {'batching.minibatches': 2, 'batching.microbatches': 2},
    'copy': {'rollout.dtype': 'bfloat16'},
    'chunks': {'rollout.chunks': 2},
    'slots': {'sampler.slots': 4},
    'kept tokens': {'sampler.top_k': 3},
    'rounds': {'method': 'dapo', 'method_kw': {'rounds': 2}},
    'greedy': {'method': 'remax', 'method_kw': {}},
    'heat': {'method': 'hapo', 'method_kw': {'tau': 0.1}},
    'values': {'method': 'ppo', 'method_kw': {}},
    'adapter': {'model.kw.lora_rank': 2, 'model.kw.lora_alpha': 4.},
    'turns': {'task': 'gridworld', 'task_kw': {'side': 3, 'turns': 2},
              'model.kw.max_length': 256, 'sampler.max_tokens': 64,
              'warm_start.steps': 0},
    'progress': {'method': 'd3s', 'method_kw': {}},
    'a mesh of its own': {
        'mesh.fsdp': 4, 'rollout.mesh': {'fsdp': 2, 'tensor': 2}, 'prompts': 8},
    'a mesh': {'mesh.data': 2, 'mesh.fsdp': 2, 'prompts': 8},
}
FAST = 'score', 'shared prompts', 'copy', 'a mesh'
LARGE = {'jit(sample)', 'jit(score)', 'jit(update)'}


def judge(problem, responses):
  odd = responses.tokens.sum(axis=1) % 2
  return Scores({'odd': odd.astype(np.float32)}, np.zeros_like(problem))


@contextlib.contextmanager
def compiled():
  """Names of the programs that are compiled in the block."""
  names = []

  def listen(event, duration, fun_name=None, **_):
    del duration
    if event == '/jax/core/compile/backend_compile_duration':
      names.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield names
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def started(**changes):
  """(parts, state) of a run before its first step."""
  config = make_config()
  for name in 'method_kw', 'task_kw':
    if name in changes:
      config[name] = changes.pop(name)
  config.update_from_flattened_dict(changes)
  devices = jax.devices()[:4 if 'mesh.fsdp' in changes else 1]
  make_mesh = functools.partial(partitioning.make_mesh, devices=devices)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(partitioning, 'make_mesh', lambda shape, _: make_mesh(shape))
    made = setup.prepare(config, methods.from_config(config))
  # A judge without a program of its own, which could be taken for ours.
  made = made._replace(train=made.train._replace(score=judge))
  jax.clear_caches()
  try:
    with jax.set_mesh(made.mesh):
      params = policies.first_params(made, jax.random.key(0))
      serve = Serving(made.model, made.serving, made.jit)
      parts = steps.make_parts(made, steps.make_draw(made), params, serve)
      yield parts, policies.init_state(made, params, jax.random.key(1))
  finally:
    made.close()


def first_step(parts, state):
  state, rollout, metrics = steps.train_step(parts, state, 0)
  return jax.tree.map(np.asarray, (state.params, rollout, metrics))


@pytest.mark.usefixtures('quick_compiles')
@pytest.mark.parametrize('changes', [
    pytest.param(changes, id=name, marks=[] if name in FAST else [
        pytest.mark.slow]) for name, changes in CASES.items()])
def test_the_step_compiles_nothing_large(changes):
  with started(**changes) as (parts, state):
    with compiled() as before, ahead.compiling(parts, state):
      pass
    with compiled() as during:
      first_step(parts, state)
  large = LARGE.intersection(before)
  assert {'jit(sample)', 'jit(update)'} <= large
  assert not LARGE.intersection(during)
  # Each of them once, and the greedy sampler beside the other.
  for name in large:
    assert before.count(name) == 1 + (
        name == 'jit(sample)' and changes.get('method') == 'remax')


@pytest.mark.usefixtures('quick_compiles')
@pytest.mark.parametrize('changes', [{}, CASES['heat']], ids=['grpo', 'heat'])
def test_it_changes_nothing(changes):
  found = []
  for begin in ahead.compiling, lambda *_: contextlib.nullcontext():
    with started(**changes) as (parts, state):
      with begin(parts, state):
        pass
      found.append(first_step(parts, state))
  jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize('changes', [
    {'batching.packed': True}, {'batching.buckets': 2}])
def test_what_the_rows_decide_is_not_guessed(changes):
  with started(**changes) as (parts, state):
    with compiled() as before, ahead.compiling(parts, state):
      pass
  assert not before


@pytest.mark.usefixtures('quick_compiles')
def test_the_copy_of_the_weights_is_made_once():
  made = []
  with started(**CASES['copy']) as (parts, state):
    make = parts.serve._make
    parts.serve._make = lambda params: made.append(None) or make(params)
    with ahead.compiling(parts, state):
      parts.serve(state.params)
  assert len(made) == 1


def test_a_learner_of_someone_else():
  with started() as (parts, state):
    mine = parts.learner._replace(update=lambda state, *_, **__: (state, {}))
    with compiled() as before:
      with ahead.compiling(parts._replace(learner=mine), state):
        pass
  assert not before


def test_a_run_that_is_at_its_end():
  with started() as (parts, state), compiled() as before:
    with ahead.compiling(parts, state, needed=False):
      pass
  assert not before


def test_a_task_that_judges_no_blank_row():
  def score(problem, responses):
    raise ValueError('who has sampled this?')
  with started() as (parts, state):
    train = parts.setup.train._replace(score=score)
    parts = parts._replace(setup=parts.setup._replace(train=train))
    with compiled() as before, ahead.compiling(parts, state):
      pass
  assert not LARGE.intersection(before)


def test_what_cannot_be_compiled_is_said_before_the_step():
  class Failing:
    def compile(self):
      raise RuntimeError('out of memory')

  def update(*args):
    raise AssertionError('it is not called')

  update.lower = lambda *args: Failing()
  with started() as (parts, state):
    parts = parts._replace(learner=parts.learner._replace(update=update))
    with pytest.raises(RuntimeError, match='out of memory'):
      with ahead.compiling(parts, state):
        pass


@pytest.mark.usefixtures('quick_compiles')
def test_kept_programs_are_begun_once(tmp_path):
  """The first run compiles them here, the second one finds them."""
  large = []
  for _ in range(2):
    with started(programs=str(tmp_path)) as (parts, state):
      with compiled() as before, ahead.compiling(parts, state):
        pass
      with compiled() as during:
        first_step(parts, state)
    large.append([LARGE.intersection(names) for names in (before, during)])
  assert large == [[LARGE, set()], [set(), set()]]
