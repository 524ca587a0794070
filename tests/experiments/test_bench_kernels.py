"""The benchmark of kernels, at a size at which it measures nothing."""

import json
import time
import types

import jax
import numpy as np
import pytest

from experiments.bench import (
    advantages,
    corrections,
    kernels,
    losses,
    recipes,
    report,
    timing,
    torch_kernels,
)
from experiments.bench.cases import Case, public, wants
from experiments.bench.inputs import Inputs

TABLES = {'advantages': advantages.CASES, 'losses': losses.CASES,
          'corrections': corrections.CASES}
SIZE = (16, 8)
# To compile takes longer than to run.
FAST = {'xla_backend_optimization_level': 0}


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
  """What other tests have left is not collected before every measurement."""
  monkeypatch.setattr(
      timing, 'gc', types.SimpleNamespace(collect=lambda: None))


def quick(cases, **kw):
  """What is printed, and the result."""
  lines = []
  result = kernels.run(
      cases, SIZE, repeats=1, show=lines.append, options=FAST, **kw)
  return lines, result


@pytest.mark.slow
@pytest.mark.parametrize('table', TABLES)
def test_every_case_runs_alone(table):
  # The pass with a gradient contains the other one.
  cases = [case._replace(forward=not case.by) for case in TABLES[table]]
  lines, result = quick(cases, sizes=())
  rows = result['rows']
  assert len(rows) == len(cases)
  assert all(row['ours_ms'] > 0 and row['compile_s'] > 0 for row in rows)
  assert {row['check'] for row in rows} <= {'no peer', 'not compared'}
  assert [line.split()[0] for line in lines[1:-1]] == [
      row['name'].split()[0] for row in rows]


def test_names_are_unique():
  names = [case.name for case in kernels.all_cases()]
  assert len(set(names)) == len(names)


def test_recipes_of_covered_folders_are_left_out():
  names = {case.name for case in recipes.cases()}
  assert 'recipe bnpo' in names
  assert not names & {'recipe grpo', 'recipe ppo', 'recipe cispo'}


@pytest.mark.parametrize('name', ['bnpo', 'hapo', 'adora'])
def test_recipes_run_and_their_gradient_is_finite(name):
  case = next(c for c in recipes.cases() if c.name == f'recipe {name}')
  arrays = timing.own_arrays(case, Inputs(*SIZE))
  out = timing.own_pass(case, 'backward')(arrays)
  assert np.isfinite(out['loss'])
  assert np.any(out['gradient'] != 0) and np.isfinite(out['gradient']).all()


def test_recipes_that_need_larger_arrays_are_named():
  assert recipes.too_large()['verl_hidden'] == ['hidden_states']
  assert 'bnpo' not in recipes.too_large()


def test_growth_is_measured_on_both_sides():
  cases = kernels.select(advantages.CASES + losses.CASES, 'grpo,dpo aot')
  lines, result = quick(cases, sizes=(16, 24), fixed=8)
  grown = result['growth']
  assert set(grown) == {'grpo', 'dpo aot'}
  assert set(grown['grpo']) == {'B', 'T'}
  assert set(grown['dpo aot']) == {'B'}
  assert grown['grpo']['B']['sizes'] == [16, 24]
  assert len(grown['grpo']['B']['ms']) == 2
  assert any(line.startswith('grpo') and 'B^' in line for line in lines)


@pytest.mark.parametrize('power', [.5, 1., 2.])
def test_exponent(power):
  sizes = np.array([256, 512, 1024, 4096])
  assert timing.exponent(sizes, 3e-3 * sizes**power) == pytest.approx(power)


def test_growth_that_is_steep_is_flagged(monkeypatch):
  monkeypatch.setattr(
      timing, 'timed', lambda *_, **__: [[2., 1.], [4., 9.], [16., 16.]])
  case = next(c for c in losses.CASES if c.name == 'kto')
  grown = timing.growth(case, sizes=(8, 16, 32), fixed=8)
  assert grown['B']['exponent'] == pytest.approx(2)
  assert grown['B']['steep']
  assert 'STEEP' in report.growth_line('kto', grown)


def test_few_places_of_a_million_may_be_at_an_edge():
  ours = np.ones(10**6, np.float32)
  theirs = ours.copy()
  theirs[:timing.EDGES] = 0
  assert timing.difference({'a': ours}, {'a': theirs}, None) == 0
  theirs[:timing.EDGES + 1] = 0
  assert timing.difference({'a': ours}, {'a': theirs}, None) > 5e-4


class Tensor:
  """What the comparison asks of a tensor."""

  def __init__(self, array):
    self.array = array

  def detach(self):
    return self

  def numpy(self):
    return self.array


def test_difference():
  ours = {'a': np.ones((2, 2)), 'b': np.zeros(2), 'more': 0.}
  inside = np.array([[True, True], [True, False]])
  one = np.array([[1., 1.], [1., 9.]])
  assert timing.difference(ours, {'a': Tensor(one)}, inside) == 0
  assert timing.difference(ours, {'a': Tensor(one)}, None) > .5
  assert timing.difference(ours, {'b': np.full(2, 3.)}, None) == 1
  assert timing.difference(
      ours, {'b': np.full(2, np.nan), 'a': np.ones((2, 2))}, None) == np.inf
  with pytest.raises(ValueError, match='a: ours has shape'):
    timing.difference(ours, {'a': np.ones(2)}, None)


class Torch:
  """As much of torch as the forward pass needs."""

  class no_grad:

    def __enter__(self):
      return self

    def __exit__(self, *_):
      return None


def _fake(**modules):
  found = torch_kernels.Peers(torch=Torch, missing={'verl': 'verl: not here'})
  found.tensor, found.versions = np.asarray, dict
  for name, module in modules.items():
    setattr(found, name, module)
  return found


