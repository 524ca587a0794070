"""Tests of checkpoints: exactness, damage, kills."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from policyopt import types
from policyopt.training.checkpoints import Checkpoints


def train_state(fill=0., width=4):
  fill = float(fill)
  params = {'layers': {'kernel': jnp.full((2, width), fill),
                       'low': jnp.full((3,), fill, jnp.bfloat16)}}
  return types.TrainState(
      step=jnp.int32(fill), params=params,
      opt_state=optax.adamw(1e-3).init(params),
      credit_state=((), (jnp.float32(fill), ()), None),
      plan_state={'position': jnp.int32(7), 'order': jnp.zeros((0,), int)},
      key=jax.random.key(3), skipped=jnp.int32(0))


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for mine, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert mine.dtype == other.dtype and mine.shape == other.shape
    if jnp.issubdtype(mine.dtype, jax.dtypes.prng_key):
      mine, other = jax.random.key_data(mine), jax.random.key_data(other)
    np.testing.assert_array_equal(mine, other)


def abstract(state):
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with the checkpoints of steps 1 and 2."""
  folder = tmp_path_factory.mktemp('saved')
  checkpoints = Checkpoints(folder)
  for step in (1, 2):
    checkpoints.save(step, train_state(step))
  return folder


def test_restores_exactly(saved):
  state, step = Checkpoints(saved).restore(abstract(train_state()))
  assert step == 2 == Checkpoints(saved).latest()
  assert_same(state, train_state(2))
  # A concrete state describes itself as well, and the key still draws.
  again, _ = Checkpoints(saved).restore(train_state())
  assert_same(again, state)
  assert jax.random.bits(state.key) == jax.random.bits(jax.random.key(3))


def test_an_empty_folder_has_nothing(tmp_path):
  checkpoints = Checkpoints(tmp_path / 'none')
  assert checkpoints.latest() is None
  assert checkpoints.restore(train_state()) is None
  assert not (tmp_path / 'none').exists()


def test_host_values_and_shapes_without_sharding(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  state = {'array': np.arange(3), 'count': 5, 'rate': 0.5,
           'device': jnp.ones(2), 'empty': np.zeros((0, 2))}
  checkpoints.save(0, state)
  device = jax.ShapeDtypeStruct((2,), jnp.float32)
  restored, _ = checkpoints.restore({**state, 'device': device})
  assert restored['count'] == 5 and restored['rate'] == 0.5
  assert isinstance(restored['array'], np.ndarray)
  assert restored['array'].tolist() == [0, 1, 2]
  assert restored['device'].tolist() == [1., 1.]
  assert restored['empty'].shape == (0, 2)


def test_sharded_arrays_move_to_another_mesh(tmp_path):
  def put(shape, spec):
    mesh = jax.make_mesh(shape, ('data', 'tensor'),
                         axis_types=(AxisType.Auto,) * 2)
    return {
        'kernel': jax.device_put(
            jnp.arange(32.).reshape(8, 4), NamedSharding(mesh, spec)),
        'key': jax.device_put(jax.random.key(1), NamedSharding(mesh, P()))}

  before, after = put((4, 2), P('data', 'tensor')), put((2, 4), P(None, 'data'))
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, before)
  restored, _ = checkpoints.restore(abstract(after))
  assert_same(restored, before)
  for name, x in after.items():
    assert restored[name].sharding == x.sharding


def test_keeps_the_newest(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step in (1, 2, 3):
    checkpoints.save(step, {'x': jnp.float32(step)})
  assert sorted(p.name for p in tmp_path.iterdir()) == ['00000002', '00000003']
  # Going back in time replaces what lies ahead.
  checkpoints.save(2, {'x': jnp.float32(20)})
  assert checkpoints.steps() == [2]
  assert checkpoints.restore({'x': jnp.float32(0)}) == ({'x': 20.}, 2)


def test_keep_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match='keep is 0'):
    Checkpoints(tmp_path, keep=0)


def files(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob('*')
                if p.is_file())


def truncate(path):
  path.write_bytes(path.read_bytes()[:-1] if path.stat().st_size else b'x')


def empty(path):
  path.write_bytes(b'' if path.stat().st_size else b'xx')


def flip(path):
  data = bytearray(path.read_bytes() or b'-')
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize(
    'damage', [pathlib.Path.unlink, truncate, empty, flip])
def test_damage_to_any_file_falls_back(saved, tmp_path, damage):
  names = files(saved / '00000002')
  assert len(names) >= 8
  for number, name in enumerate(names):
    folder = tmp_path / str(number)
    shutil.copytree(saved, folder)
    damage(folder / '00000002' / name)
    with pytest.warns(UserWarning, match=f'step 2 passed over: .*{name}'):
      state, step = Checkpoints(folder).restore(train_state())
    assert step == 1
    assert_same(state, train_state(1))


