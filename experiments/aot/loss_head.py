"""Compiles the loss head alone for a TPU that is not there, in both ways.

  python experiments/aot/loss_head.py --topology=v5e:2x2 \
      --preset=llama3.1-8b [--mesh=fsdp=2,tensor=2] [--rows=2] [--length=4096]

Log-probabilities and entropies of given hidden states, and their gradients,
with `loss_head` 'xla' and 'pallas': what the compiler says of a device's
memory, and a roofline. Nothing is run, so this is no measurement of time.
Needs libtpu (`pip install -e '.[aot]'`).
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
from typing import Any

if __name__ == '__main__':
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  # As `experiments.aot.X`, and not by their names in this folder.
  sys.path[0] = str(pathlib.Path(__file__).resolve().parents[2])

from absl import app, flags  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from experiments.aot import (  # noqa: E402
    chips,
    flops,
    hlo,
    memory,
    roofline,
    shapes,
    topologies,
)
from policyopt.models import (  # noqa: E402
    partitioning,
    presets,
    scoring,
    transformer,
)
from policyopt.models.config import ModelConfig  # noqa: E402
from policyopt.training import errors  # noqa: E402

_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:2x2', 'The slice.')
_PRESET = flags.DEFINE_string('preset', 'llama3.1-8b', 'Whose head it is.')
_MESH = flags.DEFINE_list('mesh', [], 'Such as fsdp=2,tensor=2; else 1 chip.')
_ROWS = flags.DEFINE_integer('rows', 2, 'Of each shard of rows.')
_LENGTH = flags.DEFINE_integer('length', 4096, 'Tokens of a row.')
_CHUNK = flags.DEFINE_integer('logit_chunk', 256, "Of 'xla'.")
_JSON = flags.DEFINE_string('json', None, 'File for the results as JSON.')


def main(argv):
  del argv
  with errors.in_one_line():
    sizes = {name: int(size) for name, size in (
        word.split('=') for word in _MESH.value)}
    config = presets.preset(
        _PRESET.value, dtype='bfloat16', logit_chunk=_CHUNK.value)
    found = {name: measure(
        config.replace(loss_head=name), _TOPOLOGY.value, sizes,
        _ROWS.value, _LENGTH.value) for name in ('xla', 'pallas')}
  for name, numbers in found.items():
    print(name, *(f'{key} {value:.4g}' for key, value in numbers.items()),
          sep='  ')
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=1) + '\n')


def measure(config: ModelConfig, topology: str, sizes: dict[str, int],
            rows: int, length: int) -> dict[str, Any]:
  """Compiles a head's value and gradients.

  Args:
    config: of the model.
    topology: of the slice.
    sizes: of the mesh's axes; the devices that it does not need are left out.
    rows: of each shard.
    length: T.

  Returns:
    Of one device: temporaries, HBM traffic and bytes sent in GiB, PFLOPs of
    products, and seconds of a roofline, "bound" and "apart".
  """
  chip, axes = chips.parse(topology)
  devices = topologies.devices(topology)[:math.prod(sizes.values())]
  mesh = partitioning.make_mesh(sizes, devices)
  name = 'embedding' if config.tied_embeddings else 'head'
  place = partitioning.param_shardings(config, mesh)[name]
  head = transformer.abstract_params(config)[name]
  rows *= mesh.shape['data'] * mesh.shape['fsdp']
  shape = jax.ShapeDtypeStruct
  hidden, *others = shapes.in_rows(
      (shape((rows, length, config.width), jnp.dtype(config.dtype)),
       shape((rows, length), jnp.int32), shape((rows, length), jnp.float32)),
      mesh)

  def loss(head, hidden, tokens, weight):
    out = scoring.head(
        config, {name: head}, hidden, tokens, needs={'entropy'})
    return jnp.sum(weight * (out['log_probs'] + out['entropy']))

  function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)),
                     out_shardings=(None, (place, hidden.sharding)))
  with jax.set_mesh(mesh):
    traced = function.trace(
        shapes.placed(head, place), hidden, *others)
    compiled = traced.lower(lowering_platforms=('tpu',)).compile()
  module = hlo.Module(compiled.as_text())
  collectives, traffic = module.collectives(), module.bytes()
  products = flops.count(traced.jaxpr).flops / mesh.size
  coords = [tuple(device.coords) for device in mesh.devices.flat]
  estimate = roofline.estimate(
      chip.per_device(), products, traffic, collectives, coords,
      (*axes, 1, 1)[:len(coords[0])])
  return dict(
      temporaries=memory.of(compiled).temporaries / chips.GIB,
      traffic=traffic / chips.GIB,
      sent=sum(c.moved * c.times for c in collectives) / chips.GIB,
      pflops=products / 1e15, bound=estimate.bound, apart=estimate.apart)


if __name__ == '__main__':
  app.run(main, flags_parser=errors.parse_flags)
