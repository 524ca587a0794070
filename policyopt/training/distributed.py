"""Several processes: found in the environment, joined, and ended together.

JAX itself ends a process when another one is lost, but by abort(), after up to
100 seconds, and in words for its own developers. Here a thread of each process
watches the others through the coordination service that JAX runs anyway, and
says which one is missing.

Exit codes of a process: 0 done, 1 an error (its own, or that of another
process, which is quoted), 75 preempted and saved, 76 another process was lost.
After 75 and 76 the same command goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import ctypes
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
import traceback
from typing import NamedTuple

import jax

from policyopt.training.errors import PreemptedError

LOST = 76
# Seconds: between two looks at the others, and without a sign of life until a
# process counts as lost. JAX's own limit comes after that.
_LOOK, _SILENCE, _HEARTBEAT = 2., 25., 50
_ALIVE, _ENDED = 'policyopt/alive', 'policyopt/ended'
_DONE = 'done'


class Place(NamedTuple):
  """Where a process finds the others.

  Attributes:
    method: name of the cluster that JAX asks for the rest, or 'deactivate'.
    coordinator: 'host:port' of process 0, or None for the cluster's answer.
    num_processes: how many there are, or None.
    process_id: which one this is, or None.
  """
  method: str
  coordinator: str | None = None
  num_processes: int | None = None
  process_id: int | None = None


def find(coordinator: str | None = None, num_processes: int | None = None,
         process_id: int | None = None,
         environment: Mapping[str, str] = os.environ) -> Place | None:
  """Where the other processes of this run are, if there are any.

  The three arguments come first, then JAX_COORDINATOR_ADDRESS,
  JAX_NUM_PROCESSES and JAX_PROCESS_ID, then SLURM, Open MPI, and Cloud TPU.

  Args:
    coordinator: 'host:port' of process 0.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    environment: variables of the process.

  Returns:
    Place, or None for a process that is alone.

  Raises:
    ValueError: some of the three are missing or out of range.

  Example:
    >>> find(environment={}) is None
    True
    >>> find('10.0.0.1:1234', 4, 3).process_id
    3
    >>> find(environment={'SLURM_NTASKS': '2', 'SLURM_PROCID': '0',
    ...                   'SLURM_STEP_NODELIST': 'n[1-2]'}).method
    'slurm'
  """
  given = dict(coordinator=coordinator, num_processes=num_processes,
               process_id=process_id)
  if all(value is None for value in given.values()):
    given = _from_variables(environment) or given
  missing = [name for name, value in given.items() if value is None]
  if not missing:
    return _explicit(**given)
  if len(missing) < len(given):
    raise ValueError(
        f'{missing[0]} is missing; coordinator, num_processes and process_id '
        'go together, or none of them where the cluster tells')
  if (int(environment.get('SLURM_NTASKS', 1)) > 1
      and 'SLURM_STEP_NODELIST' in environment
      and 'SLURM_PROCID' in environment):
    return Place('slurm')
  if int(environment.get('OMPI_COMM_WORLD_SIZE', 1)) > 1:
    return Place('ompi')
  return _tpu(environment)


@contextlib.contextmanager
def session(place: Place | None, timeout: int = 300) -> Iterator[None]:
  """Runs the block together with the other processes.

  To be entered before anything else of JAX. When the block fails, the others
  are told why, and this process ends without waiting for them.

  Args:
    place: from `find`; with None this does nothing.
    timeout: seconds until all processes must be there.

  Raises:
    ValueError: the coordinator cannot be reached, or its port is taken.
  """
  if place is None:
    yield
    return
  _join(place, timeout)
  watch = _Watch(place)
  try:
    yield
  except BaseException as error:
    status = _tell(error, watch)
    if status != PreemptedError.exit_code:
      watch.leave(status)
    # All have saved, and all are here.
    watch.close()
    raise
  watch.close()


def _from_variables(environment):
  """The three arguments from JAX's variables, when all three are set."""
  names = dict(coordinator='JAX_COORDINATOR_ADDRESS',
               num_processes='JAX_NUM_PROCESSES', process_id='JAX_PROCESS_ID')
  if not all(name in environment for name in names.values()):
    return None
  found = {key: environment[name] for key, name in names.items()}
  for key in ('num_processes', 'process_id'):
    if not found[key].isdigit():
      raise ValueError(f'{names[key]} is {found[key]!r}; it must be a number')
    found[key] = int(found[key])
  return found


