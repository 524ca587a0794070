"""The launchers: what they would do, and what they say of a wrong argument."""

import importlib
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / 'experiments' / 'launch'
RUN = ['--config=configs/grpo.py:quick,steps=3',
       "--workdir=/mnt/shared/runs/it's mine", '--dry-run']
ARGUMENTS = {
    'tpu_vm': ['--name=grpo-1', '--zone=us-east5-a', '--type=v5p-128',
               '--version=v2-alpha-tpuv5', '--nfs=10.0.0.2:/share'],
    'slurm': ['--nodes=4', '--time=24:00:00'],
    'gke': ['--cluster=tpus', '--name=grpo-1', '--zone=us-east5-a',
            '--project=my-project', '--type=v5p-128',
            '--image=us-docker.pkg.dev/my-project/policyopt/train:1']}
TRAIN = ['experiments/train.py', '--config=configs/grpo.py:quick,steps=3',
         "--workdir=/mnt/shared/runs/it's mine", '--config.steps=100']


@pytest.fixture
def launcher(monkeypatch):
  """`launcher('slurm')` is the module; nothing of it may run a command."""
  monkeypatch.setattr(sys, 'path', [str(LAUNCH), *sys.path])
  for name in ('common', *ARGUMENTS, 'restart'):
    monkeypatch.delitem(sys.modules, name, raising=False)

  def load(name):
    module = importlib.import_module(name)
    if name != 'restart':
      monkeypatch.setattr(subprocess, 'run', None)
    return module
  yield load
  for name in ('common', *ARGUMENTS, 'restart'):
    sys.modules.pop(name, None)


def dry_run(launcher, capsys, name, *more):
  """The lines that a dry run prints."""
  code = launcher(name).main([*ARGUMENTS[name], *RUN, *more])
  assert code == 0
  return capsys.readouterr().out.splitlines()


def test_tpu_vm(launcher, capsys):
  lines = dry_run(
      launcher, capsys, 'tpu_vm', '--spot', '--', '--config.steps=100')
  commands = [shlex.split(line) for line in lines if line[0] != '#']
  verbs = [words[4] for words in commands if words[0] == 'gcloud']
  assert verbs == ['create', 'scp', 'ssh', 'ssh', 'describe', 'delete']
  create, scp, install, run = (
      words for words in commands if words[4] in ('create', 'scp', 'ssh'))
  assert create == [
      'gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'grpo-1',
      '--zone=us-east5-a', '--accelerator-type=v5p-128',
      '--version=v2-alpha-tpuv5', '--spot']
  archive = next(words for words in commands if words[0] == 'git')
  assert scp[5] == archive[-2].removeprefix('--output=')
  assert all('--worker=all' in words for words in (scp, install, run))
  # What the shell of a host makes of it.
  shell = install[-1].removeprefix('--command=')
  assert '-m pip install --quiet -e ".[train,tpu]";' in shell
  assert 'mount -t nfs 10.0.0.2:/share /mnt/shared' in shell
  shell = run[-1].removeprefix('--command=')
  folder, _, command = shell.partition(' && exec ')
  assert folder == 'cd policyopt'
  assert shlex.split(command) == [
      '.venv/bin/python', 'experiments/launch/restart.py', '--times=20', '--',
      '.venv/bin/python', *TRAIN]


def test_slurm(launcher, capsys):
  lines = dry_run(
      launcher, capsys, 'slurm', '--tasks_per_node=8', '--gpus_per_task=1',
      '--', '--config.steps=100')
  assert lines[0] == "sbatch <<'EOF'" and lines[-1] == 'EOF'
  script = '\n'.join(lines[1:-1])
  for option in ('--nodes=4', '--ntasks-per-node=8', '--gpus-per-task=1',
                 '--time=24:00:00', '--signal=TERM@300', '--requeue'):
    assert f'#SBATCH {option}\n' in script
  srun = next(line for line in lines if line.startswith('srun'))
  assert shlex.split(srun)[2:] == ['.venv/bin/python', *TRAIN]


@pytest.mark.parametrize('code, count, requeued', [
    (75, 0, True), (76, 3, True), (137, 0, True), (75, 20, False),
    (1, 0, False), (0, 0, False)])
def test_a_batch_script_puts_itself_back(
    launcher, capsys, tmp_path, code, count, requeued):
  run = subprocess.run
  lines = dry_run(launcher, capsys, 'slurm')
  script = tmp_path / 'job.sh'
  script.write_text('\n'.join(lines[1:-1]) + '\n')
  for name, text in (('srun', f'exit {code}'), ('sleep', ''),
                     ('scontrol', f'echo "$@" > {tmp_path}/requeued')):
    path = tmp_path / name
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
  done = run(['bash', script], check=False, env={
      'PATH': f'{tmp_path}:/usr/bin:/bin', 'SLURM_JOB_ID': '7',
      'SLURM_RESTART_COUNT': str(count)})
  assert done.returncode == code
  found = tmp_path / 'requeued'
  assert found.exists() == requeued
  assert not requeued or found.read_text() == 'requeue 7\n'


