"""Prints the peak of host memory while a model is loaded and saved.

What the devices hold, which is host memory here, is left out.
"""

import json
import os
import pathlib
import sys
import threading
import time

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax  # noqa: E402

from policyopt.models import convert, partitioning, presets  # noqa: E402
from policyopt.training import state  # noqa: E402

SMALL = presets.preset('nano', width=512, mlp_width=1024, num_layers=1)
LARGE = SMALL.replace(num_layers=16, vocab_size=40_000)


def resident():
  """Bytes of memory of this process that no file backs."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith('RssAnon:'):
      return int(line.split()[1]) << 10
  raise OSError('no RssAnon')


class Peak:
  """The highest `resident` while it is open."""

  def __enter__(self):
    self.value, self._open = resident(), True
    self._thread = threading.Thread(target=self._watch)
    self._thread.start()
    return self

  def _watch(self):
    while self._open:
      self.value = max(self.value, resident())
      time.sleep(5e-4)

  def __exit__(self, *_):
    self._open = False
    self._thread.join()


def main(folder):
  jax.config.update('jax_num_cpu_devices', 8)
  mesh = partitioning.make_mesh({'fsdp': 8})

  def trip(config, name):
    """Bytes that saving and loading take at their peak."""
    params = state.init_params(config, mesh, jax.random.key(0))
    jax.block_until_ready(params)
    path = os.path.join(folder, name)
    before = resident()
    with Peak() as saving:
      convert.save(path, config, params)
    saved = saving.value - before
    sizes = [x.nbytes for x in jax.tree.leaves(params)]
    del params
    before = resident()
    with Peak() as loading:
      loaded = convert.load(path, config, mesh, jax.random.key(0))
    assert len(jax.tree.leaves(loaded)) == len(sizes)
    # Memory that was free before, or is free but not given back after, hides
    # what was taken from one of these differences, not from both.
    load = loading.value - min(resident(), before + sum(sizes))
    return dict(save=saved, load=load, params=sum(sizes), largest=max(sizes))

  trip(SMALL, 'small')  # Tracing and compiling take memory of their own.
  print(json.dumps(trip(LARGE, 'large')))


if __name__ == '__main__':
  main(sys.argv[1])