def test_a_lost_folder_falls_back_and_is_replaced(saved, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(saved, folder)
  shutil.rmtree(folder / '00000002' / 'state')
  checkpoints = Checkpoints(folder)
  with pytest.warns(UserWarning, match='is missing'):
    assert checkpoints.restore(train_state())[1] == 1
  checkpoints.save(2, train_state(2))
  assert_same(checkpoints.restore(train_state())[0], train_state(2))


def test_nothing_intact_is_none(saved, tmp_path):
  folder = tmp_path / 'copy'
  shutil.copytree(saved, folder)
  for step in (1, 2):
    (folder / f'{step:08d}' / 'manifest.json').unlink()
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    assert Checkpoints(folder).restore(train_state()) is None
  assert [f'step {step}' in str(w.message)
          for step, w in zip((2, 1), caught)] == [True, True]


@pytest.mark.parametrize('change, message', [
    (lambda s: train_state(width=5),
     r"'params/layers/kernel' is float32\[2, 4\] there and float32\[2, 5\]"),
    (lambda s: s._replace(step=jnp.float32(0)),
     r"'step' is int32\[\] there and float32\[\] here"),
    (lambda s: s._replace(params={'other': s.params['layers']}),
     "it has 'params/layers/kernel' where this run has 'params/other/kernel'"),
    (lambda s: {'all': s, 'more': jnp.zeros(1)}, "it has 'step' where"),
    (lambda s: s._replace(skipped=()), "only the checkpoint has 'skipped'"),
    (lambda s: s._replace(skipped=(s.skipped, s.step)),
     "it has 'skipped' where this run has 'skipped/0'"),
])
def test_another_model_is_refused(saved, change, message):
  with pytest.raises(ValueError, match='another model: .*' + message):
    Checkpoints(saved).restore(change(train_state()))


def test_what_only_this_run_has_is_named(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, [jnp.zeros(1)])
  with pytest.raises(ValueError, match="only this run has '1'"):
    checkpoints.restore([jnp.zeros(1), jnp.zeros(2)])


@pytest.mark.parametrize('point', [
    '_write_manifest', 'rename', '_prune', '_clean'])
def test_a_save_that_stops_anywhere_leaves_a_state(
    tmp_path, monkeypatch, point):
  """What a kill leaves: nothing after this point of the save has happened."""
  def stop(*args):
    raise KeyboardInterrupt

  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, {'x': jnp.float32(1)})
  owner = {'_write_manifest': 'policyopt.training.checkpoints',
           'rename': 'pathlib.Path'}.get(
               point, 'policyopt.training.checkpoints.Checkpoints')
  with monkeypatch.context() as patch:
    patch.setattr(f'{owner}.{point}', stop)
    with pytest.raises(KeyboardInterrupt):
      checkpoints.save(2, {'x': jnp.float32(2)})
  state, step = Checkpoints(tmp_path, keep=1).restore({'x': jnp.float32(0)})
  assert state['x'] == step in (1, 2)
  checkpoints.save(3, {'x': jnp.float32(3)})
  assert [p.name for p in tmp_path.iterdir()] == ['00000003']


@pytest.mark.slow
def test_a_killed_process_leaves_a_state(tmp_path):
  """SIGKILL at unforeseen moments of a process that does nothing but save."""
  program = textwrap.dedent("""
      import sys
      import jax.numpy as jnp
      from policyopt.training.checkpoints import Checkpoints
      checkpoints = Checkpoints(sys.argv[1])
      restored = checkpoints.restore({'x': jnp.zeros((64, 64))})
      step = restored[1] if restored else 0
      while True:
        step += 1
        checkpoints.save(step, {'x': jnp.full((64, 64), float(step))})
        print(step, flush=True)
      """)
  last = 0
  for delay in (0.013, 0.029, 0.051):
    process = subprocess.Popen(
        [sys.executable, '-W', 'error', '-c', program, str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    with process:
      reported = int(process.stdout.readline())
      time.sleep(delay)
      process.send_signal(signal.SIGKILL)
      reported = max([reported, *map(int, process.stdout.read().split())])
    state, step = Checkpoints(tmp_path).restore({'x': jnp.zeros((64, 64))})
    assert last < reported <= step <= reported + 1
    assert (state['x'] == step).all()
    last = step


def test_saving_a_small_state_is_fast(tmp_path):
  state = {str(i): jax.random.normal(jax.random.key(i), (256, 256))
           for i in range(20)}
  checkpoints = Checkpoints(tmp_path)
  seconds = []
  for step in range(4):
    start = time.perf_counter()
    checkpoints.save(step, state)
    seconds.append(time.perf_counter() - start)
  # Far above what it takes on an idle machine, far below what would hurt.
  assert min(seconds) < 2.
