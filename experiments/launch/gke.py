"""Trains on TPU slices of a GKE cluster, through xpk.

  python experiments/launch/gke.py --cluster=tpus --name=grpo-1 \
      --zone=us-east5-a --project=my-project --type=v5p-128 --slices=1 \
      --image=us-docker.pkg.dev/my-project/policyopt/train:1 \
      --storage=shared --config=configs/grpo.py \
      --workdir=/mnt/shared/runs/grpo [--create_cluster] [--dry-run] \
      [-- --config.steps=100]

Needs xpk, gcloud and kubectl. The image holds this repository, installed, in
its working directory. Pods that end with code 75 or 76 are started again. See
README.md in this folder.
"""

from __future__ import annotations

import shlex
import sys

import common


def arguments_of(argv=None):
  """The checked command line."""
  parser = common.parser(__doc__)
  parser.add_argument('--cluster', type=common.name, required=True)
  parser.add_argument('--name', type=common.name, required=True,
                      help='of the workload')
  parser.add_argument('--zone', type=common.zone, required=True)
  parser.add_argument('--project', type=common.project, required=True)
  parser.add_argument(
      '--type', required=True, help='TPU type, such as v5litepod-16',
      type=common.matching(r'(v\d+[a-z]*|tpu7x)-[\dx]+', 'v5litepod-16'))
  parser.add_argument('--slices', type=common.number(1), default=1)
  parser.add_argument(
      '--image', required=True, help='container image with this repository',
      type=common.matching(r'[\w.-]+(/[\w.-]+)+(:[\w.-]+)?(@sha256:\w+)?',
                           'us-docker.pkg.dev/my-project/policyopt/train:1'))
  parser.add_argument(
      '--storage', type=common.name,
      help='of the cluster (xpk storage attach), where --workdir lies')
  parser.add_argument('--spot', action='store_true',
                      help='with --create_cluster: spare capacity')
  parser.add_argument('--create_cluster', action='store_true',
                      help='create or resize the cluster first')
  parser.add_argument(
      '--grace', type=common.number(30), default=300, metavar='SECONDS',
      help='from SIGTERM to SIGKILL; a step and a checkpoint must fit '
      '(default: 300)')
  arguments = common.parse(parser, argv)
  if arguments.spot and not arguments.create_cluster:
    parser.error('argument --spot: needs --create_cluster')
  return arguments


def main(argv=None) -> int:
  """Creates the cluster when asked to, and the workload; the exit code."""
  arguments = arguments_of(argv)
  runner = common.Runner(arguments.dry_run)
  place = [f'--cluster={arguments.cluster}', f'--zone={arguments.zone}',
           f'--project={arguments.project}']
  slices = [f'--tpu-type={arguments.type}', f'--num-slices={arguments.slices}']
  if arguments.create_cluster:
    runner.note('the cluster')
    runner.run(['xpk', 'cluster', 'create', *place, *slices,
                '--spot' if arguments.spot else '--on-demand'])
  runner.note('the workload')
  command = ['xpk', 'workload', 'create', *place, *slices,
             f'--workload={arguments.name}',
             f'--docker-image={arguments.image}',
             f'--max-restarts={arguments.restarts}',
             '--restart-on-exit-codes=75,76',
             f'--termination-grace-period-seconds={arguments.grace}']
  if arguments.storage:
    command.append(f'--storage={arguments.storage}')
  # With exec the signal that ends a pod reaches Python itself.
  words = shlex.join(common.train_command(arguments, 'python'))
  return runner.run([*command, f'--command=exec {words}'], check=False)


if __name__ == '__main__':
  sys.exit(main())