def _explicit(coordinator, num_processes, process_id):
  host, colon, port = coordinator.rpartition(':')
  if not (host and colon and port.isdigit() and 0 < int(port) < 2**16):
    raise ValueError(
        f'coordinator is {coordinator!r}; it must be HOST:PORT of process 0, '
        'such as 10.0.0.1:1234')
  if num_processes < 1:
    raise ValueError(f'num_processes is {num_processes}; it must be 1 or more')
  if not 0 <= process_id < num_processes:
    raise ValueError(
        f'process_id is {process_id}; with num_processes = {num_processes} it '
        f'must be in [0, {num_processes - 1}]')
  if num_processes == 1:
    return None
  return Place('deactivate', coordinator, num_processes, process_id)


def _tpu(environment):
  """On the hosts of a TPU slice, JAX finds the others."""
  platforms = environment.get('JAX_PLATFORMS', 'tpu')
  if 'tpu' not in platforms or importlib.util.find_spec('libtpu') is None:
    return None
  names = (environment.get('TPU_PROCESS_ADDRESSES')
           or environment.get('TPU_WORKER_HOSTNAMES') or '')
  if ',' in names or int(environment.get('MEGASCALE_NUM_SLICES') or 1) > 1:
    return Place('gketpu')
  # Importing JAX sets this variable on machines without TPU chips.
  if names or 'TPU_SKIP_MDS_QUERY' in environment:
    return None
  return Place('gcetpu')


def _join(place: Place, timeout: int):
  """Meets the other processes; ValueError when that cannot be."""
  deadline = time.monotonic() + timeout
  if place.coordinator:
    _check_coordinator(place, deadline)
  # Without it JAX would listen to SIGTERM, and only JAX.
  jax.config.update('jax_enable_preemption_service', False)
  where = f' at {place.coordinator}' if place.coordinator else ''
  _abort.explain = lambda: (
      f'the processes of the run did not all meet{where} within {timeout} s; '
      'start all of them, with the same coordinator and num_processes', 1)
  _abort.install()
  try:
    jax.distributed.initialize(
        place.coordinator, place.num_processes, place.process_id,
        cluster_detection_method=place.method,
        initialization_timeout=max(1, int(deadline - time.monotonic())),
        heartbeat_timeout_seconds=_HEARTBEAT)
  except Exception as error:
    raise ValueError(
        f'the processes of the run did not meet{where}: '
        f'{str(error).splitlines()[0]}') from error
  if jax.device_count() != jax.process_count() * jax.local_device_count():
    raise ValueError(
        f'process {jax.process_index()} has {jax.local_device_count()} of '
        f'{jax.device_count()} devices; all {jax.process_count()} processes '
        'must have as many')


def _check_coordinator(place: Place, deadline: float):
  """A port that is free, or one where process 0 answers."""
  host, _, port = place.coordinator.rpartition(':')
  if place.process_id == 0:
    with socket.socket() as probe:
      # Ports of connections that have just ended count as free.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(('', int(port)))
      except OSError as error:
        raise ValueError(
            f'coordinator is {place.coordinator!r}, but process 0 cannot '
            f'listen on port {port}: {error.strerror}') from error
    return
  begin, problem = time.monotonic(), 'no answer'
  while time.monotonic() < deadline:
    problem = _unreachable(place.coordinator)
    if problem is None:
      return
    time.sleep(.5)
  raise ValueError(
      f'coordinator {place.coordinator} was not reached within '
      f'{deadline - begin:.0f} s ({problem}); is process 0 running, and is the '
      'port open between the hosts?')


def _unreachable(coordinator: str) -> str | None:
  """Why nobody answers there, or None."""
  host, _, port = coordinator.rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), 2.).close()
  except OSError as error:
    return error.strerror or str(error)
  return None


def _tell(error: BaseException, watch: _Watch) -> int:
  """Prints an error and tells the others; the exit status that it means."""
  if isinstance(error, SystemExit):
    if error.code is None or isinstance(error.code, int):
      return error.code or 0
    text = str(error.code)
    print(text, file=sys.stderr, flush=True)
  else:
    text = f'{type(error).__name__}: {error}'.splitlines()[0]
    if isinstance(error, jax.errors.JaxRuntimeError):
      _say(f'{text}. Waiting {_SILENCE + 2 * _LOOK:.0f} s to see whether '
           'another process was lost')
      watch.wait(_SILENCE + 2 * _LOOK)
    traceback.print_exception(error)
  watch.publish(text)
  return 1


