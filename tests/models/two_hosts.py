"""One of two processes with four devices each: loads a folder and saves it."""

import os
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'

import jax  # noqa: E402

from policyopt.models import convert, partitioning  # noqa: E402


def main(rank, address, source, out):
  jax.config.update('jax_num_cpu_devices', 4)
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
  mesh = partitioning.make_mesh({'fsdp': 2, 'tensor': 2, 'data': 2})
  config = convert.model_config(source, value_head=True)
  params = convert.load(source, config, mesh, jax.random.key(0))
  kernel = params['layers']['query']
  assert not kernel.is_fully_addressable
  assert len(kernel.addressable_shards) == 4
  convert.save(out, config, params, source=source, dtype='bfloat16',
               max_shard_bytes=40_000)
  # Written before anyone goes on.
  assert os.path.isfile(os.path.join(out, 'config.json'))


if __name__ == '__main__':
  main(*sys.argv[1:])
