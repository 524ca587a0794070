"""The benchmark against other libraries: all of it but the libraries."""

import itertools
import json

import pytest

from experiments.bench import growth, peer_cases, peer_tables, peers
from experiments.bench.sides import common

CASE = peer_cases.CASES[0]


def process(side, number, step, **more):
  return dict(case='a', side=side, round=number, step_ms=step,
              load=[0.5, 0.7]) | more


def test_ratios_pair_the_processes_of_a_round():
  runs = [process('trl', 0, [30., 50., 40.]), process('ours', 0, [10., 20.]),
          process('trl', 1, [90.]), process('ours', 1, [30.]),
          process('trl', 2, [1000.]), process('tunix', 0, None)]
  found = peer_tables.compare(runs, 'ours', 'trl', 'step_ms')
  ratios = [40 / 15, 90 / 30]
  assert found['rounds'] == 2  # Ours has no third round.
  assert found['ratio'] == pytest.approx(sum(ratios) / 2)
  assert (found['least'], found['most']) == pytest.approx(
      (min(ratios), max(ratios)))
  assert found['best'] == pytest.approx(30 / 10)
  assert peer_tables.compare(runs, 'ours', 'tunix', 'step_ms') is None
  assert peer_tables.compare(runs, 'ours', 'trl', 'update_ms') is None


def test_the_table_says_what_was_measured_and_what_was_not():
  case = dict(name='a', prompts=2, samples=4, prompt=10, tokens=40)
  runs = [process('trl', 0, [400.], generate_ms=[80.], update_ms=[100.]),
          process('ours', 0, [100.], generate_ms=[20.], update_ms=[50.],
                  peak_mb=512.)]
  result = dict(machine=dict(cores=2), cases=[case], runs=runs,
                failed={'a, Tunix': 'exit code 1: no such package'})
  text = peer_tables.markdown(result)
  # 40 tokens in 20 ms; 2 x 4 x 10 and 40 tokens in 50 ms.
  assert ('| a | ours | 20 (2.0k) | 50 (2.4k) | 100 | - | - | 512 | 0.5-0.7 |'
          in text)
  assert '| a | step | TRL / ours | **4.00** (4.00-4.00) | 4.00 | 1 |' in text
  assert '| a | generate | TRL / ours | **4.00**' in text
  assert 'shared' not in text  # No such process.
  assert '* a, Tunix: exit code 1: no such package' in text
  assert 'differ' not in text
  runs[0]['parameters'], runs[1]['parameters'] = 7, 8
  assert "* a: the decoders differ, they have ['7', '8']" in (
      peer_tables.markdown(result))


def test_what_was_interrupted_goes_on(tmp_path, monkeypatch):
  asked = []

  def run_side(python, case, side, cache, limit):
    asked.append(side)
    if len(asked) == 3:
      raise KeyboardInterrupt
    if side == 'tunix':
      return dict(error='exit code 1: broken')
    return dict(step_ms=[2.], load=[0., 0.], versions={side: '1'})

  monkeypatch.setattr(peers, 'run_side', run_side)
  path, show = tmp_path / 'peers.json', lambda text: None
  pythons = dict.fromkeys(peer_cases.SIDES, 'python')
  again = lambda **kw: peers.Results(path, dict(cores=2), **kw)
  with pytest.raises(KeyboardInterrupt):
    peers.run([CASE], pythons, again(), 1, show=show)
  assert asked == ['trl', 'ours', 'ours_shared']
  assert [run['side'] for run in json.loads(path.read_text())['runs']] == [
      'trl', 'ours']
  del asked[:]
  asked.extend('...')  # No more interruptions.
  peers.run([CASE], pythons, again(), 1, show=show)
  # What has run does not run again; what failed does.
  assert asked[3:] == [
      'ours_shared', 'ours_warm', 'ours_lean', 'ours_lean', 'tunix']
  assert len(again().data['failed']) == 1
  peers.run([CASE], pythons, again(), 1, show=show)
  assert asked[8:] == ['tunix']
  # Another setting is another measurement.
  data = json.loads(path.read_text())
  data['cases'][0]['response'] = 1
  path.write_text(json.dumps(data))
  results = again()
  results.plan([CASE])
  assert not results.data['runs']
  assert not again(fresh=True).data['runs']


