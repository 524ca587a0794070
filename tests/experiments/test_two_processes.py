"""Two processes with four devices each do what one with eight does."""

import json
import pathlib
import re
import shutil
import signal
import socket
import time
import warnings

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
import pytest

pytestmark = pytest.mark.slow
# Long enough for a machine that is busy with other things.
PATIENCE = 400.
CLOSE = 1e-5


class Pair:
  """Two runs of train.py that work together, and what they print."""

  def __init__(self, runs, workdir, *arguments):
    self.workdir = workdir
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      port = probe.getsockname()[1]
    self.logs = [workdir.parent / f'{workdir.name}-{i}.log' for i in range(2)]
    self.processes = [
        runs.start(
            log, 4, *arguments, f'--workdir={workdir}',
            f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
            f'--process_id={i}', '--join_timeout=120')
        for i, log in enumerate(self.logs)]

  def wait(self, seconds=PATIENCE):
    """The exit codes."""
    deadline = time.monotonic() + seconds
    try:
      return [process.wait(max(.1, deadline - time.monotonic()))
              for process in self.processes]
    finally:
      for process in self.processes:
        process.kill()

  def until(self, rows):
    """Returns when that many steps are in metrics.jsonl."""
    path = self.workdir / 'metrics.jsonl'
    deadline = time.monotonic() + PATIENCE
    while not path.exists() or path.read_bytes().count(b'\n') < rows:
      assert all(process.poll() is None for process in self.processes), (
          self.said())
      assert time.monotonic() < deadline, self.said()
      time.sleep(.05)

  def said(self):
    """What both have printed."""
    return '\n'.join(log.read_text() for log in self.logs)


def alone(runs, workdir, devices, *arguments):
  """One process with so many devices, to its end."""
  log = workdir.parent / f'{workdir.name}-{devices}.log'
  process = runs.start(log, devices, *arguments, f'--workdir={workdir}')
  try:
    assert process.wait(PATIENCE) == 0, log.read_text()
  finally:
    process.kill()


@pytest.fixture(scope='module', params=['grpo', 'dapo'])
def config(request, runs):
  """The small config; DAPO samples anew and overlong responses cost.

  Its sampler has a mesh of its own, so its weights change processes each step.
  """
  path = runs.folder / f'two_{request.param}.py'
  method = '' if request.param == 'grpo' else (
      "  config.method = 'dapo'\n"
      '  config.method_kw.update(rounds=2, max_length=4, buffer=2)\n'
      '  config.rollout.mesh.tensor = 2\n')
  # Where a gradient is nothing but rounding, Adam makes a whole step of it; not
  # with such an eps, and not where rewards differ from the first step on. Long
  # steps would let what differs by rounding grow.
  text = runs.config.read_text().replace(
      'steps=20, examples', 'steps=60, examples').replace(
          '  return common', '  config.optimizer.kw.update(eps=1e-3)\n'
          '  config.optimizer.learning_rate = 1e-3\n  return common')
  path.write_text(text.replace('  return common', f'{method}  return common'))
  return f'--config={path}'


@pytest.fixture(scope='module')
def together(runs, config):
  """The finished run of two processes."""
  workdir = runs.folder / f'pair-{pathlib.Path(config).stem}' / 'run'
  pair = Pair(runs, workdir, config)
  assert pair.wait() == [0, 0], pair.said()
  return workdir, pair


def assert_same_run(workdir, other, step=6):
  """Rewards, metrics and parameters agree; samples are the same text."""
  assert (workdir / 'samples.jsonl').read_text() == (
      other / 'samples.jsonl').read_text()
  rows, others = (
      [json.loads(line)
       for line in (path / 'metrics.jsonl').read_text().splitlines()]
      for path in (workdir, other))
  assert len(rows) == len(others) == step
  assert any(row['grad_norm'] > 0 for row in rows)
  for row, wanted in zip(rows, others):
    assert row == pytest.approx(wanted, rel=1e-3, abs=CLOSE)
    assert row['reward'] == pytest.approx(wanted['reward'], abs=CLOSE)
  for path in (workdir / 'evaluations').glob('*.npz'):
    with np.load(path) as found, np.load(
        other / 'evaluations' / path.name) as wanted:
      for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def assert_same_state(workdir, alone, step=6):
  """Parameters, moments, and what the method and its planner keep.

  A checkpoint of several processes names devices that are not here; that of
  one process tells the shapes.
  """
  path = pathlib.Path('checkpoints', f'{step:08d}')
  with warnings.catch_warnings():
    # That it takes the layout from the file is what is wanted here.
    warnings.filterwarnings('ignore', 'Sharding info not provided')
    wanted = ocp.load(alone / path)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  found = ocp.load(workdir / path, jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted))
  for (name, a), b in zip(jax.tree_util.tree_leaves_with_path(found),
                          jax.tree.leaves(wanted), strict=True):
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_allclose(
        np.asarray(a), np.asarray(b), atol=CLOSE, rtol=0,
        err_msg=jax.tree_util.keystr(name))


