"""The folder of a run: one that can be written to, and one for all."""

from __future__ import annotations

import os
import time

import numpy as np

from policyopt.rollouts import hosts


def check_workdir(workdir: str) -> None:
  """Makes the folder of a run, or says in one line why that cannot be.

  Raises:
    ValueError: when it is not a folder that can be written to.
  """
  if not workdir:
    raise ValueError('workdir is empty; it must name a folder for the run')
  try:
    os.makedirs(workdir, exist_ok=True)
    # On a shared file system two processes may have the same id.
    probe = os.path.join(
        workdir, f'.probe-{hosts.process()}-{os.getpid()}')
    with open(probe, 'w'):
      pass
    os.remove(probe)
  except OSError as error:
    raise ValueError(
        f'workdir {workdir!r} cannot be written to ({error.strerror}); name a '
        'folder that can') from error


def check_shared(workdir: str, patience: float = 10.) -> None:
  """Makes sure that all processes write to the same folder. Collective.

  Args:
    workdir: folder of the run.
    patience: seconds that a file system may take to show a new file.

  Raises:
    ValueError: naming the processes that do not see what process 0 writes.
  """
  if not hosts.several():
    return
  number = hosts.first_process(int.from_bytes(os.urandom(3), 'big'))
  path = os.path.join(workdir, f'.shared-{number}')
  if hosts.process() == 0:
    with open(path, 'w'):
      pass
  hosts.barrier('workdir')
  deadline = time.monotonic() + patience
  while not os.path.exists(path) and time.monotonic() < deadline:
    time.sleep(.2)
  blind = np.flatnonzero(hosts.numbers(not os.path.exists(path)))
  if hosts.process() == 0:
    os.remove(path)
  if len(blind):
    raise ValueError(
        f'workdir {workdir!r} is not one folder for all processes: what '
        f'process 0 writes there, process {", ".join(map(str, blind))} does '
        'not see; name a folder on a file system that all hosts share')
