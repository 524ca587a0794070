"""Compiled programs are found again, and only where they are the same."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods
from policyopt.training import loop, programs
from policyopt.training.learner import Batching, make_learner
from tests.training import factory
from tests.training.test_profile import make_config

TRACED = []


def scaled(factor):
  def times(x, power=1.):
    TRACED.append(x.shape)  # By its module: no part of the closure.
    return factor * x ** power
  return times


def chosen(x, *, name):
  TRACED.append(name)
  return x + len(name)


@pytest.fixture(name='jit')
def _jit(tmp_path):
  """Like a new process, each time: () -> jit of the same folder."""
  TRACED.clear()
  return lambda: programs.Programs(tmp_path, jax.devices()).jit


def test_the_second_process_traces_nothing(jit):
  x = jnp.arange(3.)
  first, second = (jit()(scaled(2.))(x, 3.) for _ in 'ab')
  np.testing.assert_array_equal(first, 2 * np.arange(3.) ** 3)
  np.testing.assert_array_equal(first, second)
  assert len(TRACED) == 1


@pytest.mark.parametrize('factor, x, kwargs', [
    (3., np.arange(3.), {}), (2., np.arange(4.), {}), (2., np.arange(3), {}),
    (2., jnp.arange(3.), {}), (2., np.arange(3.), {'power': 2.}),
    (2., np.float32(1.), {})])
def test_anything_else_is_another_program(jit, factor, x, kwargs):
  jit()(scaled(2.))(np.arange(3.))
  found = jit()(scaled(factor))(x, **kwargs)
  np.testing.assert_allclose(
      found, factor * np.asarray(x) ** kwargs.get('power', 1.))
  # What has the same HLO needs no other program, but it was traced.
  assert len(TRACED) == 2


def test_a_setting_around_the_call_is_another_program(jit):
  call = jit()(scaled(2.))
  for _ in 'ab':
    call(1.)
    with jax.default_matmul_precision('highest'):
      call(1.)
  assert len(TRACED) == 2
  jit()(scaled(2.))(1.)
  assert len(TRACED) == 2


@pytest.mark.parametrize('first', [
    programs.begin, lambda call, x: lambda: call(x)], ids=['begun', 'called'])
def test_what_is_there_is_neither_traced_nor_read_again(
    jit, monkeypatch, first):
  call = jit()(scaled(5.))
  first(call, 1.)()
  monkeypatch.setattr(programs.Programs, '_read', None)
  programs.begin(call, 1.)()
  assert call(1.) == 5. and len(TRACED) == 1


def test_static_arguments(jit):
  for _ in 'ab':
    call = jit()(chosen, static_argnames='name')
    assert [float(call(1., name=n)) for n in ('a', 'bc', 'a')] == [2., 3., 2.]
  assert TRACED == ['a', 'bc']


def test_a_layout_of_its_own(jit, tmp_path):
  mesh = factory.mesh(8, 1, 1, 1)
  rows = jax.NamedSharding(mesh, jax.P('data'))
  whole = jax.NamedSharding(mesh, jax.P())
  x = np.arange(8, dtype=np.float32)
  for _ in 'ab':
    call = jit()(scaled(2.))
    for sharding in (rows, whole):
      out = call(jax.device_put(x, sharding))
      np.testing.assert_array_equal(out, 2 * x)
      assert out.sharding.is_equivalent_to(sharding, 1)
  assert len(TRACED) == 1 and len(list(tmp_path.iterdir())) == 4


def test_donated_arguments_are(jit):
  for _ in 'ab':
    x = jnp.arange(1000.)
    jit()(scaled(2.), donate_argnums=0)(x)
    assert x.is_deleted()


def test_inside_of_another_program(jit):
  call = jit()(scaled(2.))
  np.testing.assert_array_equal(
      jax.jit(jax.vmap(jax.grad(call)))(jnp.ones(3)), 2 * np.ones(3))


def test_another_line_of_a_module_traces_but_does_not_compile(
    jit, tmp_path, monkeypatch):
  jit()(scaled(2.))(1.)
  files = set(tmp_path.iterdir())
  monkeypatch.setattr(programs.fingerprint, 'sources', lambda: 'others')
  assert jit()(scaled(2.))(1.) == 2.
  assert len(TRACED) == 2
  added, = set(tmp_path.iterdir()) - files
  assert added.is_symlink() and added.resolve() in files


@pytest.mark.parametrize('spoil', [
    lambda data: data[:len(data) // 2], lambda data: b'', lambda data: bytes(
        [data[0] ^ 1]) + data[1:]])
def test_a_file_that_is_not_whole_is_made_again(jit, tmp_path, spoil):
  jit()(scaled(2.))(1.)
  file, = (path for path in tmp_path.iterdir() if not path.is_symlink())
  whole = file.read_bytes()
  file.write_bytes(spoil(whole))
  with pytest.warns(UserWarning, match='compiled again'):
    assert jit()(scaled(2.))(1.) == 2.
  assert file.read_bytes() != spoil(whole)
  assert jit()(scaled(2.))(1.) == 2. and len(TRACED) == 2


def test_a_folder_may_be_emptied(jit, tmp_path):
  jit()(scaled(2.))(1.)
  for path in tmp_path.iterdir():
    if not path.is_symlink():
      path.unlink()
  assert jit()(scaled(2.))(1.) == 2. and jit()(scaled(2.))(1.) == 2.
  assert len(TRACED) == 2


def test_what_it_was_called_with_before_is_read_early(jit, tmp_path):
  jit()(scaled(2.))(1.)
  call = jit()(scaled(2.))
  for path in tmp_path.iterdir():
    path.unlink()
  assert call(1.) == 2. and len(TRACED) == 1


@pytest.mark.slow
def test_what_jax_has_kept_is_not_kept_again(jit, tmp_path):
  """JAX's own cache gives programs that cannot be written once more."""
  script = textwrap.dedent("""
      import sys
      import jax
      from policyopt.training import programs
      jax.config.update('jax_compilation_cache_dir', sys.argv[1])
      jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.)
      x = jax.random.normal(jax.random.key(0), (3, 64))
      jit = jax.jit if sys.argv[2] == 'plain' else programs.Programs(
          sys.argv[2], jax.devices()).jit
      print(jit(jax.nn.softmax)(x).sum(), jit(jax.numpy.sort)(x)[0, :3])
  """)
  path = tmp_path / 'script.py'
  path.write_text(script)
  call = lambda folder: subprocess.run(
      [sys.executable, path, tmp_path / 'jax', folder], check=True, text=True,
      capture_output=True, env={**os.environ, 'PYTHONPATH': os.getcwd()}).stdout
  expected = call('plain')
  assert list((tmp_path / 'jax').iterdir())
  folder = tmp_path / 'programs'
  assert [call(folder), call(folder)] == [expected] * 2
  assert len(list(folder.iterdir())) == 4


