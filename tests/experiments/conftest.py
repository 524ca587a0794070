"""Real runs of the scripts: very small, and killed at will."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

from absl import flags
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
import pytest

from policyopt.training import errors

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 6
# Long enough for a machine that is busy with other things.
PATIENCE = 400.

# Learning rates so high that every update shows in every later sample.
SMALL = '''
"""The smallest run that does everything that a run does."""

from configs import common


def get_config(arg=''):
  config = common.base('quick')
  config.task = 'arithmetic'
  config.task_kw = dict(digits=1)
  config.model.kw = dict(width=16, num_layers=1, num_heads=2, num_kv_heads=1,
                         head_dim=8, mlp_width=32)
  config.warm_start.update(steps=20, examples=32, rows=8, length=32)
  config.warm_start.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.sampler.max_tokens = 4
  config.batching.microbatches = 1
  config.optimizer.update(learning_rate=1e-2, warmup_steps=0)
  config.update(prompts=8, samples=4, steps=6, checkpoint_every=3)
  config.evaluation.update(problems=16, samples=4, every=2)
  return common.adjust(config, arg)
'''


def _verifiers_of(pid):
  """The verifier processes that a run has started, on Linux."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    try:
      words = path.read_bytes().rstrip(b'\0').split(b'\0')
    except OSError:
      continue  # It has just ended.
    if words[-1] == str(pid).encode() and any(
        word.endswith(b'worker.py') for word in words):
      found.append(path.parent.name)
  return found


class Runs:
  """Starts scripts as a user would; their compiled programs are shared."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.config = folder / 'small.py'
    self.config.write_text(SMALL)
    self._environment = {
        **os.environ, 'JAX_PLATFORMS': 'cpu',
        'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        # Cold starts take half as long.
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'}

  def script(self, name, *arguments):
    """Runs experiments/`name`.py to its end."""
    return subprocess.run(
        self._command(name, *arguments), env=self._environment, cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=PATIENCE)

  def train(self, workdir, *arguments):
    """Runs, or resumes, to the end."""
    done = self.script(
        'train', f'--config={self.config}', f'--workdir={workdir}', *arguments)
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr
    return done

  def train_and_kill(self, workdir, killed, *arguments):
    """Runs until `killed(elapsed seconds)` is true, then SIGKILL.

    Returns:
      False when the run ended before that.
    """
    with open(self.folder / 'killed.log', 'a+') as log:
      process = subprocess.Popen(
          self._command('train', f'--config={self.config}',
                        f'--workdir={workdir}', *arguments),
          env=self._environment, cwd=ROOT, stdin=subprocess.DEVNULL,
          stdout=log, stderr=log)
      begin = time.monotonic()
      try:
        while process.poll() is None and not killed(time.monotonic() - begin):
          assert time.monotonic() - begin < PATIENCE, 'never came to the kill'
          time.sleep(.001)
      finally:
        process.kill()
      status = process.wait()
      log.seek(0)
      assert status in (0, -signal.SIGKILL), log.read()
    deadline = time.monotonic() + 30.
    while _verifiers_of(process.pid):
      assert time.monotonic() < deadline, 'verifiers have outlived their run'
      time.sleep(.1)
    return status != 0

  def start(self, log, devices, *arguments):
    """Starts train.py with so many CPU devices; its output goes to `log`."""
    with open(log, 'w') as file:
      return subprocess.Popen(
          self._command('train', *arguments),
          env={**self._environment, 'JAX_NUM_CPU_DEVICES': str(devices)},
          cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

  def _command(self, name, *arguments):
    return [sys.executable, str(ROOT / 'experiments' / f'{name}.py'),
            *map(str, arguments)]


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
  """Starts scripts on a very small config."""
  return Runs(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='session')
def reference(runs):
  """The folder of an uninterrupted run, and what it printed."""
  workdir = runs.folder / 'reference'
  return workdir, runs.train(workdir)


@pytest.fixture(scope='session')
def outcome():
  """Everything that two runs of the same config must agree on, bit for bit."""
  def load(workdir, step=STEPS):
    found = {name: (workdir / name).read_bytes() for name in (
        'metrics.jsonl', 'samples.jsonl', 'warm_start/metrics.jsonl')}
    for path in sorted((workdir / 'evaluations').glob('*.npz')):
      with np.load(path) as arrays:
        for name in arrays:
          found[f'{path.stem}/{name}'] = arrays[name].tobytes()
    with warnings.catch_warnings():
      # That it takes the layout from the file is what is wanted here.
      warnings.filterwarnings('ignore', 'Sharding info not provided')
      state = ocp.load(workdir / 'checkpoints' / f'{step:08d}')
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      found[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found
  return load


@pytest.fixture
def script(monkeypatch):
  """`script('train')` is the module; its flags are gone after the test."""
  before = set(flags.FLAGS)

  def clear():
    for name in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()

  def load(name):
    clear()
    path = ROOT / 'experiments' / f'{name}.py'
    monkeypatch.setattr(sys, 'path', [*sys.path])
    spec = importlib.util.spec_from_file_location(f'script_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

  yield load
  clear()


@pytest.fixture
def message(script, monkeypatch):
  """What a script says when it ends with an error, called in this process."""
  monkeypatch.delenv('POLICYOPT_TRACEBACK', raising=False)

  def call(name, *arguments):
    module = script(name)
    argv = [f'{name}.py', *map(str, arguments)]
    monkeypatch.setattr(sys, 'argv', argv)
    with (warnings.catch_warnings(), pytest.raises(SystemExit) as caught,
          errors.in_one_line()):
      # How ml_collections imports a config program.
      warnings.filterwarnings('ignore', '.*load_module', DeprecationWarning)
      module.main(errors.parse_flags(argv))
    # A text, which Python prints on stderr before it exits with status 1.
    text = caught.value.code
    assert isinstance(text, str) and text.startswith('error: ')
    assert '\n' not in text
    return text
  return call
