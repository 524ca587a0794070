"""Trains under SLURM: writes a batch script and submits it.

  python experiments/launch/slurm.py --nodes=4 --time=24:00:00 \
      --config=configs/grpo.py --workdir=/shared/runs/grpo \
      [--tasks_per_node=8 --gpus_per_task=1] [--partition=gpu] [--dry-run] \
      [-- --config.steps=100]

The repository and its .venv must lie on a file system that all nodes see. SLURM
sends SIGTERM before the time is up or the job is preempted; the run saves and
ends with code 75, on which the script puts itself back into the queue. See
README.md in this folder.
"""

from __future__ import annotations

import shlex
import subprocess
import sys

import common

_TIME = r'(\d+-)?\d{1,2}(:\d{2}){0,2}|\d+'


def arguments_of(argv=None):
  """The checked command line."""
  parser = common.parser(__doc__)
  parser.add_argument('--name', type=common.name, default='policyopt',
                      help='of the job')
  parser.add_argument('--nodes', type=common.number(1), required=True)
  parser.add_argument('--tasks_per_node', type=common.number(1), default=1,
                      help='processes on each node (default: 1)')
  parser.add_argument('--gpus_per_task', type=common.number(0), default=0,
                      help='JAX takes one each (default: 0)')
  parser.add_argument('--cpus_per_task', type=common.number(1))
  parser.add_argument('--partition', type=common.matching(r'[\w,.-]+', 'gpu'))
  parser.add_argument('--account', type=common.matching(r'[\w.-]+', 'my-group'))
  parser.add_argument('--time', help='limit of a single stay, as sbatch has it',
                      type=common.matching(_TIME, '24:00:00'))
  parser.add_argument(
      '--notice', type=common.number(30), default=300, metavar='SECONDS',
      help='SIGTERM so long before the time limit; a step and a checkpoint '
      'must fit (default: 300)')
  arguments = common.parse(parser, argv)
  if arguments.gpus_per_task > 1:
    parser.error('argument --gpus_per_task: under SLURM JAX gives each process '
                 'one GPU; use --tasks_per_node for more')
  return arguments


def script(arguments) -> str:
  """The batch script."""
  options = {
      'job-name': arguments.name, 'nodes': arguments.nodes,
      'ntasks-per-node': arguments.tasks_per_node,
      'cpus-per-task': arguments.cpus_per_task,
      'gpus-per-task': arguments.gpus_per_task or None,
      'partition': arguments.partition, 'account': arguments.account,
      'time': arguments.time, 'signal': f'TERM@{arguments.notice}',
      'requeue': '', 'open-mode': 'append', 'output': '%x-%j.log'}
  lines = ['#!/usr/bin/env bash']
  for option, value in options.items():
    if value is not None:
      lines.append(f'#SBATCH --{option}' + (f'={value}' if value != '' else ''))
  command = shlex.join(common.train_command(arguments, '.venv/bin/python'))
  return '\n'.join(lines) + f"""

cd {shlex.quote(str(common.ROOT))} || exit 1
# One lost process must not take the others before they have spoken.
srun --kill-on-bad-exit=0 {command}
code=$?
# srun reports the highest code of its tasks.
if [ "$code" -eq 75 ] || [ "$code" -eq 76 ] || [ "$code" -ge 128 ]; then
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {arguments.restarts} ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60
  fi
fi
exit "$code"
"""


def main(argv=None) -> int:
  """Submits, or prints; the exit code."""
  arguments = arguments_of(argv)
  text = script(arguments)
  if arguments.dry_run:
    # Quoted, so that a shell leaves the script as it is.
    print("sbatch <<'EOF'")
    print(text + 'EOF')
    return 0
  try:
    return subprocess.run(['sbatch'], input=text, text=True,
                          check=False).returncode
  except FileNotFoundError:
    sys.exit('error: sbatch is not installed here')


if __name__ == '__main__':
  sys.exit(main())
