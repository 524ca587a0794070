"""Compiled programs of earlier runs, found again without tracing them.

A run that is started again waits for its programs once more. JAX's persistent
cache spares it XLA's part of the work, but to know what to look for each
program is traced and lowered first: seconds of Python, and memory that is never
given back. Here a program is looked for by the `fingerprint` of the function
and the shapes of its arguments. Where that is not known, because a line of the
library has changed, say, it is traced after all, and looked for by the result.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import hashlib
import os
import pathlib
import pickle
import tempfile
import threading
from typing import Any
import uuid
import warnings

import jax
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from policyopt.rollouts import hosts
from policyopt.training import fingerprint

# Of a fingerprint, in the name of a file.
_DIGITS = 32
# Programs of a function that are read before it is known which is wanted.
_EARLY = 3


class Programs:
  """A folder of compiled programs.

  What is in it is executed: it must be as safe from others as the code itself.
  It may be emptied at any time, and be shared by runs of any kind.

  Args:
    folder: made if it is missing.
    devices: that the programs run on, or some of them; of this process.

  Raises:
    ValueError: the folder cannot be written to.

  Example:
    >>> folder = tempfile.TemporaryDirectory()
    >>> programs = Programs(folder.name, jax.devices()[:1])
    >>> add = programs.jit(jax.numpy.add)
    >>> float(add(1., 1.)), len(os.listdir(folder.name))
    (2.0, 2)
    >>> folder.cleanup()
  """

  def __init__(self, folder: str, devices):
    self.folder = pathlib.Path(folder)
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=self.folder):
        pass
    except OSError as error:
      raise ValueError(
          f'programs {str(folder)!r} cannot be written to ({error.strerror}); '
          'name a folder that can, or None') from error
    devices = tuple(devices)
    self._devices = {device.id: device for device in devices}
    self._machine = fingerprint.machine(devices)
    self._sources = fingerprint.sources()

  def jit(self, function: Callable, **options) -> Callable:
    """`jax.jit`, whose programs are kept.

    Args:
      function: to compile.
      **options: as those of `jax.jit`; static arguments are named by
        `static_argnames`, and given by name.

    Returns:
      The function, with `lower`, `eval_shape` and, for `programs.begin`,
      `begin`; `kept` says whether the folder had programs of it. By `jax.jit`
      alone where a fingerprint is not to be had, which is said in a warning.
    """
    jitted = jax.jit(function, **options)
    try:
      what = fingerprint.of(function)
      how = fingerprint.of(options)
    except TypeError as error:
      _warn(error)
      return jitted
    static = options.get('static_argnames', ())
    static = (static,) if isinstance(static, str) else tuple(static)
    name = getattr(function, '__name__', 'program').strip('<>')
    about = f'{name}-{self._digest(self._sources, what, how)}'
    # For what it was called with before: reading takes memory, of which there
    # is more before the run has made its arrays.
    early = {path: self._read(path)
             for path in sorted(self.folder.glob(f'{about}-*'))[:_EARLY]}

    def find(given, lower):
      known = self.folder / f'{about}-{given[:_DIGITS]}'
      program = early.pop(known) if known in early else self._read(known)
      if program is not None:
        return lambda: program
      lowered = lower()

      def finish():
        path = self.folder / '-'.join([name, self._digest(
            how, given, str(lowered.out_tree), lowered.as_text())])
        program = self._made(path, lowered)
        if path.exists():
          _keep(known, lambda partial: partial.symlink_to(path.name))
        return program

      return finish

    return _Program(jitted, static, find, kept=bool(early))

  def _made(self, path, lowered):
    """The program of a traced function, read or compiled."""
    program = self._read(path)
    if program is None:
      program = _compiled(lowered)
      _keep(path, lambda partial: partial.write_bytes(_packed(program)))
    return program

  def _digest(self, *key):
    return fingerprint.of((self._machine, key))[:_DIGITS]

  def _read(self, path):
    """The program in a file; None where there is none that can be run."""
    try:
      data = path.read_bytes()
    except FileNotFoundError:
      return None
    try:
      if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError('it is not whole')
      devices, *program = pickle.loads(data[32:])
      return serialize_executable.deserialize_and_load(
          *program, execution_devices=[self._devices[i] for i in devices])
    except Exception as error:  # Whatever a runtime has against it.
      warnings.warn(f'programs: {path} cannot be read ({error!r:.200}); it is '
                    'compiled again', stacklevel=2)
      return None


class _Program:
  """A jitted function with its programs, by the shapes of its arguments.

  Attributes:
    kept: whether the folder had some of them when it was made.
    lower: of the jitted function, as is `eval_shape`.
  """

  def __init__(self, jitted, static, find, kept):
    self._jitted, self._static, self._find = jitted, static, find
    self._known = {}
    self.kept = kept
    self.lower, self.eval_shape = jitted.lower, jitted.eval_shape

  def __call__(self, *args, **kwargs):
    fixed, kwargs = self._apart(kwargs)
    key = self._key(fixed, args, kwargs)
    if key is None:
      return self._jitted(*args, **kwargs, **fixed)
    if key not in self._known:
      self._known[key] = self._program(fixed, key, args, kwargs)()
    return self._known[key](*args, **kwargs)

  def begin(self, *args, **kwargs) -> Callable[[], None]:
    """See `begin`."""
    fixed, kwargs = self._apart(kwargs)
    key = self._key(fixed, args, kwargs)
    if key in self._known:
      return lambda: None
    program = self._program(fixed, key, args, kwargs)

    def finish():
      self._known[key] = program()

    return finish

  def _apart(self, kwargs):
    """(static arguments, the others)."""
    fixed = {name: kwargs[name] for name in self._static if name in kwargs}
    return fixed, {
        name: x for name, x in kwargs.items() if name not in fixed}

  def _key(self, fixed, args, kwargs):
    """What decides which program it is; None while it is traced."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
      return None
    return (tuple(fixed.items()), tree, jax.sharding.get_abstract_mesh(),
            fingerprint.settings(), tuple(map(_kind, leaves)))

  def _program(self, fixed, key, args, kwargs):
    """What finds the program, or compiles what is lowered here and now."""
    _, tree, mesh, settings, kinds = key
    try:
      given = fingerprint.of((fixed, str(tree), str(mesh), str(settings), [
          (str(kind), *rest) for kind, *rest in kinds]))
    except TypeError as error:
      _warn(error)
      return lambda: functools.partial(self._jitted, **fixed)
    return self._find(
        given, lambda: self._jitted.lower(*args, **kwargs, **fixed))