def test_pairs_are_compared_before_they_are_timed():
  ours = lambda scores: {'double': 2 * scores}
  cases = {
      'same': Case('same', ours, 'f', lambda scores: {'double': scores * 2}),
      'other': Case('other', ours, 'f', lambda scores: {'double': scores}),
      'broken': Case('broken', ours, 'f', lambda scores: {'x': 1 / 0}),
      'absent': Case('absent', ours, 'f', lambda verl, scores: {}),
      'groups': Case('groups', lambda ids: {'ids': ids}, 'f',
                     lambda index: {'ids': index}),
      'alone': Case('alone', ours)}
  _, result = quick(cases.values(), peers=_fake(), sizes=())
  checks = {row['name']: row['check'] for row in result['rows']}
  assert checks['same'] == checks['groups'] == 'agrees'
  assert checks['other'] == 'DIFFERS'
  assert checks['broken'].startswith('FAILED: ZeroDivisionError')
  assert 'not here' in checks['absent']
  assert checks['alone'] == 'no peer'
  ratios = {row['name']: row['ratio'] for row in result['rows']}
  assert ratios['same'] > 0 and ratios['alone'] is ratios['broken'] is None


def test_sides_are_called_in_turns():
  calls = []
  sides = lambda: calls.append('ours'), lambda: calls.append('theirs')
  assert [len(taken) for taken in timing.timed(*sides, repeats=5)] == [5, 5]
  assert calls == ['ours', 'theirs'] * 5


def test_patience_ends_after_three_calls():
  times = timing.timed(lambda: time.sleep(.01), repeats=9, patience=0.)
  assert len(times[0]) == 3 and min(times[0]) > 9


@pytest.mark.slow
def test_what_no_case_runs_through_is_named():
  named = kernels.untimed(kernels.select(
      advantages.CASES + losses.CASES, 'grpo,gae,sapo'))
  assert {'leave_one_out', 'cispo_surrogate', 'off_policy_metrics'} <= set(
      named)
  assert not {'group_standardize', 'generalized_advantages', 'masked_whiten',
              'sapo_surrogate'} & set(named)
  assert set(named) <= set(public().values())


def test_inputs_do_not_depend_on_what_else_is_asked_for():
  first, second = Inputs(*SIZE), Inputs(*SIZE)
  assert second['mask'].any(axis=1).all()
  np.testing.assert_array_equal(first['log_probs'], second['log_probs'])
  assert np.all(first['log_probs'] <= 0)
  assert sorted(np.bincount(first['ids'])) == [8, 8]
  assert not (first['holes'] & ~first['mask']).any()
  np.testing.assert_allclose(first['rewards'].sum(1), first['scores'])
  assert wants(lambda mask, ids: None) == ('mask', 'ids')


def test_only_takes_patterns():
  cases = kernels.all_cases()
  assert [c.name for c in kernels.select(cases, 'rloo,gae')] == ['rloo', 'gae']
  assert len(kernels.select(cases, 'kl k*')) == 4
  with pytest.raises(ValueError, match='--only=none'):
    kernels.select(cases, 'none')


def test_command_line(tmp_path, capsys):
  out, page = tmp_path / 'kernels.json', tmp_path / 'page.md'
  page.write_text(f'Before.\n{report.BEGIN}\nold\n{report.END}\nAfter.\n')
  cache = jax.config.jax_enable_compilation_cache
  try:
    assert kernels.main([
        '--ours-only', '--batch=16', '--length=8', '--repeats=1',
        '--sizes=16,32', '--fixed=8', '--only=grpo,k*cov',
        f'--out={out}', f'--page={page}']) == 0
  finally:
    jax.config.update('jax_enable_compilation_cache', cache)
  result = json.loads(out.read_text())
  assert [row['name'] for row in result['rows']] == [
      'grpo', 'kl_cov', 'kl_cov']
  assert result['machine']['jax'] == jax.__version__
  assert result['machine']['cores'] > 0
  text = page.read_text()
  assert text.startswith('Before.') and text.endswith('After.\n')
  assert 'old' not in text and '| kl_cov | fwd+bwd |' in text
  assert 'grpo' in capsys.readouterr().out


def test_the_cases_of_a_step_have_sizes_of_their_own(tmp_path, monkeypatch):
  out, page = tmp_path / 'step.json', tmp_path / 'page.md'
  marker = '<!-- kernels of a step: {} -->'.format
  page.write_text(f'a\n{marker("begin")}\nold\n{marker("end")}\nb\n')
  assert {pattern for pattern, _ in kernels.STEP} == {
      'gae', 'grpo', 'log-probs*'}
  monkeypatch.setattr(
      kernels, 'STEP', (('gae', (16, 8)), ('log-probs*', (8, 16))))
  cache = jax.config.jax_enable_compilation_cache
  try:
    assert kernels.main(['--step', '--ours-only', '--repeats=1',
                         f'--out={out}', f'--page={page}']) == 0
  finally:
    jax.config.update('jax_enable_compilation_cache', cache)
  rows = json.loads(out.read_text())['rows']
  assert {(row['name'], row['batch'], row['length']) for row in rows} == {
      ('gae', 16, 8), ('log-probs', 8, 16), ('log-probs, TRL', 8, 16)}
  text = page.read_text()
  assert 'old' not in text and '| log-probs | 8 x 16 | fwd+bwd |' in text


def test_peers_that_are_missing_are_named_with_what_installs_them(
    monkeypatch, capsys):
  monkeypatch.setattr(torch_kernels, '_MODULES', {'torch': 'no_such_torch'})
  assert kernels.main(['--only=grpo']) == 2
  printed = capsys.readouterr().out
  assert 'no_such_torch' in printed and "pip install -e '.[bench]'" in printed
