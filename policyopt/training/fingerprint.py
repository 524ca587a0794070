"""What a compiled program follows from, as a number.

A function is traced into a program by its own code, by what its closure holds,
by the functions that it calls and by the settings of the machine. Here the
first two are read from the function, and the third from the files that it and
everything else comes from: two fingerprints are equal only where tracing would
give the same program. What a process puts in place of a module's functions or
numbers while it runs is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import enum
import functools
import hashlib
import os
import pathlib
import platform
import site
import sys
import sysconfig
import types
from typing import Any

import jax
from jax.experimental import layout
import numpy as np

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_VARIABLES = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')
_INSTALLED = ('stdlib', 'platstdlib', 'purelib', 'platlib')
# Settings of JAX that change no program.
_IDLE = ('cache', '_log', 'dump')


def of(value: Any) -> str:
  """A fingerprint of a value, a function with its closure above all.

  Args:
    value: numbers, strings, arrays, containers, dataclasses, functions and
      classes, of one another.

  Returns:
    64 hexadecimal digits.

  Raises:
    TypeError: names what in it may be anything, such as an object with a state
      of its own, or a function that comes from no file.

  Example:
    >>> power = lambda n: lambda x: x ** n
    >>> of(power(2)) == of(power(2)), of(power(2)) == of(power(3))
    (True, False)
  """
  found = hashlib.sha256()
  for word in _words(value, ()):
    # Its length first: no two sequences of words look alike.
    found.update(b'%d:' % len(word) + word)
  return found.hexdigest()


def machine(devices) -> str:
  """A fingerprint of what a program is compiled by, and for.

  Args:
    devices: that it runs on.

  Returns:
    64 hexadecimal digits, of the versions of all installed packages, the
    settings of XLA, and the devices.
  """
  return of((
      sys.version, [os.environ.get(name) for name in _VARIABLES],
      [(device.id, device.device_kind) for device in devices],
      devices[0].client.platform_version, os.cpu_count(), _processor(),
      _installed()))


def settings() -> tuple[tuple[str, str], ...]:
  """The settings of JAX that programs may depend on, where this is called.

  Returns:
    Names with values, those of `with` blocks included.

  Example:
    >>> usual = settings()
    >>> with jax.default_matmul_precision('highest'):
    ...   settings() == usual
    False
  """
  return tuple(
      (name, str(value)) for name, value in sorted(jax.config.values.items())
      if not any(word in name for word in _IDLE))


def sources() -> str:
  """A fingerprint of the code that no package manager knows the version of.

  Returns:
    64 hexadecimal digits, of the text of this library, and of all modules that
    are loaded from elsewhere than where packages are installed, with the
    packages that they belong to.
  """
  return of([(file, pathlib.Path(file).read_bytes()) for file in _own_files()])


def _words(value, parents) -> Iterator[bytes]:
  """The parts of a value in order, as bytes."""
  if any(value is parent for parent in parents):
    yield b'itself'  # A function that calls itself.
    return
  if isinstance(value, enum.Enum):
    yield _name(type(value)) + value.name.encode()
    return
  yield _name(type(value))
  if isinstance(value, _PLAIN):
    yield repr(value).encode()
  elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
    yield from _array(value)
  else:
    parts = _found_by_name(value)
    for part in _parts(value) if parts is None else parts:
      yield from _words(part, (*parents, value))
  yield b'end'


def _array(value):
  if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
    yield str(value.dtype).encode()
    value = jax.random.key_data(value)
  value = np.asarray(value)
  yield f'{value.dtype} {value.shape}'.encode()
  yield value.tobytes()


def _found_by_name(value):
  """The name of what its module holds under its own name; else None."""
  module, name = (getattr(value, field, None) for field in (
      '__module__', '__qualname__'))
  if isinstance(value, types.ModuleType):
    module, name = value.__name__, ''
  elif name is None:
    name = getattr(value, '__name__', None)
  holder = sys.modules.get(module) if isinstance(module, str) else None
  if holder is None or not isinstance(name, str):
    return None
  found = holder
  for part in filter(None, name.split('.')):
    found = getattr(found, part, None)
  if found is not value or not (
      hasattr(holder, '__file__') or module in sys.builtin_module_names):
    return None
  return [module, name]


def _parts(value):
  """What makes up a value that is no leaf."""
  if isinstance(value, (tuple, list)):
    return list(value)
  if isinstance(value, Mapping):
    return sorted(value.items(), key=lambda item: repr(item[0]))
  if isinstance(value, (set, frozenset)):
    return sorted(map(of, value))
  if isinstance(value, (slice, range)):
    return [value.start, value.stop, value.step]
  if isinstance(value, np.dtype):
    return [str(value)]
  if isinstance(value, functools.partial):
    return [value.func, value.args, value.keywords]
  if isinstance(value, types.MethodType):
    return [value.__func__, value.__self__]
  if isinstance(value, types.FunctionType):
    return _function(value)
  if isinstance(value, types.CodeType):
    return _code(value)
  if isinstance(value, jax.sharding.Mesh):
    return [value.axis_names, value.devices.shape, str(value.axis_types),
            [device.id for device in value.devices.flat]]
  if isinstance(value, jax.sharding.NamedSharding):
    return [value.mesh, tuple(value.spec), value.memory_kind]
  if isinstance(value, jax.sharding.Sharding):
    return [repr(value), sorted(device.id for device in value.device_set)]
  if isinstance(value, layout.Format):
    return [value.layout, value.sharding]
  if isinstance(value, (layout.Layout, jax.ShapeDtypeStruct)):
    return [repr(value)]
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return [(field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)]
  raise TypeError(f'{value!r:.200} may be anything: it has no fingerprint')


def _function(function):
  if not hasattr(sys.modules.get(function.__module__), '__file__'):
    raise TypeError(f'{function!r} comes from no file: what it calls has no '
                    'fingerprint')
  cells = [_content(cell) for cell in function.__closure__ or ()]
  return [function.__module__, function.__code__, function.__defaults__,
          function.__kwdefaults__, cells]


def _content(cell):
  try:
    return [cell.cell_contents]
  except ValueError:  # Not filled yet.
    return []


def _code(code):
  return [code.co_qualname, code.co_firstlineno, code.co_code, code.co_names,
          code.co_freevars, code.co_consts]


def _name(kind):
  return f'{kind.__module__}.{kind.__qualname__}'.encode()


def _installed():
  """Names with versions of what lies where packages are installed."""
  found = set()
  for folder in filter(os.path.isdir, sys.path):
    found.update(name for name in os.listdir(folder) if name.endswith((
        '.dist-info', '.egg-info')))
  return sorted(found)


def _own_files():
  """The files of all loaded modules that nobody has installed."""
  installed = tuple(os.path.join(folder, '') for folder in (
      *map(sysconfig.get_path, _INSTALLED), *site.getsitepackages(),
      site.getusersitepackages()))
  own = __name__.partition('.')[0]
  files, folders = set(), set()
  for name, module in list(sys.modules.items()):
    file = getattr(module, '__file__', None)
    first = name.partition('.')[0]
    if file and (first == own or not file.startswith(installed)):
      files.add(file)
      folders.update(getattr(sys.modules.get(first), '__path__', ()))
  # Also what is only imported when it is needed.
  for folder in folders:
    files.update(map(str, pathlib.Path(folder).rglob('*.py')))
  return sorted(filter(os.path.isfile, files))


def _processor():
  """What the code of this host may be made for."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text('utf-8')
  except OSError:
    return platform.processor()
  return sorted({line for line in text.splitlines()
                 if line.startswith(('model name', 'flags', 'Features'))})
