"""Public names: documented, importable, listed once, cheap to import."""

import collections
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import subprocess
import sys
import textwrap

import pytest

import policyopt

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(policyopt.__path__, 'policyopt.'))
FOLDERS = sorted({name.rsplit('.', 1)[0] for name in MODULES
                  if name.count('.') > 1})


def summary(thing):
  """The first line of a thing's own docstring; '' if Python has made it up."""
  if isinstance(thing, type):
    own = vars(thing).get('__doc__') or ''
    own = '' if own.startswith(f'{thing.__name__}(') else own
  else:
    own = getattr(thing, '__doc__', None) or ''
  return own.strip().split('\n')[0]


def undocumented(name, thing):
  """Dotted names of what lacks a docstring: the thing or its methods."""
  if not summary(thing):
    yield name
  if not isinstance(thing, type):
    return
  for attribute, value in vars(thing).items():
    value = getattr(value, '__func__', value)
    if not attribute.startswith('_') and isinstance(
        value, (property, type(summary))):
      if not summary(value):
        yield f'{name}.{attribute}'


def test_there_is_something_to_check():
  assert len(MODULES) > 40 and 'policyopt.ops.statistics' in MODULES


@pytest.mark.parametrize('name', ['policyopt', *MODULES])
def test_public_names_are_documented(name):
  module = importlib.import_module(name)
  missing = [] if summary(module) else [name]
  for attribute, thing in vars(module).items():
    here = getattr(thing, '__module__', None) == name
    if here and callable(thing) and not attribute.startswith('_'):
      missing += undocumented(f'{name}.{attribute}', thing)
  assert not missing, f'without docstring: {missing}'


def test_a_missing_docstring_is_seen():
  class Thing:
    """What it is."""

    def bare(self):
      pass

    def told(self):
      """What it does."""

  # Python writes a docstring of its own for these.
  made_up = collections.namedtuple('Pair', 'first second')
  assert list(undocumented('t.Thing', Thing)) == ['t.Thing.bare']
  assert list(undocumented('t.f', lambda: 0)) == ['t.f']
  assert list(undocumented('t.Pair', made_up)) == ['t.Pair']


@pytest.mark.parametrize('name', ['policyopt', *FOLDERS])
def test_listed_names_exist_once(name):
  module = importlib.import_module(name)
  assert len(set(module.__all__)) == len(module.__all__)
  missing = [public for public in module.__all__
             if not hasattr(module, public)]
  assert not missing
  assert not [public for public in module.__all__ if public.startswith('_')]
  assert set(module.__all__) <= set(dir(module))


def test_a_name_has_one_home():
  listed = [name for names in policyopt._HOMES.values() for name in names]
  assert len(set(listed)) == len(listed)
  assert not set(listed) & set(policyopt._FOLDERS)
  for home, names in policyopt._HOMES.items():
    module = importlib.import_module(home)
    for name in names:
      assert getattr(policyopt, name) is getattr(module, name)
      if home != 'policyopt.types':
        assert name in module.__all__, f'{home} does not list {name}'


def test_every_recipe_and_every_record_is_public():
  from policyopt import methods, types
  records = {name for name, thing in vars(types).items()
             if inspect.isclass(thing) and thing.__module__ == types.__name__
             and not name.startswith('_')}
  assert set(methods.names()) | records <= set(policyopt.__all__)


def test_an_unknown_name_is_named():
  with pytest.raises(AttributeError, match="policyopt has no 'gpro'"):
    _ = policyopt.gpro
  with pytest.raises(ImportError, match='gpro'):
    from policyopt import gpro  # noqa: F401


def loaded(program, cwd):
  """Top-level modules that a fresh Python has after the program."""
  program = textwrap.dedent(program) + textwrap.dedent("""
      import json, sys
      print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))
      """)
  done = subprocess.run(
      [sys.executable, '-W', 'error', '-c', program], text=True, cwd=cwd,
      capture_output=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr
  return set(json.loads(done.stdout))


def test_the_package_is_cheap_to_import(tmp_path):
  found = loaded("""
      import time
      start = time.process_time()
      import policyopt
      assert time.process_time() - start < 2.
      assert 'grpo' in dir(policyopt) and policyopt.__doc__
      """, tmp_path)
  assert not found & {'jax', 'flax', 'orbax', 'optax', 'matplotlib',
                      'reasoning_gym', 'tensorboardX'}


def test_kernels_need_only_jax(tmp_path):
  """What someone pays who imports a kernel or a transform and no more."""
  found = loaded("""
      import time
      import chex, jax, jax.numpy as jnp
      start = time.process_time()
      from policyopt import credit, losses, planning
      from policyopt.ops import segments
      from policyopt.ops.statistics import pass_at_k
      from policyopt import clipped_surrogate
      assert time.process_time() - start < 2.
      assert pass_at_k(jnp.array([1]), jnp.array([2]), 1)[0] == 0.5
      """, tmp_path)
  assert {'jax', 'policyopt'} <= found
  assert not found & {'flax', 'orbax', 'optax', 'matplotlib', 'tokenizers',
                      'reasoning_gym', 'sentencepiece', 'tensorboardX', 'tqdm'}


def test_a_method_needs_no_training_libraries(tmp_path):
  found = loaded("""
      import policyopt
      assert policyopt.grpo().loss.apply
      """, tmp_path)
  assert not found & {'orbax', 'matplotlib', 'reasoning_gym', 'tensorboardX'}
