"""Trains on a Cloud TPU slice: creates it, installs, runs on all its hosts.

  python experiments/launch/tpu_vm.py --name=grpo-1 --zone=us-east5-a \
      --type=v5p-128 --version=v2-alpha-tpuv5 --nfs=10.0.0.2:/share \
      --config=configs/grpo.py --workdir=/mnt/shared/runs/grpo \
      [--spot] [--keep] [--dry-run] [-- --config.steps=100]

Needs gcloud, logged in. The files are those of the last commit. When the slice
is preempted, or a host is lost, the slice is made anew and the run goes on
from its last checkpoint. See README.md in this folder.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time

import common

_MOUNT = '/mnt/shared'
_FOLDER = 'policyopt'
_ARCHIVE = 'policyopt.tar.gz'
_PYTHON = '.venv/bin/python'


def arguments_of(argv=None):
  """The checked command line."""
  parser = common.parser(__doc__)
  parser.add_argument('--name', type=common.name, required=True,
                      help='of the TPU VM')
  parser.add_argument('--zone', type=common.zone, required=True)
  parser.add_argument('--project', type=common.project,
                      help="default: gcloud's own")
  parser.add_argument(
      '--type', required=True, help='accelerator type, such as v5litepod-16',
      type=common.matching(r'v\d+[a-z]*-\d+', 'v5litepod-16'))
  parser.add_argument(
      '--version', required=True, help='software, such as v2-alpha-tpuv5-lite',
      type=common.matching(r'[a-z0-9][-a-z0-9.]*', 'v2-alpha-tpuv5-lite'))
  parser.add_argument(
      '--nfs', help=f'HOST:/SHARE to mount at {_MOUNT} on every host',
      type=common.matching(r'[\w.-]+:/[\w./-]*', '10.0.0.2:/share'))
  parser.add_argument('--spot', action='store_true', help='spare capacity')
  parser.add_argument('--keep', action='store_true',
                      help='do not delete the TPU VM at the end')
  parser.add_argument('--existing', action='store_true',
                      help='the TPU VM is there and installed: only run')
  arguments = common.parse(parser, argv)
  if arguments.nfs and not arguments.workdir.startswith(f'{_MOUNT}/'):
    parser.error(f'argument --workdir: {arguments.workdir!r} does not lie in '
                 f'{_MOUNT}, where --nfs is mounted')
  return arguments


def main(argv=None) -> int:
  """Creates, installs and runs, again after a preemption; the exit code."""
  arguments = arguments_of(argv)
  runner = common.Runner(arguments.dry_run)
  code = 1
  for start in range(arguments.restarts + 1):
    if start or not arguments.existing:
      _create(arguments, runner)
      _install(arguments, runner)
    runner.note('run on all hosts; 75 and 76 start again on each of them')
    code = runner.run(_ssh(arguments, _run_command(arguments)), check=False)
    if not code or _state(arguments, runner) == 'READY':
      break
    runner.note('the slice is gone: make it anew')
    runner.run(_gcloud(arguments, 'delete') + ['--quiet'], check=False)
    time.sleep(0 if arguments.dry_run else 30)
  if arguments.dry_run:
    runner.note('if that fails and the state is not READY: delete, create, '
                f'install and run again, at most {arguments.restarts} times')
    _state(arguments, runner)
  if not arguments.keep and not arguments.existing and not code:
    runner.run(_gcloud(arguments, 'delete') + ['--quiet'])
  return code


def _gcloud(arguments, verb, *words):
  command = ['gcloud', 'compute', 'tpus', 'tpu-vm', verb, *words]
  if verb != 'scp':
    command.append(arguments.name)
  command.append(f'--zone={arguments.zone}')
  if arguments.project:
    command.append(f'--project={arguments.project}')
  return command


def _ssh(arguments, command):
  """A line of shell on every host."""
  return _gcloud(arguments, 'ssh') + ['--worker=all', f'--command={command}']


def _create(arguments, runner):
  runner.note('create')
  command = _gcloud(arguments, 'create') + [
      f'--accelerator-type={arguments.type}', f'--version={arguments.version}']
  runner.run(command + ['--spot'] * arguments.spot)


def _install(arguments, runner):
  runner.note('install on all hosts: the files of the last commit')
  archive = os.path.join(
      tempfile.gettempdir(), f'{arguments.name}-{_ARCHIVE}')
  runner.run(['git', '-C', str(common.ROOT), 'archive', '--format=tar.gz',
              f'--output={archive}', 'HEAD'])
  runner.run(_gcloud(arguments, 'scp', archive,
                     f'{arguments.name}:{_ARCHIVE}') + ['--worker=all'])
  lines = [
      'set -e',
      f'mkdir -p {_FOLDER}',
      f'tar -xzf {_ARCHIVE} -C {_FOLDER}',
      f'cd {_FOLDER}',
      f'test -x {_PYTHON} || python3 -m venv .venv',
      f'{_PYTHON} -m pip install --quiet -e ".[train,tpu]"']
  if arguments.nfs:
    lines += [
        'sudo apt-get update -qq && sudo apt-get install -qq -y nfs-common',
        f'sudo mkdir -p {_MOUNT}',
        f'mountpoint -q {_MOUNT} || '
        f'sudo mount -t nfs {shlex.quote(arguments.nfs)} {_MOUNT}',
        f'sudo chmod a+rwx {_MOUNT}']
  runner.run(_ssh(arguments, '; '.join(lines)))


def _run_command(arguments):
  words = shlex.join(common.restarted(arguments, _PYTHON))
  return f'cd {_FOLDER} && exec {words}'


def _state(arguments, runner):
  """READY, or PREEMPTED, TERMINATED, or nothing when it is gone."""
  return runner.read(
      _gcloud(arguments, 'describe') + ['--format=value(state)'], 'READY')


if __name__ == '__main__':
  sys.exit(main())
