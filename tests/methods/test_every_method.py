"""What must hold for every method, row by row of `table.TABLE`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods
from tests.golden_adapters import ADAPTERS
from tests.methods import rollouts
from tests.methods.table import TABLE


def _params():
  """Every row; the further settings of a method only with the slow tests."""
  seen = set()
  for index, row in enumerate(TABLE):
    marks = [pytest.mark.slow] if row['name'] in seen else []
    seen.add(row['name'])
    yield pytest.param(index, marks=marks, id=f'{index}-{row["name"]}')


pytestmark = pytest.mark.parametrize('row', list(_params()))


# These programs are compiled once and run on a handful of tokens.
_jit = functools.partial(
    jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def _method(row):
  return methods.build(TABLE[row]['name'], TABLE[row]['kw'])


@functools.cache
def _compiled(row):
  traces = []

  def run(rollout, policy):
    traces.append(1)
    return rollouts.run_and_fill(_method(row), rollout, policy)

  return _jit(run), traces


@functools.cache
def _usual(binary):
  return rollouts.make(rewards=_random_rewards(binary))


@functools.cache
def _other(name, kw):
  """Another method as a program, which several rows may be compared with."""
  return _jit(functools.partial(rollouts.run, methods.build(name, dict(kw))))


def _make(row, **kw):
  if kw:
    kw.setdefault('rewards', _rewards(row))
    rollout, policy = rollouts.make(**kw)
  else:
    rollout, policy = _usual(TABLE[row].get('rewards') == 'binary')
  return rollouts.keep_extras(rollout, rollouts.needs(_method(row))), policy


def _run(row, rollout, policy):
  return _compiled(row)[0](rollout, policy)[0]


def _close(actual, expected, atol=1e-6, drop=()):
  actual, expected = (
      {k: v for k, v in x.items() if k not in drop} for x in (actual, expected))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol),
      actual, expected)


def _rows(tree, rows):
  return jax.tree.map(
      lambda x: x[rows] if jnp.ndim(x) else x, tree)


def _random_rewards(binary):
  rewards = np.random.default_rng(1).normal(size=rollouts.ROWS)
  return (rewards > 0 if binary else rewards).astype(np.float32)


def _rewards(row):
  """Random rewards f32[B], right or wrong where the row says 'binary'."""
  return _random_rewards(TABLE[row].get('rewards') == 'binary')


@pytest.mark.slow
def test_jit_equals_eager(row):
  rollout, policy = _make(row)
  method = _method(row)
  filled, advantages, weights, _ = rollouts.assign(
      method, rollouts.initial_state(method), rollout)
  loss, metrics = method.loss.apply(policy, advantages, weights, filled)
  compiled = _run(row, rollout, policy)
  _close(dict(advantages=advantages, weights=weights, loss=loss,
              metrics=metrics), {
                  k: compiled[k]
                  for k in ('advantages', 'weights', 'loss', 'metrics')})


def test_second_call_does_not_retrace(row):
  run, traces = _compiled(row)
  for seed in (0, 1):
    run(*_make(row, seed=seed))
  assert len(traces) == 1


def test_rows_may_come_in_any_order(row):
  rollout, policy = _make(row)
  order = np.random.default_rng(0).permutation(rollouts.ROWS)
  moved = _run(row, _rows(rollout, order), _rows(policy, order))
  whole = _run(row, rollout, policy)
  _close(moved, {**_rows(whole, order), 'loss': whole['loss'],
                 'metrics': whole['metrics'], 'reported': whole['reported']},
         drop=('state',))


def test_group_ids_are_only_names(row):
  rollout, policy = _make(row)
  names = np.array([9, 1, 15, 0, 2, 4, 3, 11, 5, 6, 7, 8, 10, 12, 13, 14, -1])
  renamed = rollout._replace(group=jnp.asarray(names)[rollout.group])
  _close(_run(row, renamed, policy), _run(row, rollout, policy))


def test_padding_changes_nothing(row):
  rollout, policy = _make(row)
  rows, columns = np.flatnonzero(rollouts.GROUP >= 0), rollouts.TOKENS - 1
  assert not rollout.mask[:, columns:].any()

  def cut(x):
    x = x[rows]
    return x[:, :columns] if x.ndim >= 2 else x

  small = _run(row, *jax.tree.map(cut, (rollout, policy)))
  whole = _run(row, rollout, policy)
  for name in ('advantages', 'weights'):
    np.testing.assert_allclose(
        small[name], cut(whole[name]), rtol=1e-5, atol=1e-6)
  _close(small, whole, drop=('advantages', 'weights', 'gradient', 'state'))
  outside = np.asarray(~rollout.mask)
  for x in (whole['weights'], *whole['gradient']):
    assert (np.asarray(x)[outside] == 0).all()


def test_observations_may_stand_anywhere(row):
  """What the policy did not choose costs nothing and earns nothing."""
  if TABLE[row].get('counts_observations'):
    pytest.skip('its definition counts observation tokens')
  rollout, policy = _make(row)
  moves = rollouts.insertions(rollout.mask)
  assert (moves != np.arange(rollouts.TOKENS))[np.asarray(rollout.mask)].any()
  longer = rollouts.insert((rollout, policy), moves)
  whole, out = _run(row, rollout, policy), _run(row, *longer)
  mask = np.asarray(rollout.mask)

  def back(x):
    x = np.take_along_axis(np.asarray(x), moves, axis=1)
    return np.where(mask, x, 0)

  for name in ('advantages', 'weights'):
    np.testing.assert_allclose(
        back(out[name]), np.where(mask, whole[name], 0), rtol=1e-5, atol=1e-6)
  for ours, before in zip(out['gradient'], whole['gradient']):
    np.testing.assert_allclose(back(ours), before, rtol=1e-5, atol=1e-6)
  _close({k: out[k] for k in ('loss', 'metrics', 'reported')},
         {k: whole[k] for k in ('loss', 'metrics', 'reported')})


def test_what_lies_outside_the_mask_is_never_read(row):
  rollout, policy = _make(row)
  def junk(x):
    mask = rollout.mask.reshape(rollout.mask.shape + (1,) * (x.ndim - 2))
    return jnp.where(mask, x, jnp.asarray(1e3, x.dtype)) if x.ndim > 1 else x

  dirty = rollout._replace(
      log_probs=junk(rollout.log_probs),
      # Those of the prompt are outside the mask.
      extras={name: x if name == 'prompt_log_probs' else junk(x)
              for name, x in rollout.extras.items()})
  with_nan = jax.tree.map(
      lambda x: jnp.where(rollout.mask, x, jnp.nan), policy)
  actual, expected = _run(row, dirty, with_nan), _run(row, rollout, policy)
  _close(actual, expected, drop=('advantages', 'state'))


def test_rows_of_no_group_take_no_part(row):
  rollout, policy = _make(row)
  out = np.array([0, 7])
  left_out = rollout._replace(
      group=rollout.group.at[out].set(-1),
      mask=rollout.mask.at[out].set(False))
  loud = left_out._replace(rewards=jax.tree.map(
      lambda x: x.at[out].set(1e4), left_out.rewards))
  expected, actual = (_run(row, r, policy) for r in (left_out, loud))
  _close(actual, expected, drop=('state',))
  assert (np.asarray(actual['weights'])[out] == 0).all()


def test_equal_rewards(row):
  rollout, policy = _make(row, rewards=np.full(rollouts.ROWS, .1, np.float32))
  out = _run(row, rollout, policy)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
  if TABLE[row]['zero_on_flat_group']:
    assert (np.asarray(out['advantages']) == 0).all()
  else:
    assert np.abs(out['advantages']).max() > 0


def test_shifted_rewards(row):
  rewards = _rewards(row)
  plain, shifted = (
      _run(row, *_make(row, rewards=(rewards + by).astype(np.float32)))
      for by in (0., 3.))
  # The single row of its group has nobody to be compared with.
  difference = np.abs(plain['advantages'] - shifted['advantages']).max()
  if TABLE[row]['shift_invariant']:
    assert difference < 1e-4
  else:
    assert difference > 1e-3


def test_groups_of_one(row):
  rollout, policy = _make(row, group=np.arange(rollouts.ROWS))
  out = _run(row, rollout, policy)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
  if _method(row).min_group > 1:
    assert (np.asarray(out['advantages']) == 0).all()


def test_empty_mask(row):
  rollout, policy = _make(
      row, mask=np.zeros((rollouts.ROWS, rollouts.TOKENS), bool))
  out = _run(row, rollout, policy)
  for x in jax.tree.leaves({k: out[k] for k in out if k != 'state'}):
    assert (np.asarray(x) == 0).all()


@pytest.mark.parametrize('move', [-1e4, 1e4, 60.])
def test_extreme_ratios_stay_finite(row, move):
  rollout, policy = _make(row)
  far = policy._replace(log_probs=jnp.where(
      rollout.mask, policy.log_probs + move, 0))
  out = _run(row, rollout, far)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


def test_microbatches_sum_to_the_whole(row):
  method = _method(row)
  rollout, policy = _make(row)
  whole, filled = _compiled(row)[0](rollout, policy)
  advantages, weights = whole['advantages'], whole['weights']
  part = _jit(functools.partial(rollouts.loss_and_gradient, method))
  # Between groups: losses may pair the rows of one.
  order = np.argsort(rollouts.GROUP, kind='stable')
  parts = [
      part(*_rows((policy, advantages, weights, filled), order[half]))
      for half in (slice(0, 8), slice(8, 16))]
  (loss, metrics), _ = jax.tree.map(lambda a, b: a + b, *(
      (x[0], ()) for x in parts))
  gradient = jax.tree.map(
      lambda a, b: jnp.concatenate([a, b]), *(x[1] for x in parts))
  _close(dict(loss=loss, metrics=metrics, gradient=gradient),
         dict(loss=whole['loss'], metrics=whole['metrics'],
              gradient=_rows(whole['gradient'], order)))


@pytest.mark.slow
def test_eight_devices_equal_one(row):
  mesh = jax.make_mesh(
      (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  rollout, policy = _make(row)
  sharded = _run(row, *jax.device_put((rollout, policy), rows))
  assert len(sharded['advantages'].sharding.device_set) == 8
  _close(sharded, _run(row, rollout, policy))


def test_needs_are_honest(row):
  method = _method(row)
  needs = rollouts.needs(method) - {'token_rewards'}
  rollout, policy = rollouts.make()
  # What is not declared enters no operation of the traced program.
  traced = jax.make_jaxpr(functools.partial(rollouts.run, method))(
      rollout, policy).jaxpr
  paths = [jax.tree_util.keystr(path) for path, _ in
           jax.tree_util.tree_leaves_with_path((rollout, policy))]
  inputs = dict(zip(paths, traced.invars, strict=True))
  used = {id(v) for eqn in traced.eqns for v in eqn.invars}
  used |= {id(v) for v in traced.outvars}
  read = {name for name in rollout.extras
          if id(inputs[f"[0].extras['{name}']"]) in used}
  assert read <= needs
  assert read | {'entropy'} >= needs & rollout.extras.keys()
  for name in needs & rollout.extras.keys():
    missing = rollouts.keep_extras(rollout, needs - {name})
    silent = policy._replace(entropy=None) if name == 'entropy' else policy
    with pytest.raises(ValueError, match=f"needs .*'{name}'.*supplied by"):
      jax.eval_shape(
          functools.partial(rollouts.run, method), missing, silent)


def test_state_survives_a_round_trip(row):
  method = _method(row)
  rollout, policy = _make(row)
  before = _run(row, rollout, policy)['state']
  leaves, structure = jax.tree.flatten(before)
  restored = jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])
  assert jax.tree.structure(restored) == jax.tree.structure(
      rollouts.initial_state(method))


def test_what_is_reported(row):
  """A method's own numbers are there, finite, and keep their names."""
  out = _run(row, *_make(row))
  wanted = TABLE[row].get('diagnostics', ())
  assert set(wanted) <= out['reported'].keys() | out['metrics'].keys()
  for total, weight in out['reported'].values():
    assert np.isfinite(total) and np.isfinite(weight)
    assert jnp.ndim(total) == jnp.ndim(weight) == 0
  assert not out['reported'].keys() & out['metrics'].keys()


