"""What the launchers share: checked arguments, quoted commands, a dry run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def parser(text: str) -> argparse.ArgumentParser:
  """A parser with the flags that every launcher has.

  Args:
    text: docstring of the launcher.
  """
  made = argparse.ArgumentParser(
      description=text.splitlines()[0], allow_abbrev=False,
      epilog='Everything behind -- goes to experiments/train.py as it is.')
  made.add_argument(
      '--config', required=True, help='config of the run, as for train.py')
  made.add_argument(
      '--workdir', required=True,
      help='folder of the run; every host must see the same one there')
  made.add_argument('--restarts', type=number(0), default=20, metavar='N',
                    help='the most restarts after preemptions (default: 20)')
  made.add_argument('--dry-run', action='store_true',
                    help='print what would be done, and do nothing')
  made.add_argument('rest', nargs='*', metavar='-- ARGUMENT',
                    help='more arguments of train.py')
  return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None = None):
  """Parses, and checks what all launchers have.

  Args:
    made: from `parser`, with the launcher's own flags.
    argv: words; None for those of the command line.

  Returns:
    The arguments; ends the program with a message for what is wrong.
  """
  arguments = made.parse_args(argv)
  path = arguments.config.partition(':')[0]
  if pathlib.PurePath(path).is_absolute() or not (ROOT / path).is_file():
    made.error(f'argument --config: {path!r} is no file of this repository; '
               'the hosts get the committed files of it, such as '
               'configs/grpo.py')
  if not re.match(r'/[^:]*$', arguments.workdir):
    made.error(f'argument --workdir: {arguments.workdir!r} must be an absolute '
               'path, such as /mnt/shared/runs/grpo')
  for word in arguments.rest:
    if not word.startswith('--'):
      made.error(f'{word!r} behind -- is no flag of train.py; write '
                 '--config.KEY=VALUE')
    if re.match(r'--(config|workdir)(=|$)', word):
      made.error(f'{word!r} behind --: give it before the --')
  return arguments


def train_command(arguments, python: str) -> list[str]:
  """The words that start a run on a host, in the root of the repository."""
  return [python, 'experiments/train.py', f'--config={arguments.config}',
          f'--workdir={arguments.workdir}', *arguments.rest]


def restarted(arguments, python: str) -> list[str]:
  """The same, started again after a preemption."""
  return [python, 'experiments/launch/restart.py',
          f'--times={arguments.restarts}', '--',
          *train_command(arguments, python)]


class Runner:
  """Runs commands, or prints them.

  Example:
    >>> Runner(dry_run=True).run(['echo', "it's"])
    echo 'it'"'"'s'
    0
  """

  def __init__(self, dry_run: bool):
    self.dry_run = dry_run

  def run(self, command: Sequence[str], check: bool = True) -> int:
    """Runs words as they are, without a shell.

    Args:
      command: words.
      check: whether to end the program when the command fails.

    Returns:
      The exit code; 0 in a dry run.
    """
    print(shlex.join(command), flush=True)
    if self.dry_run:
      return 0
    try:
      code = subprocess.run(command, check=False).returncode
    except FileNotFoundError:
      sys.exit(f'error: {command[0]} is not installed here')
    if check and code:
      sys.exit(f'error: {command[0]} ended with exit code {code}')
    return code

  def read(self, command: Sequence[str], assumed: str) -> str:
    """What a command prints; `assumed` in a dry run."""
    print(shlex.join(command), flush=True)
    if self.dry_run:
      return assumed
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()

  def note(self, text: str) -> None:
    """A line for the reader, as a comment of a shell."""
    print(f'# {text}', flush=True)


def number(least: int):
  """A type of argparse: a whole number from `least` on."""
  def parse_number(text):
    if not re.fullmatch(r'\d+', text) or int(text) < least:
      raise argparse.ArgumentTypeError(
          f'{text!r} must be a whole number, {least} or more')
    return int(text)
  return parse_number


def matching(pattern: str, example: str):
  """A type of argparse: a text of a form, told by an example."""
  def parse_text(text):
    if not re.fullmatch(pattern, text):
      raise argparse.ArgumentTypeError(
          f'{text!r} is not of the form of {example}')
    return text
  return parse_text


# Names as Google Cloud and Kubernetes take them.
name = matching(r'[a-z]([-a-z0-9]{0,38}[a-z0-9])?', 'my-run-1')
zone = matching(r'[a-z]+-[a-z]+\d+-[a-z]', 'us-east5-a')
project = matching(r'[a-z][-a-z0-9.:]{4,}[a-z0-9]', 'my-project')
