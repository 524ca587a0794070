"""Verifier processes: hangs and crashes are counted and cost one row each."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from policyopt.envs import verifiers

SCORER = 'verifier_functions:misbehave'


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
  monkeypatch.syspath_prepend(os.path.dirname(__file__))


@pytest.fixture(name='pool')
def _pool():
  with verifiers.VerifierPool(SCORER, workers=2, timeout_s=1.) as pool:
    yield pool


def _gone(pid):
  """Whether a process has ended (a zombie has)."""
  try:
    with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
      return file.read().rsplit(')', 1)[1].split()[0] in 'ZX'
  except (FileNotFoundError, ProcessLookupError):
    return True


def _wait_until(condition, seconds=20.):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'still not so'
    time.sleep(0.02)


def test_values_keep_the_order_of_the_rows(pool):
  rows = [('score', i) for i in range(300)]
  assert pool.map(rows) == ([0] * 300, [2 * i for i in range(300)])
  assert pool.map([]) == ([], [])
  assert pool.map(rows[:1]) == ([0], [0])
  assert pool.counts == dict(scored=301, timeouts=0, crashes=0, restarts=0)


@pytest.mark.parametrize('action, verdict, restarts', [
    ('hang', 1, 1), ('spin', 1, 1), ('hold the lock', 1, 1),
    ('raise', 2, 0), ('exit', 2, 0), ('vanish', 2, 1), ('segfault', 2, 1),
    ('unpicklable', 2, 0), ('unreadable', 2, 0)])
def test_a_bad_row_costs_no_other_row(pool, action, verdict, restarts):
  rows = [('score', i) for i in range(40)]
  rows[17] = (action,)
  verdicts, values = pool.map(rows)
  assert [i for i, v in enumerate(verdicts) if v] == [17]
  assert verdicts[17] == verdict and values[17] is None
  assert values[:17] + values[18:] == [
      2 * i for i in range(40) if i != 17]
  assert pool.counts == dict(
      scored=39, timeouts=int(verdict == 1), crashes=int(verdict == 2),
      restarts=restarts)
  assert pool.last_error
  assert pool.map([('score', 4)]) == ([0], [8])


def test_many_bad_rows_at_once(pool):
  actions = ['hang', 'vanish', 'score', 'raise', 'vanish', 'score']
  verdicts, _ = pool.map([(action, 1) for action in actions])
  assert verdicts == [1, 2, 0, 2, 2, 0]


def test_the_limit_is_per_row():
  scorer = 'time:sleep'
  with verifiers.VerifierPool(scorer, workers=1, timeout_s=1.) as pool:
    # Together far over the limit, none alone.
    assert pool.map([(0.2,)] * 8)[0] == [0] * 8


def test_what_scorers_print_breaks_nothing(pool, capfd):
  assert pool.map([('print', i) for i in range(8)]) == (
      [0] * 8, list(range(8)))
  assert capfd.readouterr().out == ''


def test_workers_do_not_import_jax(pool):
  (_,), (modules,) = pool.map([('modules',)])
  assert 'jax' not in modules and 'numpy' not in modules


def test_children_of_a_scorer_end_with_it(pool, tmp_path):
  path = tmp_path / 'pid'
  assert pool.map([('child, then hang', str(path))])[0] == [1]
  _wait_until(lambda: _gone(int(path.read_text())))


def test_a_process_that_died_idle_costs_no_row(pool):
  pids = set(pool.map([('who',)] * 64)[1])
  for pid in pids:
    os.kill(pid, signal.SIGKILL)
  _wait_until(lambda: all(map(_gone, pids)))
  verdicts, values = pool.map([('score', i) for i in range(8)])
  assert values == [2 * i for i in range(8)] and not any(verdicts)
  assert pool.counts['restarts'] == len(pids)


def test_a_process_that_dies_before_it_takes_its_rows_costs_none():
  with verifiers.VerifierPool(SCORER, workers=2, timeout_s=60.) as pool:
    pids = set(pool.map([('who',)] * 64)[1])
    for pid in pids:
      os.kill(pid, signal.SIGSTOP)
    # The rows are sent, for the stopped processes are there, but not read.
    kills = [threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
             for pid in pids]
    for kill in kills:
      kill.start()
    verdicts, values = pool.map([('score', i) for i in range(8)])
    assert values == [2 * i for i in range(8)] and not any(verdicts)
    assert pool.counts['restarts'] == len(pids)


def test_a_stopped_process_is_replaced(pool):
  pids = set(pool.map([('who',)] * 64)[1])
  for pid in pids:
    os.kill(pid, signal.SIGSTOP)
  verdicts, values = pool.map([('score', i) for i in range(3)])
  assert set(verdicts) <= {0, 1}
  assert all(v == 2 * i for i, v in enumerate(values) if not verdicts[i])
  assert pool.map([('score', 5)]) == ([0], [10])


def test_a_factory_is_called_once_per_process():
  with verifiers.VerifierPool(
      'verifier_functions:multiplier', dict(factor=5), workers=1) as pool:
    assert pool.map([(1,), (2,)]) == ([0, 0], [5, 10])


@pytest.mark.parametrize('scorer, kwargs, message', [
    ('verifier_functions:broken_factory', {}, 'no rules found'),
    ('verifier_functions:missing', None, 'missing'),
    ('no_such_module:f', None, 'no_such_module'),
    ('verifier_functions:dies', {}, 'ended 3 times')])
def test_a_scorer_that_cannot_be_loaded_is_an_error(scorer, kwargs, message):
  with verifiers.VerifierPool(scorer, kwargs, workers=1) as pool:
    with pytest.raises(RuntimeError, match=message):
      pool.map([(1,)])
    with pytest.raises(RuntimeError, match=message):
      pool.map([(1,)])


def test_a_row_that_cannot_be_sent_is_an_error_of_that_call_only(pool):
  rows = [('score', i) for i in range(100)] + [('score', lambda: 0)]
  with pytest.raises(Exception, match='pickle|local object'):
    pool.map(rows)
  assert pool.map(rows[:100]) == ([0] * 100, [2 * i for i in range(100)])


def test_close_ends_the_processes(pool):
  pids = pool.map([('who',)] * 64)[1]
  pool.close()
  pool.close()
  assert all(map(_gone, pids))
  with pytest.raises(RuntimeError, match='closed'):
    pool.map([('score', 1)])


def test_threads_may_share_a_pool(pool):
  results = {}
  def call(base):
    results[base] = pool.map([('score', base + i) for i in range(20)])[1]
  threads = [threading.Thread(target=call, args=(100 * k,)) for k in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
  assert results == {
      100 * k: [2 * (100 * k + i) for i in range(20)] for k in range(4)}


@pytest.mark.parametrize('action', ['score', 'spin', 'hold the lock'])
def test_no_process_outlives_a_killed_program(tmp_path, action):
  program = textwrap.dedent(f"""
      import sys, threading
      sys.path[:] = {sys.path + [os.path.dirname(__file__)]!r}
      from policyopt.envs import verifiers
      pool = verifiers.VerifierPool({SCORER!r}, workers=1, timeout_s=1.5)
      print(pool.map([('who',)])[1][0], flush=True)
      pool.map([({action!r},)] * 2)
      threading.Event().wait(60)
      """)
  with subprocess.Popen(
      [sys.executable, '-c', program], stdout=subprocess.PIPE,
      text=True) as process:
    pid = int(process.stdout.readline())
    time.sleep(0.3)
    process.kill()
  _wait_until(lambda: _gone(pid))


def test_in_the_calling_process():
  with verifiers.VerifierPool('operator:truediv', workers=0) as pool:
    assert pool.map([(6, 3), (1, 0)]) == ([0, 2], [2., None])
    assert 'ZeroDivisionError' in pool.last_error
    assert pool.counts == dict(scored=1, timeouts=0, crashes=1, restarts=0)


def test_a_row_that_takes_the_memory_is_a_crash():
  with verifiers.VerifierPool(
      'operator:mul', workers=1, memory_gb=1.) as pool:
    verdicts, values = pool.map([('a', 3), ('a', 2**31), ('b', 2)])
    assert (verdicts, values) == ([0, 2, 0], ['aaa', None, 'bb'])
    assert 'MemoryError' in pool.last_error


@pytest.mark.parametrize('change, message', [
    (dict(scorer='operator'), "'module:function'"),
    (dict(memory_gb=0.), 'memory_gb=0.0 must be positive'),
    (dict(timeout_s=0.), 'timeout_s=0.0'), (dict(workers=-1), 'workers=-1')])
def test_wrong_arguments(change, message):
  with pytest.raises(ValueError, match=message):
    verifiers.VerifierPool(**{'scorer': 'operator:add', **change})