@pytest.fixture(scope='module')
def single(runs, config):
  """The same run by one process."""
  workdir = runs.folder / f'single-{pathlib.Path(config).stem}'
  alone(runs, workdir, 8, config)
  return workdir


def test_the_same_run(together, single):
  workdir, pair = together
  assert_same_run(workdir, single)
  assert_same_state(workdir, single)
  # Process 0 reports, the other one is silent.
  first, second = (log.read_text() for log in pair.logs)
  assert json.loads(first.splitlines()[-1])['workdir'] == str(workdir)
  assert 'held-out' in first and 'held-out' not in second


@pytest.mark.parametrize('devices, mesh', [
    (4, ()), (2, ('--config.mesh.fsdp=2',)), (1, ())])
def test_a_checkpoint_goes_to_other_devices(
    runs, config, together, tmp_path, devices, mesh):
  if 'dapo' in config:
    pytest.skip('one method is enough: a state is a state')
  workdir, _ = together
  run = tmp_path / 'run'
  shutil.copytree(workdir, run)
  # As it stood after step 3.
  shutil.rmtree(run / 'checkpoints' / '00000006')
  clock = json.loads((run / 'clock.json').read_text())
  (run / 'clock.json').write_text(json.dumps({**clock, 'checkpoint': 3}))
  (run / 'evaluations' / 'step-6.npz').unlink()
  alone(runs, run, devices, config, *mesh)
  assert_same_run(run, workdir)


def test_a_signal_to_one_process(runs, config, single, tmp_path):
  if 'grpo' in config:
    pytest.skip('the method with more to save is enough')
  pair = Pair(runs, tmp_path / 'run', config)
  pair.until(2)
  pair.processes[1].send_signal(signal.SIGTERM)
  assert pair.wait() == [75, 75], pair.said()
  saved = re.findall(r'saved after step (\d) of 6', pair.said())
  assert len(saved) == 2 and saved[0] == saved[1]
  assert (tmp_path / 'run' / 'checkpoints' / f'{int(saved[0]):08d}').is_dir()
  again = Pair(runs, tmp_path / 'run', config)
  assert again.wait() == [0, 0], again.said()
  assert_same_run(tmp_path / 'run', single)
  assert_same_state(tmp_path / 'run', single)


@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_is_killed(runs, config, tmp_path, victim):
  if 'dapo' in config:
    pytest.skip('one method is enough: nothing of it is at work')
  pair = Pair(runs, tmp_path / 'run', config, '--config.steps=500')
  pair.until(1)
  pair.processes[victim].kill()
  codes = pair.wait(60)
  assert codes[victim] == -signal.SIGKILL
  assert codes[1 - victim] == 76, pair.said()
  said = pair.logs[1 - victim].read_text()
  assert re.search(rf'error: process {victim} \(.*it has died, or its', said)


def test_an_error_in_one_process_ends_both(runs, config, tmp_path):
  if 'dapo' in config:
    pytest.skip('one method is enough: nothing of it is at work')
  # Only one of the two is asked for more steps than the batch divides into.
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  processes = [
      runs.start(tmp_path / f'{i}.log', 4, config, f'--workdir={tmp_path}/run',
                 f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
                 f'--process_id={i}', f'--config.prompts={(8, 7)[i]}')
      for i in range(2)]
  try:
    assert [process.wait(120) for process in processes] == [1, 1]
  finally:
    for process in processes:
      process.kill()
  first, second = ((tmp_path / f'{i}.log').read_text() for i in range(2))
  assert 'error: prompts x samples is 28 rows' in second
  assert 'process 1 has ended: error: prompts x samples is 28 rows' in first
