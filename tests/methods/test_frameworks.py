"""The presets by framework: what exists, errors, and what holds for each."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods
from policyopt.methods import Dialect, framework_dialect
from tests.methods import rollouts

PRESETS = [(framework, algorithm) for framework in methods.frameworks()
           for algorithm in methods.algorithms(framework)]
by_preset = pytest.mark.parametrize('preset', PRESETS, ids='-'.join)
TOLD = ('source', 'remarks')


def _differences(one, other):
  """The fields in which two presets differ."""
  one, other = methods.dialect(*one), methods.dialect(*other)
  return {field: getattr(other, field) for field in Dialect._fields
          if field not in TOLD and getattr(one, field) != getattr(other, field)}


@functools.cache
def _fixed():
  """Rewards some of which are equal in a group, so that ties are seen."""
  rewards = np.random.default_rng(5).integers(0, 2, rollouts.ROWS)
  return rollouts.make(seed=3, rewards=rewards.astype(np.float32))


def _close(actual, expected, atol=1e-6):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=atol), actual, expected)


@functools.cache
def _compiled(preset, changes=()):
  method = methods.in_framework(*preset, **dict(changes))
  return jax.jit(functools.partial(rollouts.run_and_fill, method))


def _run(preset, rollout, policy, **changes):
  return _compiled(preset, tuple(changes.items()))(rollout, policy)[0]


# What exists, and errors ------------------------------------------------------


def test_what_exists():
  assert len(PRESETS) == 15
  assert methods.algorithms('verl') == ('grpo', 'rloo', 'ppo')
  assert methods.algorithms('prime-rl') == ('grpo',)
  for preset in PRESETS:
    assert isinstance(methods.dialect(*preset), Dialect)


@by_preset
def test_a_source_names_repository_version_and_files(preset):
  source = methods.dialect(*preset).source
  found = re.fullmatch(
      r'[\w-]+/[\w-]+ ([0-9a-f]{8}|\d+\.\d+\.\d+): (.+)', source)
  assert all('/' in path and '.' in path for path in found[2].split(', '))


def test_every_field_is_documented():
  documented = re.findall(r'^    (\w+): ', Dialect.__doc__, re.M)
  assert documented == [
      *[f for f in documented if f in Dialect._fields]]
  assert sorted(documented) == sorted(Dialect._fields)


@pytest.mark.parametrize('call, message', [
    (lambda: methods.dialect('vrl', 'grpo'),
     "unknown framework 'vrl': did you mean 'verl' or 'trl'? Known: nemo"),
    (lambda: methods.algorithms('rllib'), "unknown framework 'rllib'"),
    (lambda: methods.dialect('verl', 'gppo'),
     "unknown algorithm 'gppo': did you mean 'ppo' or 'grpo'?"),
    (lambda: methods.in_framework('trl', 'ppo'),
     "'trl' has no 'ppo', only grpo, rloo; 'ppo' exists in verl, tunix, nemo, "
     'openrlhf'),
    (lambda: methods.in_framework('prime-rl', 'rloo'),
     "'prime-rl' has no 'rloo', only grpo; 'rloo' exists in verl, trl, tunix, "
     'openrlhf'),
    (lambda: methods.in_framework('verl', 'grpo', clip_hihg=.3),
     "unknown field of verl grpo 'clip_hihg': did you mean 'clip_high'"),
    (lambda: methods.in_framework('verl', 'grpo', std='others'),
     "std is 'others' and baseline is 'group_mean'"),
    (lambda: methods.in_framework('verl', 'grpo', baseline='value'),
     "baseline is 'value'; it must be one of"),
    (lambda: methods.in_framework('prime-rl', 'grpo', importance='token'),
     "old must be 'old_log_probs'"),
    (lambda: methods.in_framework('verl', 'grpo', drift_penalty=.1),
     "drift_penalty is 0.1 and trust_region is 'ratio'"),
    (lambda: methods.in_framework('prime-rl', 'grpo', dual_clip=3.),
     "dual_clip is 3.0 and trust_region is 'probability'"),
    (lambda: methods.in_framework('verl', 'ppo', kl_place='advantage'),
     "kl_place is 'advantage' and baseline is 'critic'"),
    # β is 0 there, and the estimator not used.
    (lambda: methods.in_framework('verl', 'grpo', kl='k4'), "kl is 'k4'"),
    (lambda: methods.in_framework(
        'verl', 'grpo', aggregation='constant_length'), 'needs a length'),
], ids=lambda x: None if callable(x) else x[:30])
def test_errors(call, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    call()


@pytest.mark.parametrize('field', framework_dialect._CHOICES)
def test_every_choice_makes_a_method(field):
  made = 0
  for value in framework_dialect._CHOICES[field]:
    for preset in PRESETS:
      choices = methods.dialect(*preset)._replace(**{field: value})
      try:
        framework_dialect.check_dialect(choices)
      except ValueError:
        continue
      methods.in_framework(*preset, **{field: value})
      made += 1
      break
  assert made == len(framework_dialect._CHOICES[field])


# What holds for each ----------------------------------------------------------


@by_preset
def test_microbatches_sum_to_the_whole(preset):
  method = methods.in_framework(*preset)
  rollout, policy = _fixed()
  whole, filled = _compiled(preset)(rollout, policy)
  compiled = jax.jit(functools.partial(rollouts.loss_and_gradient, method))
  loss, metrics, gradients = 0., None, []
  for rows in (slice(0, 8), slice(8, 16)):
    part = jax.tree.map(lambda x, rows=rows: x[rows], (
        policy, whole['advantages'], whole['weights'], filled))
    (value, reported), gradient = compiled(*part)
    loss += value
    metrics = reported if metrics is None else jax.tree.map(
        jnp.add, metrics, reported)
    gradients.append(gradient)
  _close((loss, metrics), (whole['loss'], whole['metrics']))
  _close(jax.tree.map(lambda *x: jnp.concatenate(x), *gradients),
         whole['gradient'])


@by_preset
def test_padding_and_the_order_of_rows_change_nothing(preset):
  rollout, policy = _fixed()
  whole = _run(preset, rollout, policy)
  rng = np.random.default_rng(0)
  order = rng.permutation(rollouts.ROWS)

  def move(x):
    if not jnp.ndim(x):
      return x
    x = np.asarray(x)[order]
    pads = [(0, 3)] + [(0, 2)] * (x.ndim > 1) + [(0, 0)] * (x.ndim - 2)
    return jnp.asarray(np.pad(x, pads))

  wide, far = jax.tree.map(move, (rollout, policy))
  wide = wide._replace(group=wide.group.at[rollouts.ROWS:].set(-1))
  moved = _run(preset, wide, far)
  _close({k: moved[k] for k in ('loss', 'metrics', 'reported')},
         {k: whole[k] for k in ('loss', 'metrics', 'reported')})
  for name in ('advantages', 'weights', 'gradient'):
    _close(moved[name], jax.tree.map(move, whole[name]))


@by_preset
def test_degenerate_batches_are_finite(preset):
  rollout, policy = _fixed()
  alone = rollout._replace(group=jnp.arange(rollouts.ROWS))
  empty = rollout._replace(mask=jnp.zeros_like(rollout.mask))
  for batch in (alone, empty):
    out = _run(preset, batch, policy)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))
  for by in (1e4, -1e4):
    far = policy._replace(log_probs=jnp.where(
        rollout.mask, policy.log_probs + by, 0))
    out = _run(preset, rollout, far)
    assert np.isfinite(out['loss'])
    assert all(np.isfinite(x).all() for x in out['gradient'])


@by_preset
def test_needs_are_what_is_read(preset):
  method = methods.in_framework(*preset)
  needs = rollouts.needs(method)
  rollout, policy = _fixed()
  jax.eval_shape(functools.partial(rollouts.run, method),
                 rollouts.keep_extras(rollout, needs), policy)
  for name in needs & rollout.extras.keys():
    with pytest.raises(ValueError, match=f"needs .*'{name}'"):
      jax.eval_shape(
          functools.partial(rollouts.run, method),
          rollouts.keep_extras(rollout, needs - {name}), policy)


# Differences come from the named fields ---------------------------------------


@pytest.mark.parametrize('one, other', [
    (one, other) for one in PRESETS for other in PRESETS
    if one[1] == other[1] and other[0] == 'verl' != one[0]],
    ids=lambda x: '-'.join(x))
def test_equal_at_equal_choices(one, other):
  """A framework with verl's choices is verl, and was not without them."""
  changes = _differences(one, other)
  rollout, policy = _fixed()
  theirs = _run(other, rollout, policy)
  same = _run(one, rollout, policy, **changes)
  jax.tree.map(np.testing.assert_array_equal, same, theirs)
  own = _run(one, rollout, policy)
  assert not np.allclose(own['gradient'][0], theirs['gradient'][0], rtol=1e-3)


