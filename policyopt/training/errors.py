"""Errors that a person meets, each in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import os
import re
import sys

from absl import flags

# Set to anything, it shows where an error came from.
_TRACEBACK = 'POLICYOPT_TRACEBACK'


class NonFiniteError(RuntimeError):
  """Too many updates in a row were skipped: loss or gradient not finite."""


class SyncError(RuntimeError):
  """The sampler does not run on the parameters that were learned."""


class PreemptedError(RuntimeError):
  """The run was asked to end, has saved what it had, and can be resumed."""

  # EX_TEMPFAIL of sysexits.h: try again later.
  exit_code = 75


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
  """Ends a script with one line for an error that its user can mend.

  These are ValueError, OSError, NonFiniteError, SyncError, and what a config
  raises for an unknown key. With POLICYOPT_TRACEBACK set in the environment
  they are raised as they are. Ctrl-C ends it with one line too, and SIGTERM
  with one line and exit code 75.
  """
  try:
    yield
  except PreemptedError as error:
    print(error, file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
  except (ValueError, OSError, AttributeError, KeyError, NonFiniteError,
          SyncError) as error:
    if os.environ.get(_TRACEBACK):
      raise
    # A KeyError's own text is a representation, with quotes and escapes.
    text = error.args[0] if isinstance(error, KeyError) else error
    text = ' '.join(str(text).split())
    sys.exit(f'error: {text} (set {_TRACEBACK}=1 to see where)')
  except KeyboardInterrupt:
    sys.exit('interrupted; the same command goes on from the last checkpoint')


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags for `absl.app.run`, without absl's page of help.

  Args:
    argv: the command line, its first word the program.

  Returns:
    The words that are no flags.

  Raises:
    ValueError: for a flag, a value or a key of the config that is not right;
      names it.
  """
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    lines = str(error).strip().splitlines()
    if len(lines) == 1:
      raise ValueError(lines[0]) from error
    # A config program failed: the last line of its traceback says how.
    cause = re.sub(r'^[\w.]+(Error|Exception): ', '', lines[-1].strip())
    raise ValueError(f'{lines[0].split(": ")[0]}: {cause}') from error
  except (KeyError, AttributeError) as error:
    # What ml_collections says of a key names neither the flag nor the path.
    key = re.search(r'\w+', str(error))[0]
    near = re.search(r'Did you mean "(\w+)"', str(error))
    word = next((word for word in argv
                 if key in word.partition('=')[0].split('.')), '--config')
    raise ValueError(
        f'{word}: the config has no key {key!r}'
        + (f'; did you mean {near[1]!r}?' if near else '')) from error