def test_gke(launcher, capsys):
  lines = dry_run(
      launcher, capsys, 'gke', '--create_cluster', '--spot', '--storage=shared',
      '--slices=2', '--', '--config.steps=100')
  cluster, workload = (
      shlex.split(line) for line in lines if line[0] != '#')
  assert cluster[:3] == ['xpk', 'cluster', 'create'] and '--spot' in cluster
  assert workload[:3] == ['xpk', 'workload', 'create']
  for flag in ('--workload=grpo-1', '--tpu-type=v5p-128', '--num-slices=2',
               '--max-restarts=20', '--restart-on-exit-codes=75,76',
               '--storage=shared'):
    assert flag in workload
  command = workload[-1].removeprefix('--command=')
  assert shlex.split(command) == ['exec', 'python', *TRAIN]


@pytest.mark.parametrize('name, wrong, message', [
    ('tpu_vm', '--type=v5p', "'v5p' is not of the form of v5litepod-16"),
    ('tpu_vm', '--zone=east', "--zone: 'east' is not of the form"),
    ('tpu_vm', '--name=My_Run', "--name: 'My_Run' is not of the form"),
    ('tpu_vm', '--nfs=share', "--nfs: 'share' is not of the form"),
    ('tpu_vm', '--workdir=/home/runs', "'/home/runs' does not lie in /mnt"),
    ('tpu_vm', '--restarts=-1', '--restarts'),
    ('slurm', '--nodes=0', "--nodes: '0' must be a whole number, 1 or more"),
    ('slurm', '--gpus_per_task=2', 'JAX gives each process one GPU'),
    ('slurm', '--time=tomorrow', "--time: 'tomorrow' is not of the form"),
    ('slurm', '--notice=5', "--notice: '5' must be a whole number, 30 or more"),
    ('slurm', '--config=configs/nothing.py', 'is no file of this repository'),
    ('slurm', '--workdir=runs/grpo', 'must be an absolute path'),
    ('gke', '--image=train', "--image: 'train' is not of the form"),
    ('gke', '--project=X', "--project: 'X' is not of the form"),
    ('gke', '--spot', '--spot: needs --create_cluster')])
def test_wrong_arguments(launcher, capsys, name, wrong, message):
  with pytest.raises(SystemExit) as caught:
    launcher(name).main([*ARGUMENTS[name], *RUN, wrong])
  assert caught.value.code == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize('word, message', [
    ('steps=3', 'is no flag of train.py'),
    ('--workdir=/x', 'give it before the --')])
def test_wrong_arguments_of_the_run(launcher, capsys, word, message):
  with pytest.raises(SystemExit):
    launcher('slurm').main([*ARGUMENTS['slurm'], *RUN, '--', word])
  assert message in capsys.readouterr().err


def counting(path, *codes):
  """A command that ends with one code after the other."""
  return [sys.executable, '-c', (
      f'import os, sys; path = {str(path)!r}; codes = {codes!r}\n'
      'n = os.path.getsize(path) if os.path.exists(path) else 0\n'
      'open(path, "a").write("x"); sys.exit(codes[n])')]


@pytest.mark.parametrize('codes, times, code, starts', [
    ((75, 76, 0), 5, 0, 3), ((75, 1), 5, 1, 2), ((75, 75, 75), 2, 75, 3),
    ((0,), 5, 0, 1)])
def test_restarts(launcher, tmp_path, codes, times, code, starts):
  path = tmp_path / 'starts'
  restart = launcher('restart')
  assert restart.run(counting(path, *codes), times, wait=0) == code
  assert path.read_text() == 'x' * starts


def test_a_machine_that_is_taken_away_does_not_start_again(tmp_path):
  ready = tmp_path / 'ready'
  command = [sys.executable, '-c', (
      'import pathlib, signal, sys, time\n'
      'signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n'
      f'pathlib.Path({str(ready)!r}).touch(); time.sleep(60)')]
  process = subprocess.Popen(
      [sys.executable, LAUNCH / 'restart.py', '--times=5', '--', *command])
  deadline = time.monotonic() + 60
  while not ready.exists() and time.monotonic() < deadline:
    time.sleep(.05)
  process.send_signal(signal.SIGTERM)
  assert process.wait(60) == 75
