"""Several processes: where they are found, and what is said when they part."""

import os
import socket
import subprocess
import sys
import time

import jax
import pytest

from policyopt.training import distributed, watch

SLURM = {'SLURM_NTASKS': '4', 'SLURM_PROCID': '2',
         'SLURM_STEP_NODELIST': 'node[1-4]'}


@pytest.mark.parametrize('environment, method', [
    ({}, None), (SLURM, 'slurm'), ({**SLURM, 'SLURM_NTASKS': '1'}, None),
    # The batch script itself, outside srun.
    ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, None),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, 'ompi'),
    ({'JAX_PLATFORMS': 'cpu', 'TPU_WORKER_HOSTNAMES': 'a,b'}, None)])
def test_clusters(environment, method):
  place = distributed.find(environment=environment)
  assert (place and place.method) == method


@pytest.mark.parametrize('environment, method', [
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'gketpu'),
    ({'TPU_WORKER_HOSTNAMES': 'a'}, None),
    ({'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '2'}, 'gketpu'),
    ({'TPU_SKIP_MDS_QUERY': '1'}, None), ({}, 'gcetpu')])
def test_tpu_hosts(environment, method, monkeypatch):
  monkeypatch.setattr(
      distributed.importlib.util, 'find_spec', lambda name: object())
  place = distributed.find(environment=environment)
  assert (place and place.method) == method


def test_flags_come_before_the_environment():
  place = distributed.find('host:1234', 2, 1, environment=SLURM)
  assert place == distributed.Place('deactivate', 'host:1234', 2, 1)
  variables = {'JAX_COORDINATOR_ADDRESS': 'other:1', 'JAX_NUM_PROCESSES': '3',
               'JAX_PROCESS_ID': '0'}
  place = distributed.find(environment={**SLURM, **variables})
  assert place == distributed.Place('deactivate', 'other:1', 3, 0)
  assert distributed.find('host:1234', 1, 0) is None


@pytest.mark.parametrize('arguments, message', [
    (('host:1234', 2, None), 'process_id is missing; coordinator, num_proc'),
    ((None, None, 0), 'coordinator is missing'),
    (('host', 2, 0), "coordinator is 'host'; it must be HOST:PORT"),
    (('host:99999', 2, 0), "coordinator is 'host:99999'"),
    (('host:1', 0, 0), 'num_processes is 0; it must be 1 or more'),
    (('host:1', 2, 2), r'process_id is 2; .* must be in \[0, 1\]')])
def test_wrong_flags(arguments, message):
  with pytest.raises(ValueError, match=message):
    distributed.find(*arguments, environment={})


def test_a_variable_that_is_no_number():
  with pytest.raises(ValueError, match="JAX_PROCESS_ID is 'x'; it must be a"):
    distributed.find(environment={
        'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': 'x'})


@pytest.fixture
def port():
  """A port that nobody listens on."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def test_a_coordinator_that_is_not_there(port):
  place = distributed.Place('deactivate', f'127.0.0.1:{port}', 2, 1)
  with pytest.raises(ValueError, match=(
      f'coordinator 127.0.0.1:{port} was not reached within 1 s .*refused')):
    with distributed.session(place, timeout=1):
      pass
  assert not jax.distributed.is_initialized()


def test_a_port_that_is_taken():
  with socket.socket() as other:
    other.bind(('', 0))
    other.listen()
    port = other.getsockname()[1]
    place = distributed.Place('deactivate', f'127.0.0.1:{port}', 2, 0)
    with pytest.raises(ValueError, match=f'cannot listen on port {port}'):
      with distributed.session(place, timeout=1):
        pass


def test_alone():
  with distributed.session(None):
    assert not jax.distributed.is_initialized()


class Store:
  """The key-value store of the coordination service, without a service."""

  def __init__(self):
    self.values, self.broken = {}, False

  def key_value_set(self, key, value, allow_overwrite=False):
    if self.broken:
      raise RuntimeError('socket closed')
    assert allow_overwrite or key not in self.values
    self.values[key] = value

  def key_value_dir_get(self, folder):
    return [pair for pair in self.values.items()
            if pair[0].startswith(f'{folder}/')]



@pytest.fixture
def watching(monkeypatch):
  """`watching(me, count)`: a watch whose clock runs fast, and its store."""
  monkeypatch.setattr(watch, 'LOOK', .02)
  monkeypatch.setattr(watch, 'SILENCE', .3)
  started = []

  def start(me, count):
    monkeypatch.setattr(jax, 'process_index', lambda: me)
    monkeypatch.setattr(jax, 'process_count', lambda: count)
    store, ends = Store(), []

    class Watched(watch.Watch):
      def _end(self, status):
        ends.append(status)
        self._stop.set()

    made = Watched('127.0.0.1:1', store)
    started.append(made)
    return made, store, ends

  yield start
  for made in started:
    made._stop.set()
    made._thread.join()
  watch.abort.explain = lambda: None


def test_a_silent_process_is_lost(watching, capsys):
  made, store, ends = watching(0, 3)
  deadline = time.monotonic() + 10
  beat = 0
  while not ends and time.monotonic() < deadline:
    beat += 1
    store.values['policyopt/alive/1'] = f'{beat} first-host'
    store.values['policyopt/alive/2'] = '7 second-host'
    time.sleep(.01)
  made._thread.join()
  assert ends[0] == watch.LOST
  said = capsys.readouterr().err
  assert 'process 2 (second-host) gave no sign of life' in said
  assert 'exit code 76' in said and 'process 1' not in said


def test_processes_that_are_done_may_be_silent(watching):
  made, store, ends = watching(0, 2)
  store.values['policyopt/alive/1'] = 'done'
  time.sleep(1.)
  assert not ends and made._thread.is_alive()


def test_an_error_elsewhere_is_quoted(watching, capsys):
  made, store, ends = watching(1, 2)
  store.values['policyopt/ended/0'] = 'error: prompts is 0'
  made._thread.join(10)
  assert ends == [1]
  assert 'process 0 has ended: error: prompts is 0' in capsys.readouterr().err


def test_a_coordinator_that_has_gone(watching, capsys):
  made, store, ends = watching(1, 2)
  store.broken = True
  deadline = time.monotonic() + 10
  while not ends and time.monotonic() < deadline:
    time.sleep(.01)
  assert ends[0] == watch.LOST
  said = capsys.readouterr().err
  assert 'process 0 (coordinator 127.0.0.1:1) does not answer' in said


@pytest.mark.parametrize('error, status, told', [
    (SystemExit('error: no'), 1, 'error: no'), (SystemExit(75), 75, None),
    (KeyError('x'), 1, "KeyError: 'x'")])
def test_what_the_others_are_told(watching, error, status, told):
  made, store, _ = watching(1, 2)
  assert made.tell(error) == status
  assert store.values.get('policyopt/ended/1') == told


def test_an_abort_of_jaxlib_is_explained():
  # In a process of its own, which abort() ends in one way or the other.
  program = (
      'import ctypes, sys\n'
      'from policyopt.training import watch\n'
      'watch.abort.install()\n'
      'if len(sys.argv) > 1:\n'
      "  watch.abort.explain = lambda: ('process 0 has died', 76)\n"
      'ctypes.CDLL(None).abort()')

  def run(*arguments):
    return subprocess.run(
        [sys.executable, '-c', program, *arguments], capture_output=True,
        text=True, check=False, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  explained = run('explained')
  assert explained.returncode == 76
  assert explained.stderr.strip() == 'error: process 0 has died'
  assert run().returncode == -6
