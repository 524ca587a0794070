"""The figures' verdicts, their stores, and the pages that are made of them."""

import importlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import atlas, make_notebooks
from experiments.figures import (
    beds,
    drawing,
    figure,
    moments,
    theory,
    tuning,
    verdict,
)
from policyopt import methods
from policyopt.envs import exact

THIRTEEN = ('bnpo', 'adora', 'copo', 'canon', 'agrae', 'ngrpo', 'arm', 'ace',
            'dvao', 'hapo', 'd3s', 'capo', 'verl_hidden')
FIGURES = sorted(
    path.stem for path in (figure.ROOT / 'experiments/figures').glob('*.py')
    if 'CLAIMS' in path.read_text() and path.stem not in ('figure', '__init__'))


def _claim(at_least=0.):
  return verdict.Claim('A beats B', 'reward', '', lambda r: r['effect'],
                       at_least)


@pytest.mark.parametrize('effect, at_least, word', [
    ([.1, .2, .3, .2], 0., 'reproduced'),
    ([-.1, -.2, -.3, -.2], 0., 'contradicted'),
    ([-.1, .1, .2], 0., 'undecided'), ([.1, .2, .3, .2], .5, 'undecided'),
    ([-.1, -.2, -.3, -.2], .5, 'undecided')])
def test_verdicts(effect, at_least, word):
  found = verdict.judge(_claim(at_least), {'effect': np.array(effect)})
  assert found.word == word and found.seeds == len(effect)
  assert found.low < found.effect < found.high


def test_an_interval_covers_the_mean_as_often_as_it_says():
  draws = np.random.default_rng(0).normal(1., 2., (2000, 5))
  ends = np.array([verdict.interval(row)[1:] for row in draws])
  covered = ((ends[:, 0] < 1) & (1 < ends[:, 1])).mean()
  assert abs(covered - .95) < .015


@pytest.mark.parametrize('values', [[1.], [[1., 2.]], [1., np.nan]])
def test_no_interval_without_numbers(values):
  with pytest.raises(ValueError, match='values'):
    verdict.interval(values)


def _module(monkeypatch):
  made = types.ModuleType('made_up')
  made.__file__ = 'made_up.py'
  made.METHODS, made.CLAIMS = ('grpo',), (_claim(),)
  made.run = lambda fast: {
      'effect': np.arange(2. if fast else 16.),
      'arm': {'deep/er': {'x': np.ones((2, 3))}}}

  def plot(records):
    drawn, (axis,) = drawing.panels(1)
    drawing.curves(axis, {'a': records['arm']['deep/er']['x']})
    drawing.points(axis, {'a': records['effect']})
    drawing.dress(axis, 'title', 'x', 'y')
    drawing.legend(drawn, axis)
    return drawn

  made.plot = plot
  monkeypatch.setitem(sys.modules, 'made_up', made)
  return made


def test_what_is_stored_comes_back_and_is_compared(
    monkeypatch, tmp_path, capsys):
  made = _module(monkeypatch)
  monkeypatch.setattr(figure, 'STORE', tmp_path / 'store')
  figure.main('made_up', ['--store'])
  records = figure.load('made_up', tmp_path / 'store')
  np.testing.assert_array_equal(records['arm']['deep/er']['x'], np.ones((2, 3)))
  summary = figure.summary('made_up', tmp_path / 'store')
  assert summary['claims'][0]['word'] == 'reproduced'
  assert summary['claims'][0]['seeds'] == 16
  assert (tmp_path / 'store' / 'made_up.png').stat().st_size > 1000
  with pytest.raises(SystemExit, match='^0$'):
    figure.main('made_up', ['--out', str(tmp_path)])
  assert 'are reproduced' in capsys.readouterr().out
  made.run = lambda fast: {'effect': np.arange(16.) + 9,
                           'arm': {'deep/er': {'x': np.ones((2, 3))}}}
  with pytest.raises(SystemExit, match='^1$'):
    figure.main('made_up', ['--out', str(tmp_path)])
  assert 'A beats B: effect 16.5, stored [4.' in capsys.readouterr().out
  assert '| [made_up](' in atlas.page()


def test_a_fast_run_is_not_stored(monkeypatch):
  _module(monkeypatch)
  with pytest.raises(SystemExit, match='^2$'):
    figure.main('made_up', ['--fast', '--store'])


def _world(prompts=3):
  bed = exact.make_bed(3, 2)
  keys = jax.random.split(jax.random.key(0), 2)
  reward = (jax.random.uniform(keys[0], (prompts, 9)) > .5) * 1.
  return beds.World(bed, reward, jax.random.normal(
      keys[1], (prompts, bed.prefixes, 3)))


@pytest.mark.slow
def test_a_methods_gradient_is_compared_with_the_exact_one():
  world = _world()
  target = theory.policy_gradient(world, world.reference).reshape(-1)
  rloo = beds.sequence_average(methods.rloo(beta=0.))
  found = moments.moments(
      world, {'RLOO': rloo}, world.reference, samples=4, rows=100_000,
      seeds=2)['RLOO']
  assert found['mean'].shape == (2, len(target))
  mean, error = moments.pooled(found)
  assert moments.largest_z(mean, error, target) < 4.5
  assert np.linalg.norm(mean - target) < .05 * np.linalg.norm(target)
  assert moments.largest_z(mean, error, 1.2 * target) > 6


