"""Devices of a TPU slice that is described and not attached."""

from __future__ import annotations

import importlib.util
import os

import jax
from jax.experimental import topologies

from experiments.aot import chips

MISSING = (
    'compiling for a TPU needs libtpu, which is not installed: '
    "pip install -e '.[aot]'")


def available() -> bool:
  """Whether the compiler for TPUs is installed."""
  return importlib.util.find_spec('libtpu') is not None


def devices(topology: str) -> list[jax.Device]:
  """The devices of a slice; nothing can run on them.

  Args:
    topology: as `chips.parse` reads it.

  Returns:
    One entry per JAX device, which is half a chip on v4 and TPU7x.

  Raises:
    ValueError: libtpu is missing, or knows no such slice.
  """
  chips.parse(topology)
  if not available():
    raise ValueError(MISSING)
  # Else libtpu asks a metadata server that only exists in the cloud, and
  # complains of a machine that is not there.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  # Nothing is run, so several such processes do not disturb each other.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  # libtpu ends the process for a flag of another platform's compiler.
  words = os.environ.get('XLA_FLAGS', '').split()
  os.environ['XLA_FLAGS'] = ' '.join(
      word for word in words if not word.startswith(('--xla_cpu', '--xla_gpu')))
  try:
    found = topologies.get_topology_desc(
        platform='tpu', topology_name=topology)
  except (RuntimeError, ValueError) as error:
    line = next(iter(str(error).strip().splitlines()), '')
    raise ValueError(
        f'libtpu cannot make the topology {topology!r}: {line}') from error
  return list(found.devices)
