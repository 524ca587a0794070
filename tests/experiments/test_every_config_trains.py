"""Methods with a state, and those of papers on advantages, train and resume.

In this process, at the smallest size; what a kill does is tested elsewhere.
"""

import importlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from policyopt import methods
from policyopt.training import loop
from policyopt.training.credit import init_credit
from tests.methods.table import TABLE

ROOT = pathlib.Path(__file__).parents[2]
STEPS, STOP = 6, 4
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('one_device')]


class Stopped(Exception):
  """Stands for whatever ends a run in the middle of a step."""


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
  """A resumed run finds what the first one has compiled."""
  changes = {
      'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('cache')),
      'jax_persistent_cache_min_compile_time_secs': 0.,
      'jax_persistent_cache_min_entry_size_bytes': -1,
      'jax_disable_most_optimizations': True}
  before = {name: jax.config.values[name] for name in changes}
  for name, value in changes.items():
    jax.config.update(name, value)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def small(name):
  """The config at a size that trains in seconds."""
  config = importlib.import_module(f'configs.{name}').get_config('')
  config.task, config.tokenizer = 'arithmetic', 'byte'
  config.task_kw = dict(digits=1, operators=('-',))
  config.model.preset = 'nano'
  config.model.kw.update(
      width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
      mlp_width=32)
  config.warm_start.update(steps=120, examples=64, rows=16, length=32)
  config.warm_start.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.sampler.max_tokens = 4
  config.batching.microbatches = 1
  config.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.update(prompts=8, samples=4, steps=STEPS, checkpoint_every=STOP)
  config.evaluation.update(problems=16, samples=4, every=0)
  return config


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory):
  """Trains; what is learned before the method begins is learned once."""
  known = {}

  def run(name, workdir):
    config = small(name)
    kind = config.model.to_json(), config.warm_start.to_json()
    if kind in known and not workdir.exists():
      shutil.copytree(known[kind], workdir / 'warm_start')
    result = loop.train(config, methods.from_config(config), str(workdir))
    if kind not in known:
      known[kind] = tmp_path_factory.mktemp('known') / 'warm_start'
      shutil.copytree(workdir / 'warm_start', known[kind])
    return result
  return run


def _keeps_or_changes(name):
  """Whether the method has a state, or is one that changes the advantages."""
  state = init_credit(methods.from_config(small(name)))
  folder = methods.folder(small(name).method)
  return folder == 'advantages' or bool(jax.tree.leaves(state))


NAMES = sorted(filter(_keeps_or_changes, (
    path.stem for path in (ROOT / 'configs').glob('*.py')
    if path.stem not in ('common', '__init__'))))


@pytest.mark.parametrize('name', NAMES)
def test_a_config(name, run, tmp_path, monkeypatch, outcome):
  whole = tmp_path / 'whole'
  result = run(name, whole)
  # There is something to learn from.
  assert 0.05 < result['pass1_before'] < .95
  rows = [json.loads(line)
          for line in (whole / 'metrics.jsonl').read_text().splitlines()]
  assert len(rows) == STEPS
  row = next(row for row in TABLE if row['name'] == small(name).method)
  for reported in rows:
    assert np.isfinite(list(reported.values())).all()
  # A mean over nothing is not written.
  assert set(row.get('diagnostics', ())) <= set().union(*rows)
  _cut_and_resume(run, name, tmp_path / 'cut', monkeypatch)
  assert outcome(tmp_path / 'cut', STEPS) == outcome(whole, STEPS)


def _cut_and_resume(run, name, workdir, monkeypatch):
  step = loop.train_step

  def stopping(parts, state, number):
    if number == STOP:
      raise Stopped
    return step(parts, state, number)

  with monkeypatch.context() as patch:
    patch.setattr(loop, 'train_step', stopping)
    with pytest.raises(Stopped):
      run(name, workdir)
  run(name, workdir)