def test_what_calls_back_is_not_kept(jit, tmp_path):
  def called_back(x):
    return jax.pure_callback(np.sin, jax.typeof(x), x)
  with pytest.warns(UserWarning, match='cannot be kept'):
    assert jit()(called_back)(np.float32(1.)) == np.sin(np.float32(1.))
  assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_costs_no_run(jit, tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(os, 'replace', full)
  with pytest.warns(UserWarning, match='cannot be kept.*No space left'):
    assert jit()(scaled(2.))(1.) == 2.
  assert not list(tmp_path.iterdir())


def test_a_closure_that_may_be_anything_is_compiled_as_ever(jit, tmp_path):
  held = object()
  with pytest.warns(UserWarning, match='compiled anew'):
    call = jit()(lambda x: x + (held is None))
  assert call(1) == 1 and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='programs .*file.* cannot be written'):
    programs.Programs(tmp_path / 'file' / 'folder', jax.devices())


@pytest.mark.parametrize('name', factory.METHODS)
def test_every_part_of_a_learner_is_kept(jit, name):
  """No fingerprint is missing, which would be a warning."""
  found = []
  keep = jit()
  def spy(function, **options):
    found.append(keep(function, **options))
    return found[-1]
  make_learner(factory.MODEL, factory.method(name), factory.SGD,
               factory.mesh(), batching=Batching(), jit=spy)
  assert len(found) == 3
  assert all(isinstance(x, programs._Program) for x in found)


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compiles')
@pytest.mark.parametrize('changes', [
    {}, {'optimizer.learning_rate': 1e-2, 'batching.packed': True},
    {'rollout.dtype': 'bfloat16', 'method_kw.beta': 0.}])
def test_runs_are_the_same_with_and_without(tmp_path, changes):
  """Whatever was kept of other runs: the same rows and the same numbers."""
  folder = tmp_path / 'programs'

  def run(workdir, folder, changes):
    config = make_config(programs=folder and str(folder))
    config.update_from_flattened_dict(changes)
    loop.train(config, methods.from_config(config), str(tmp_path / workdir))
    read = lambda name: (tmp_path / workdir / name).read_text()
    return read('metrics.jsonl'), read('samples.jsonl')

  expected = run('without', None, changes)
  run('others', folder, {})
  kept = set(folder.iterdir())
  assert run('first', folder, changes) == expected
  assert (set(folder.iterdir()) == kept) == (not changes)
  kept = set(folder.iterdir())
  assert run('second', folder, changes) == expected
  assert set(folder.iterdir()) == kept
