"""SIGTERM is noticed whatever the main thread does; twice it ends all."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from policyopt.training import preemption
from policyopt.training.errors import PreemptedError, in_one_line


def wait_for(condition):
  deadline = time.monotonic() + 10
  while not condition() and time.monotonic() < deadline:
    time.sleep(.01)
  assert condition()


def test_a_signal_is_noticed(capsys):
  before = signal.getsignal(signal.SIGTERM)
  with preemption.watch():
    assert not preemption.requested()
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for(preemption.requested)
  assert 'saving after the step at hand' in capsys.readouterr().err
  assert signal.getsignal(signal.SIGTERM) == before
  # The next run begins anew.
  assert not preemption.requested()
  with preemption.watch():
    assert not preemption.requested()


def test_other_threads_do_not_listen():
  said = []

  def run():
    with preemption.watch():
      said.append(preemption.requested())
  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert said == [False]


def test_the_exit_code(capsys):
  with pytest.raises(SystemExit) as caught, in_one_line():
    preemption.stop('saved after step 3 of 6')
  assert caught.value.code == PreemptedError.exit_code == 75
  said = capsys.readouterr().err
  assert said == ('asked to end by SIGTERM; saved after step 3 of 6. The same '
                  'command goes on from there\n')


def test_a_second_signal_ends_a_process_that_is_busy():
  # It waits in C for ever, as for a device, and never looks for signals.
  program = (
      'import ctypes\n'
      'from policyopt.training import preemption\n'
      'library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n'
      'with preemption.watch():\n'
      "  print('ready', flush=True)\n"
      '  library.pthread_mutex_lock(mutex)\n'
      '  library.pthread_mutex_lock(mutex)')
  process = subprocess.Popen(
      [sys.executable, '-c', program], stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'})
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGTERM)
  time.sleep(1.)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  try:
    _, said = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 143
  assert said.count('SIGTERM') == 2 and 'ending at once' in said
