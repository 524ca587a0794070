"""Two fingerprints are equal where the program would be, and only there."""

import dataclasses
import functools
import os
import subprocess
import sys
import types

import jax
from jax.experimental import layout
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from policyopt import methods
from policyopt.models.presets import preset
from policyopt.training import fingerprint
from tests.methods.table import TABLE
from tests.training import factory


def scaled(factor, shift=0., *, clip=None):
  """A function with a closure."""
  def inner(x, bias=shift):
    return jnp.clip(x * factor + bias, max=clip)
  return inner


def of_array(values):
  held = jnp.asarray(values)
  return lambda x: x + held


def recursive(depth):
  def inner(x, left=depth):
    return x if not left else inner(x, left - 1)
  return inner


def mutual(depth):
  def first(x, left=depth):
    return x if not left else second(x, left - 1)
  def second(x, left):
    return first(x, left)
  return first


@dataclasses.dataclass
class Scale:
  factor: float

  def apply(self, x):
    return self.factor * x


CASES = {
    'closure': (scaled, [(2.,), (3.,), (2,)]),
    'default': (scaled, [(2.,), (2., 1.)]),
    'keyword': (lambda clip: scaled(2., clip=clip), [(None,), (1.,)]),
    'array': (of_array, [([1., 2.],), ([1., 3.],), ([[1., 2.]],), ([1, 2],)]),
    'itself': (recursive, [(1,), (2,)]),
    'each other': (mutual, [(1,), (2,)]),
    'partial': (lambda *a: functools.partial(scaled, *a), [(1.,), (2.,), ()]),
    'bound method': (lambda f: Scale(f).apply, [(1.,), (2.,)]),
    'dataclass': (lambda f: dict(a=Scale(f)), [(1.,), (2.,)]),
    'model': (lambda n: preset('nano', num_layers=n), [(1,), (2,)]),
    'optimizer': (lambda *a: optax.adamw(*a), [(1e-3,), (1e-4,), (1e-3, .8)]),
    'schedule': (optax.linear_schedule, [(0., 1., 5), (0., 1., 6)]),
    'function': (lambda f: f, [(jnp.add,), (jnp.multiply,), (jax.nn.relu,),
                               (len,), (np.add,), (os.path.join,)]),
    'set': (frozenset, [('ab',), ('bc',)]),
    'key': (jax.random.key, [(0,), (1,)]),
    'mesh': (factory.mesh, [(2, 1, 1, 1), (1, 2, 1, 1)]),
    'sharding': (lambda *axes: jax.NamedSharding(
        factory.mesh(2, 1, 1, 1), jax.P(*axes)), [(), ('data',)]),
    'format': (lambda *order: layout.Format(
        layout.Layout(order), jax.NamedSharding(
            factory.mesh(), jax.P())), [(0, 1), (1, 0)]),
    'slice': (slice, [(1,), (2,), (1, 2)]),
    'scalar type': (np.dtype, [('float32',), ('int32',)]),
    'words': (lambda *a: a, [
        ('ab', 'c'), ('a', 'bc'), ('abc',), (('ab',), 'c')]),
}


@pytest.mark.parametrize('name', CASES)
def test_equal_where_made_alike_and_nowhere_else(name):
  make, variants = CASES[name]
  found = [fingerprint.of(make(*args)) for args in variants]
  assert found == [fingerprint.of(make(*args)) for args in variants]
  assert len(set(found)) == len(variants)


def test_two_lambdas_on_one_line():
  first, second = (lambda x: x + 1), (lambda x: x + 2)
  assert fingerprint.of(first) != fingerprint.of(second)


def test_the_order_of_a_set_is_no_difference():
  program = ("from policyopt.training import fingerprint as f\n"
             "print(f.of({'needs': frozenset('abcdefgh')}))")
  found = {subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      check=True, env={**os.environ, 'PYTHONHASHSEED': seed}).stdout
           for seed in ('1', '2')}
  assert len(found) == 1


class _Anything:
  """An object with a state of its own."""


@pytest.mark.parametrize('value', [
    _Anything(), [1, _Anything()], scaled(_Anything()), Scale(_Anything()),
    iter(())])
def test_what_may_be_anything_has_none(value):
  with pytest.raises(TypeError, match='has no fingerprint'):
    fingerprint.of(value)


def test_a_function_from_no_file_has_none(monkeypatch):
  module = types.ModuleType('notebook')
  exec('def f(x): return g(x)\ndef g(x): return x', module.__dict__)  # pylint: disable=exec-used
  monkeypatch.setitem(sys.modules, 'notebook', module)
  with pytest.raises(TypeError, match='has no fingerprint'):
    fingerprint.of(module.f)


def test_every_method_has_its_own():
  found = {}
  for row in TABLE:
    first, second = (
        fingerprint.of(methods.build(row['name'], row['kw'])) for _ in 'ab')
    assert first == second
    found.setdefault(first, []).append((row['name'], row['kw']))
  assert {first: rows for first, rows in found.items() if any(
      row != rows[0] for row in rows)} == {}


def test_what_is_loaded_from_elsewhere_counts(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / 'someones'
  package.mkdir()
  (package / '__init__.py').write_text('')
  (package / 'later.py').write_text('x = 1')
  before = fingerprint.sources()
  __import__('someones')
  loaded = fingerprint.sources()
  (package / 'later.py').write_text('x = 2')
  changed = fingerprint.sources()
  del sys.modules['someones']
  assert len({before, loaded, changed}) == 3
  assert fingerprint.sources() == before


def test_devices_count():
  devices = jax.devices()[:2]
  assert fingerprint.machine(devices) == fingerprint.machine(list(devices))
  assert fingerprint.machine(devices) != fingerprint.machine(devices[:1])


def test_settings_count_unless_they_change_no_program():
  before = fingerprint.settings()
  assert fingerprint.settings() == before
  for name, value, equal in [
      ('jax_default_matmul_precision', 'highest', False),
      ('jax_compiler_detailed_logging_min_ops', 3, True)]:
    old = jax.config.values[name]
    jax.config.update(name, value)
    try:
      assert (fingerprint.settings() == before) == equal
    finally:
      jax.config.update(name, old)