class _Watch:
  """A thread that gives signs of life and looks for those of the others."""

  def __init__(self, place: Place):
    # The one way to the store that the coordination service has for us.
    from jax._src import distributed
    state = distributed.global_state
    self._client = state.client
    self._coordinator = place.coordinator or state.coordinator_address
    self._me, self._count = jax.process_index(), jax.process_count()
    self._seen = {}
    self._stop = threading.Event()
    self._thread = threading.Thread(
        target=self._run, name='watch', daemon=True)
    _abort.explain = self._explain_abort
    self._thread.start()

  def close(self):
    """Parts from the others in good order: waits until all are done."""
    self._stop.set()
    self._thread.join()
    self._set(_ALIVE, _DONE)
    _abort.explain = lambda: None
    jax.distributed.shutdown()

  def publish(self, text: str):
    """Tells the others why this process is about to end."""
    self._set(_ENDED, text)

  def wait(self, seconds: float):
    """Gives the thread time to notice that another process was lost."""
    self._stop.wait(seconds)

  def leave(self, status: int):
    """Ends this process without waiting for the others."""
    if self._me == 0:
      # What it published is gone when it goes.
      time.sleep(3 * _LOOK)
    self._end(status)

  def _end(self, status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

  def _set(self, folder, text):
    with contextlib.suppress(Exception):
      self._client.key_value_set(
          f'{folder}/{self._me}', text, allow_overwrite=True)

  def _read(self, folder):
    """Process -> text."""
    found = self._client.key_value_dir_get(folder)
    return {int(key.rsplit('/', 1)[1]): text for key, text in found}

  def _run(self):
    beat = 0
    while True:
      try:
        self._client.key_value_set(
            f'{_ALIVE}/{self._me}', f'{beat} {socket.gethostname()}',
            allow_overwrite=True)
        alive, ended = self._read(_ALIVE), self._read(_ENDED)
      except Exception:
        if self._stop.wait(_LOOK):
          return
        self._lost(0, f'coordinator {self._coordinator}', 'does not answer')
      beat += 1
      ended.pop(self._me, None)
      if ended:
        # An error that all have met is told by each of them.
        if self._stop.wait(_LOOK):
          return
        process, text = min(ended.items())
        _say(f'process {process} has ended: {text}')
        self._end(1)
      self._look(alive)
      if self._stop.wait(_LOOK):
        return

  def _look(self, alive):
    """Ends this process when another one has been silent for too long."""
    now = time.monotonic()
    for process in range(self._count):
      text = alive.get(process, '')
      before, since = self._seen.get(process, (None, now))
      if text != before or text == _DONE or process == self._me:
        self._seen[process] = text, now
      elif now - since > _SILENCE:
        self._lost(process, text.partition(' ')[2] or 'unknown host',
                   f'gave no sign of life for {_SILENCE:.0f} s')

  def _lost(self, process, where, what):
    _say(_lost_line(process, where, what))
    self._end(LOST)

  def _explain_abort(self):
    """Whether the abort of this process is the end of process 0."""
    if self._me and _unreachable(self._coordinator):
      return _lost_line(0, f'coordinator {self._coordinator}',
                        'does not answer'), LOST
    return None


class _Abort:
  """What is said when jaxlib aborts this process for the sake of another.

  The C++ client has no other way to end a process, and no hook: it logs and
  calls abort(). The handler runs in the thread that did.

  Attributes:
    explain: () -> (line, exit status), or None for an abort of another kind.
  """

  def __init__(self):
    self.explain = lambda: None
    self._handler = None

  def install(self):
    if self._handler is not None:
      return
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    library.signal.restype = ctypes.c_void_p

    def handle(_):
      explained = self.explain()
      if explained:
        _say(explained[0])
        os._exit(explained[1])
      # abort() goes on when the handler returns.
      library.signal(signal.SIGABRT, None)

    self._handler = kind(handle)
    library.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))


_abort = _Abort()


def _lost_line(process, where, what):
  return (f'process {process} ({where}) {what}: it has died, or its host or '
          f'network has. This process ends too, with exit code {LOST}; start '
          'all of them again to go on from the last checkpoint')


def _say(line):
  print(f'error: {line}', file=sys.stderr, flush=True)