def test_what_trl_and_verl_differ_in():
  assert set(_differences(('trl', 'grpo'), ('verl', 'grpo'))) == {
      'eps', 'singleton', 'dual_clip', 'log_ratio_limit', 'empty_rows',
      'kl_ratio', 'k3_input_limit', 'k3_output_limit', 'importance',
      'importance_bound', 'importance_cap', 'importance_limit'}


@pytest.mark.parametrize('recipe, preset, changes', [
    (methods.grpo(std='sample', eps=1e-6, dual_clip=3., beta=0.,
                  singleton='raw', old='old_log_probs',
                  aggregation='token_mean'), ('verl', 'grpo'), {}),
    (methods.grpo(old='old_log_probs', beta=.04, kl='k1'),
     ('tunix', 'grpo'), dict(kl_ratio='none', k3_input_limit=20.)),
    (methods.ppo(lam=1., dual_clip=3., value_clip=.5, old='old_log_probs'),
     ('verl', 'ppo'), {}),
    (methods.ppo(value_clip=.2, old='old_log_probs', observations='cut'),
     ('tunix', 'ppo'),
     dict(beta=0., log_ratio_limit=20., observations='cut')),
], ids=['verl-grpo', 'tunix-grpo', 'verl-ppo', 'tunix-ppo'])
def test_recipes_with_a_frameworks_choices_are_its_presets(
    recipe, preset, changes):
  rollout, policy = _fixed()
  ours = jax.jit(functools.partial(rollouts.run, recipe))(rollout, policy)
  theirs = _run(preset, rollout, policy, **changes)
  names = ('advantages', 'weights', 'loss', 'gradient')
  _close({k: ours[k] for k in names}, {k: theirs[k] for k in names})