def test_weights_of_prompts_are_those_of_the_objectives():
  p, count = 0.2, 4
  loo = lambda k, n: ((n - k) / (n - 1), -k / (n - 1))
  assert theory.weight(loo, p, count) == pytest.approx(1)
  assert theory.weight(theory.only_one, p, count) == pytest.approx(.8 ** 3)
  # The gradient of Σ pass@k / k up to G − 1, as nothing is learned at μ = 0.
  assert theory.weight(theory.by_mean, p, count) == pytest.approx(
      1 + .8 + .8 ** 2)
  assert theory.weight(theory.by_std, p, count) == pytest.approx(
      theory.weight(theory.by_std, 1 - p, count))


def test_groups_without_a_signal_make_room():
  world = _world()
  rollout = beds.draw(
      world, world.reference, jax.random.key(0), jnp.arange(3), 2)
  earned = jnp.array([1., 1., 0., 1., 1., 0.])
  rollout = rollout._replace(
      rewards={'accuracy': rollout.mask * earned[:, None]})
  kept = beds.live_groups(rollout, 2, 2)
  assert kept.extras['prompt'].tolist() == [1, 1, 2, 2]
  assert kept.group.tolist() == [0, 0, 1, 1]
  filled = beds.live_groups(rollout, 3, 2)
  assert filled.extras['prompt'].tolist() == [1, 1, 2, 2, 0, 0]


@pytest.mark.slow
def test_tabular_policies_learn():
  world = _world()
  learn = jax.jit(jax.vmap(lambda key: beds.learn(
      world, methods.grpo(beta=0.), key, steps=60, prompts=3, samples=8,
      learning_rate=1., watch=lambda x: {'j': beds.objective(world, x)})))
  # The check takes any scan over mapped keys for a second use of them.
  with jax.debug_key_reuse(False):
    seen = learn(beds.seeds(3))['j']
  assert seen.shape == (3, 61)
  assert (seen[:, -1] > seen[:, 0] + .1).all()


def test_training_begins_where_it_is_told_and_knows_what_it_is_told():
  world = _world()
  seen = []

  def extras(rollout, key):
    seen.append(rollout.extras['prompt'].shape)
    return {'entropy': jnp.zeros(rollout.mask.shape)}

  start = world.reference + 1.
  learn = lambda **kw: beds.learn(
      world, methods.d3s(), jax.random.key(0), steps=2, prompts=3, samples=2,
      learning_rate=1., watch=lambda x: {'logits': x}, **kw)
  with jax.debug_key_reuse(False):
    told = learn(start=start, extras=extras)['logits']
    free = learn(start=start)['logits']
  np.testing.assert_array_equal(told[0], start)
  assert seen and seen[0] == (6,)
  # Without entropies D³S keeps other tokens.
  assert (told[-1] != free[-1]).any()


def test_the_rate_is_chosen_on_other_seeds():
  def train(key, rate):
    seed = jax.random.key_data(key)[-1]
    # The seeds to choose by like 2, the measured ones 1.
    return {'x': -(rate - jnp.where(seed < 3, 1., 2.)) ** 2}
  found = tuning.tuned(train, (1., 2.), 3, 2, lambda run: run['x'])
  assert found['rate'] == 2. and found['scores'].tolist() == [-1., 0.]
  assert found['x'].tolist() == [-1.] * 3


def test_rows_end_where_their_sequence_does():
  world = _world()._replace(length=jnp.array([1, 1, 1, 2, 2, 2, 2, 2, 2]))
  rollout = beds.draw(
      world, world.reference, jax.random.key(3), jnp.array([2, 0, 2]), 5)
  assert rollout.group.tolist() == [0] * 5 + [1] * 5 + [2] * 5
  assert rollout.extras['prompt'].tolist() == [2] * 5 + [0] * 5 + [2] * 5
  first = np.asarray(rollout.tokens[:, 0])
  np.testing.assert_array_equal(rollout.mask[:, 1], first > 0)
  paid = np.asarray(rollout.rewards['accuracy'])
  wanted = np.asarray(world.reward)[
      rollout.extras['prompt'], rollout.extras['sequence']]
  np.testing.assert_array_equal(paid.sum(1), wanted)
  assert (paid[first == 0, 1] == 0).all()


def test_the_thirteen_have_figures():
  assert not set(THIRTEEN) - set(FIGURES)


@pytest.mark.parametrize('name', FIGURES)
def test_every_figure_is_stored_and_has_a_notebook(name):
  summary = figure.summary(name)
  module = importlib.import_module(f'experiments.figures.{name}')
  assert summary['command'] == f'python experiments/figures/{name}.py'
  assert all(claim['seeds'] >= 16 for claim in summary['claims'])
  # The verdicts follow from the records.
  judged = figure.judged(module, figure.load(name))
  for (claim, found), stored in zip(judged, summary['claims'], strict=True):
    assert claim.says == stored['says'] and found.word == stored['word']
    np.testing.assert_allclose(found.effect, stored['effect'], rtol=1e-6)
  assert set(module.METHODS) <= set(methods.names())
  assert make_notebooks.up_to_date(make_notebooks.FOLDER / f'{name}.py')
  notebook = (make_notebooks.FOLDER / f'{name}.ipynb').read_text()
  assert '"image/png"' in notebook


def test_the_atlas_is_up_to_date():
  text = (figure.ROOT / 'ATLAS.md').read_text('utf-8')
  assert text == atlas.page(), 'run python experiments/atlas.py'
