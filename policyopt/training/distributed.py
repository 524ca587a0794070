"""Several processes: found in the environment, joined, and ended together.

Exit codes of a process: 0 done, 1 an error (its own, or that of another
process, which is quoted), 75 preempted and saved, 76 another process was lost.
After 75 and 76 the same command goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import importlib.util
import os
import socket
import time
from typing import NamedTuple

import jax

from policyopt.training.errors import PreemptedError
from policyopt.training.watch import HEARTBEAT, Watch, abort, unreachable


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
  watch = Watch(place.coordinator)
  try:
    yield
  except BaseException as error:
    status = watch.tell(error)
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
  abort.explain = lambda: (
      f'the processes of the run did not all meet{where} within {timeout} s; '
      'start all of them, with the same coordinator and num_processes', 1)
  abort.install()
  try:
    jax.distributed.initialize(
        place.coordinator, place.num_processes, place.process_id,
        cluster_detection_method=place.method,
        initialization_timeout=max(1, int(deadline - time.monotonic())),
        heartbeat_timeout_seconds=HEARTBEAT)
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
    problem = unreachable(place.coordinator)
    if problem is None:
      return
    time.sleep(.5)
  raise ValueError(
      f'coordinator {place.coordinator} was not reached within '
      f'{deadline - begin:.0f} s ({problem}); is process 0 running, and is the '
      'port open between the hosts?')