def test_warm_processes_find_the_programs_of_a_cold_one(tmp_path, monkeypatch):
  caches = []
  monkeypatch.setattr(
      peers, 'run_side', lambda python, case, side, cache, limit: caches.append(
          (side, cache)) or {})
  pythons = dict.fromkeys(peer_cases.SIDES, 'python')
  folders = peers.Caches(tmp_path)
  for side in ('ours_warm', 'ours_shared', 'ours', 'ours_warm', 'ours_lean'):
    peers.one(pythons, CASE, side, folders, 1.)
  ((_, filled), (_, first), (_, cold), (_, plain), (_, warm), (_, lean),
   (_, again)) = caches
  assert filled == first and warm == cold and lean == again
  assert len({first, cold, plain, lean}) == 4
  missing = peers.one({}, CASE, 'trl', folders, 1.)
  assert 'environment' in missing['error']


def test_a_side_that_fails_says_why(tmp_path):
  python = tmp_path / 'python'
  python.write_text('#!/bin/sh\necho of no use >&2; exit 3\n')
  python.chmod(0o755)
  found = peers.run_side(python, CASE, 'trl', tmp_path, 10.)
  assert found == dict(error='exit code 3: of no use')
  assert 'of no use' in peers.line(0, CASE, 'trl', found)
  gone = peers.run_side(tmp_path / 'nothing', CASE, 'trl', tmp_path, 10.)
  assert 'nothing' in gone['error']


def test_cases_have_names_of_their_own_and_whole_microbatches():
  names = [case.name for case in peer_cases.CASES]
  assert len(names) == len(set(names))
  for case in itertools.chain(
      peer_cases.CASES, growth.cases('rows'), growth.cases('length')):
    assert case.prompts % case.microbatches == 0
    assert set(case.sides) <= set(peer_cases.PROGRAMS)
  quick = peer_cases.select(quick=True)
  assert [case.name for case in quick] == [
      'step/small float32', 'step/small bfloat16']
  with pytest.raises(ValueError, match='--only=stpe'):
    peer_cases.select('stpe')


def test_prompts_lengths_and_rewards():
  spec = CASE.spec()
  prompts = common.words(spec, 0)
  assert prompts == common.words(spec, 0) != common.words(spec, 1)
  assert {len(row) for row in prompts} == {spec['prompt']}
  assert min(map(min, prompts)) >= common.FIRST_WORD
  assert common.reward(common.text([4, 7, common.PAD, 6])) == 2 / 3
  assert common.reward('') == 0
  spread = common.lengths(spec | dict(lengths='lognormal', prompts=64))
  assert min(spread) >= 1 and max(spread) == spec['response']
  assert len(set(spread)) > 20


def test_growth_is_fitted_and_shown():
  for axis in ('rows', 'length'):
    sizes = [growth.tokens(case) for case in growth.cases(axis)]
    assert [b / a for a, b in zip(sizes, sizes[1:])] == [2] * 4
  assert growth.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
  rows = [dict(axis='rows', rows=n, length=3, tokens=3 * n, load=[0., 1.],
               generate_ms=n, update_ms=n**2, peak_mb=7) for n in (1, 2, 4)]
  fits = growth.fits(rows)
  assert fits['rows'] == pytest.approx(
      dict(generate_ms=1, update_ms=2, peak_mb=0))
  text = growth.markdown(dict(machine={}, model='m', dtype='d', rows=rows,
                              exponents=fits))
  assert '| rows: k | | | | **1.00** | **2.00** | **' in text
