"""Starts a command again when it ends with a code that asks for it.

  python experiments/launch/restart.py --times=20 -- COMMAND...

Code 75 (preempted, saved) and 76 (another process was lost) ask for it; any
other code is handed on. SIGTERM goes to the command; when that then ends with
75, it is not started again here, because it is this machine that is about to
go. Needs nothing but Python, and runs on every host of a job.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import signal
import subprocess
import sys
import time

CODES = (75, 76)


def run(command: Sequence[str], times: int, wait: float = 10.) -> int:
  """Runs a command until it ends well, or must not or may not start again.

  Args:
    command: words.
    times: the most restarts.
    wait: seconds before each, in which the other hosts end too.

  Returns:
    The last exit code.
  """
  asked = False
  process = None

  def forward(number, _):
    nonlocal asked
    asked = True
    if process is not None:
      process.send_signal(number)

  before = signal.signal(signal.SIGTERM, forward)
  try:
    for start in range(times + 1):
      process = subprocess.Popen(command)
      if asked:
        # It came while the command was being started.
        process.send_signal(signal.SIGTERM)
      code = process.wait()
      # A process that a signal has ended, as a shell reports it.
      code = 128 - code if code < 0 else code
      if code not in CODES or asked or start == times:
        return code
      print(f'restart.py: exit code {code}; restart {start + 1} of {times} in '
            f'{wait:g} s', file=sys.stderr, flush=True)
      time.sleep(wait)
      if asked:
        return code
  finally:
    signal.signal(signal.SIGTERM, before)
  return code


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--times', type=int, default=20, help='most restarts')
  parser.add_argument('--wait', type=float, default=10., help='seconds between')
  parser.add_argument('command', nargs=argparse.REMAINDER)
  arguments = parser.parse_args()
  command = arguments.command
  command = command[1:] if command[:1] == ['--'] else command
  if not command:
    parser.error('there is no command to run')
  if arguments.times < 0 or arguments.wait < 0:
    parser.error('--times and --wait must not be negative')
  sys.exit(run(command, arguments.times, arguments.wait))


if __name__ == '__main__':
  main()
