"""What adapters share: how a case is read, and how close is equal."""

from collections.abc import Callable
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TOLERANCE = 1e-9
COUNT_EPS = 1e-8  # verl and Tunix add it to the token count of their means


class Adapter(NamedTuple):
  """How the cases of one file are run through our functions.

  Attributes:
    run: (inputs, params) -> ({path of an output: our value}, mask or None).
      Inputs are float64 arrays, padded with rows and columns that take no part
      so that all cases of a file have one shape; `params['width']` is the
      width of the case's own rows. With a mask, [B, T] outputs are compared
      inside it only. A path is a key of the outputs, or keys joined by '/'.
    raw: `run` takes the whole case as it stands in the file instead.
    compile: whether `run` becomes one program per set of params, as it must
      to be quick where many cases share theirs; False if it reads numbers.
    tolerance: relative; a number, or a function of the case where the other
      code itself computes a part in float32.
    absolute: likewise, as a fraction of the largest number expected (of 1, if
      that is less).
    pad: the value that fills padding.
  """
  run: Callable[..., tuple[dict[str, Any], Any]]
  raw: bool = False
  compile: bool = True
  tolerance: float | Callable[[dict], float] = TOLERANCE
  absolute: float | Callable[[dict], float] = 1e-12
  pad: float = 0.


@functools.cache
def compiled(run):
  """`run(inputs, params)` as one program for each set of params.

  Args:
    run: (dict of arrays and None, dict) -> any arrays.

  Returns:
    The same function; `run` sees the params 'rows' and 'width' as arrays, so
    that cases of all sizes share a program.
  """
  @functools.cache
  def program(settings):
    params = json.loads(settings)
    return jax.jit(lambda inputs, sizes: run(inputs, params | sizes))

  def call(inputs, params):
    sizes = {name: np.float64(params[name])
             for name in ('rows', 'width') if name in params}
    settings = json.dumps(
        {k: v for k, v in params.items() if k not in sizes}, sort_keys=True)
    return program(settings)(inputs, sizes)

  return call


def whole(run):
  """A raw adapter: `run(inputs, params)`, compiled for the sizes of a case."""
  def adapt(case):
    inputs = {name: array(x) for name, x in case['inputs'].items()}
    return compiled(run)(inputs, case['params'])

  return adapt


def up(size, step):
  """The next multiple of `step`."""
  return -(-size // step) * step


def pad_rows(inputs, rows, step=16):
  """Inputs with as many rows as the next multiple of `step`, those of no group.

  Args:
    inputs: name -> array; those whose first axis is not `rows` stay.
    rows: of the case.
    step: to the multiples of which rows are added.

  Returns:
    name -> array.
  """
  spare = up(rows, step) - rows
  return {name: np.pad(
      x, [(0, spare)] + [(0, 0)] * (x.ndim - 1),
      constant_values=-1 if name in ('group', 'group_ids') else 0)
          if np.ndim(x) and len(x) == rows else x
          for name, x in inputs.items()}


def pad_columns(inputs, step=8):
  """Inputs with as many columns as the next multiple of `step`."""
  return {name: np.pad(x, ((0, 0), (0, -x.shape[1] % step)))
          if np.ndim(x) == 2 else x for name, x in inputs.items()}


def array(value):
  """Nested lists with the strings 'nan' and 'inf' as float64; None stays."""
  if isinstance(value, list):
    return np.array([array(v) for v in value], np.float64)
  return value if value is None else np.float64(value)


def group_tolerance(case) -> float:
  """For verl's group advantages.

  The spread of a group of one is a float32 1 there, so that 1 + 1e-6 is
  rounded; and dividing by a tiny spread multiplies all rounding before it.
  """
  inputs = case['inputs']
  rewards = array(inputs['token_level_rewards']).sum(1)
  ids = np.asarray(inputs.get('group_ids', [0] * len(rewards)), int)
  tolerance = TOLERANCE
  for name in set(ids.tolist()):
    member = rewards[ids == name]
    spread = np.std(member)
    if len(member) == 1:
      tolerance = max(tolerance, 1e-7)
    elif 0 < spread < 1e-4 * max(1., np.abs(member).max()):
      tolerance = max(tolerance, 1e-5)
  return tolerance


def consecutive(rows, size):
  """Group ids of rows that lie side by side, `size` to a group."""
  return jnp.asarray(np.arange(rows) // size)


def folder(path) -> pathlib.Path:
  """A folder of vectors, which must exist."""
  path = pathlib.Path(path)
  assert path.is_dir(), f'--golden: {path} is not a folder'
  return path