def begin(function: Callable, *args, **kwargs) -> Callable[[], Any]:
  """Traces and lowers a call, and leaves the rest for later.

  Args:
    function: from `jax.jit` or `Programs.jit`.
    *args: of the call.
    **kwargs: of the call.

  Returns:
    What compiles it, in any thread; after that the same call finds it.

  Example:
    >>> import jax.numpy as jnp
    >>> double = jax.jit(lambda x: 2 * x)
    >>> compiled = begin(double, jnp.ones(3))()
    >>> float(double(jnp.ones(3))[0])
    2.0
  """
  if hasattr(function, 'begin'):
    return function.begin(*args, **kwargs)
  return function.lower(*args, **kwargs).compile


def compiler(folder: str | None, mesh: jax.sharding.Mesh) -> Callable:
  """What a run compiles with.

  Args:
    folder: of its programs; None for none.
    mesh: that it runs on.

  Returns:
    `jax.jit`, or `Programs.jit`. With several processes, which would have to
    agree on who reads and who compiles, always the former.

  Raises:
    ValueError: as `Programs`.
  """
  if not folder or hosts.several():
    return jax.jit
  return Programs(folder, mesh.devices.flat).jit


def _kind(leaf):
  """What a program must know of an argument."""
  if isinstance(leaf, jax.Array):
    # Random keys have no layout of their own.
    order = leaf.format.layout if hasattr(leaf, 'format') else None
    return jax.typeof(leaf), leaf.sharding, leaf.committed, order
  return (jax.typeof(leaf),)


def _compiled(lowered):
  # What JAX reads from its own cache would not work when read once more: on a
  # CPU its functions are missing from what it is written as.
  with _without_cache:
    return lowered.compile()


class _WithoutCache:
  """Switches JAX's own cache off while any thread is inside."""

  def __init__(self):
    self._lock, self._inside, self._enabled = threading.Lock(), 0, None

  def __enter__(self):
    with self._lock:
      if not self._inside:
        self._enabled = jax.config.jax_enable_compilation_cache
        self._switch(False)
      self._inside += 1

  def __exit__(self, *_):
    with self._lock:
      self._inside -= 1
      if not self._inside:
        self._switch(self._enabled)

  def _switch(self, enabled):
    jax.config.update('jax_enable_compilation_cache', enabled)
    compilation_cache.reset_cache()  # It only looks once.


_without_cache = _WithoutCache()


def _packed(program):
  """A program as bytes, after the digest of the rest."""
  devices = [
      device.id for device in program.runtime_executable().local_devices()]
  data = pickle.dumps((devices, *serialize_executable.serialize(program)))
  return hashlib.sha256(data).digest() + data


def _keep(path, write):
  """Makes a file in one piece, whoever else makes the same; or says why not."""
  partial = path.with_name(f'.{uuid.uuid4().hex}')
  try:
    write(partial)
    os.replace(partial, path)
  except Exception as error:  # It calls back into Python, the disk is full.
    warnings.warn(f'programs: {path.name} cannot be kept ({error!r:.200})',
                  stacklevel=2)
  finally:
    partial.unlink(missing_ok=True)


def _warn(error):
  warnings.warn(f'programs: {error}; it is compiled anew in each process',
                stacklevel=3)