def test_the_stated_reduction(row):
  """At a special setting the method is another one."""
  reduction = TABLE[row].get('reduces_to')
  if reduction is None:
    return
  rollout, policy = _usual(TABLE[row].get('rewards') == 'binary')
  kw = TABLE[row]['kw'] | reduction['kw']
  names = reduction.get('parts', ('advantages', 'weights', 'loss', 'gradient'))
  ours, theirs = (
      _other(name, tuple(sorted(of.items())))(rollout, policy)
      for name, of in ((TABLE[row]['name'], kw),
                       (reduction['to'], reduction.get('to_kw', {}))))
  scale = reduction.get('scale', 1.)
  _close({name: ours[name] for name in names},
         jax.tree.map(lambda x: x * scale, {n: theirs[n] for n in names}))


def test_golden_files_exist(row):
  for name in TABLE[row].get('golden', ()):
    assert name.removesuffix('.json') in ADAPTERS


def test_a_bandit_improves(row):
  """One question with one right answer among four tokens."""
  method = _method(row)
  start, _ = rollouts.make(
      group=np.arange(32) // 8, mask=np.ones((32, 1), bool),
      rewards=np.zeros(32))
  start = rollouts.keep_extras(start, rollouts.needs(method))

  def step(params, key):
    log_p = jax.nn.log_softmax(params)
    token = jax.random.categorical(key, log_p, shape=(32, 1))
    sampled = log_p[token]
    rollout = start._replace(
        tokens=token, log_probs=sampled,
        rewards={'accuracy': (token == 2).astype(jnp.float32)})
    bandit = {
        **dict.fromkeys(('ref_log_probs', 'old_log_probs', 'policy_log_probs',
                         ), sampled),
        'answer_id': token[:, 0], 'entropy': jnp.full(
            (32, 1), -jnp.sum(jnp.exp(log_p) * log_p)),
        'top_probs': jnp.tile(jnp.sort(jnp.exp(log_p))[::-1], (32, 1, 1)),
        'top_ids': jnp.tile(jnp.argsort(-log_p), (32, 1, 1)),
        'sum_squared_probs': jnp.full(
            (32, 1), jnp.sum(jnp.exp(2 * log_p))),
        'hidden_states': jnp.ones((32, 1, rollouts.WIDTH)),
    }
    rollout = rollout._replace(
        extras={k: bandit.get(k, jnp.zeros_like(x))
                for k, x in rollout.extras.items()})
    rollout, advantages, weights, _ = rollouts.assign(
        method, rollouts.initial_state(method), rollout)

    def loss(params):
      log_p = jax.nn.log_softmax(params)
      entropy = jnp.full((32, 1), -jnp.sum(jnp.exp(log_p) * log_p))
      policy = rollouts.types.PolicyOutput(
          log_probs=log_p[token], entropy=entropy, values=jnp.zeros((32, 1)))
      return method.loss.apply(policy, advantages, weights, rollout)[0]

    return params - 2. * jax.grad(loss)(params), jnp.exp(log_p[2])

  keys = jax.random.split(jax.random.key(0), 60)
  _, success = _jit(lambda p: jax.lax.scan(step, p, keys))(jnp.zeros(4))
  assert success[0] == pytest.approx(.25)
  assert success[-1] > TABLE[row].get('bandit', .6)
