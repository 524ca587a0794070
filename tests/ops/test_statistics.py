"""Tests of the statistics over problems."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.ops import statistics


def test_pass_at_k_golden(golden, x64):
  compared, rows = 0, 16
  estimate = jax.jit(statistics.pass_at_k, static_argnums=2)
  for case in golden('pass_at_k')['cases']:
    correct = np.asarray(case['inputs']['correct_per_prompt'])
    total = np.full(len(correct), correct.shape[1])
    for name, expected in case['outputs'].items():
      if not name.endswith('_unbiased'):
        continue
      k = int(name.removesuffix('_unbiased').rsplit('_', 1)[1])
      # One shape, so that each k is compiled once.
      padded = (np.resize(x, rows) for x in (correct.sum(1), total))
      actual = np.mean(estimate(*padded, k)[:len(correct)])
      assert len(correct) <= rows
      np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)
      compared += 1
  assert compared >= 19


def test_pass_at_k_equals_binomials():
  cases = [(n, c) for n in (1, 5, 40) for c in range(n + 1)]
  total, correct = (jnp.array(x) for x in zip(*cases))
  for k in (1, 2, 5, 13):
    actual = jax.jit(statistics.pass_at_k, static_argnames='k')(
        correct, total, k=k)
    for value, (n, c) in zip(actual.tolist(), cases):
      if n < k:
        assert math.isnan(value)
      else:
        expected = 1 - math.comb(n - c, k) / math.comb(n, k)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_pass_at_k_stays_exact_for_many_samples():
  actual = statistics.pass_at_k(jnp.array([1, 1]), jnp.array([10**4] * 2), 100)
  np.testing.assert_allclose(actual, 0.01, rtol=1e-5)


def test_pass_at_k_refuses_zero():
  with pytest.raises(ValueError, match='k is 0'):
    statistics.pass_at_k(jnp.array([1]), jnp.array([2]), 0)


def test_maj_at_k_counts_votes(rng):
  answers = rng.integers(-1, 4, size=(200, 6))
  right = rng.integers(0, 4, size=200)
  for k in (1, 4, 6):
    actual = statistics.maj_at_k(
        jnp.array(answers), jnp.array(answers == right[:, None]), k)
    for value, row, truth in zip(actual.tolist(), answers, right):
      votes = [a for a in row[:k].tolist() if a >= 0]
      best = max((votes.count(a) for a in votes), default=0)
      tied = {a for a in votes if votes.count(a) == best}
      expected = (truth in tied) / len(tied) if tied else 0.
      assert value == pytest.approx(expected, abs=1e-6)


def test_maj_at_one_is_the_first_sample(rng):
  answers = jnp.array(rng.integers(0, 3, size=(20, 5)))
  correct = answers == 1
  np.testing.assert_array_equal(
      statistics.maj_at_k(answers, correct, 1), correct[:, 0].astype(float))


@pytest.mark.parametrize('k', [0, 4])
def test_maj_at_k_refuses(k):
  with pytest.raises(ValueError, match=rf'k is {k}.*\[1, 3\]'):
    statistics.maj_at_k(jnp.zeros((2, 3), int), jnp.ones((2, 3), bool), k)


def test_mean_interval_equals_textbook(rng):
  x = rng.random(30)
  mean, low, high = statistics.mean_interval(jnp.array(x), 0.99)
  half = 2.5758293 * x.std(ddof=1) / math.sqrt(30)
  np.testing.assert_allclose(mean, x.mean(), rtol=1e-6)
  np.testing.assert_allclose([low, high], [x.mean() - half, x.mean() + half],
                             rtol=1e-5)


def test_intervals_hold_the_truth_as_often_as_promised():
  keys = jax.random.split(jax.random.key(3), 400)

  def covered(key):
    draw, resample = jax.random.split(key)
    x = jax.random.bernoulli(draw, 0.3, (100,)).astype(jnp.float32)
    normal = statistics.mean_interval(x, 0.9)
    boot = statistics.bootstrap_interval(x, resample, 300, 0.9)
    return jnp.array([(i.low <= 0.3) & (0.3 <= i.high)
                      for i in (normal, boot)])

  share = jax.jit(jax.vmap(covered))(keys).mean(0)
  # Four standard errors of the share, and the steps of a binomial.
  np.testing.assert_allclose(share, 0.9, atol=0.06)


def test_bootstrap_interval_stays_in_range_and_repeats():
  x = jnp.array([1., 1., 1., 0.])
  first, second = (
      statistics.bootstrap_interval(x, jax.random.key(5)) for _ in range(2))
  assert first == second
  assert 0. <= first.low < first.mean == 0.75 < first.high <= 1.


def test_pairing_narrows_the_interval(rng):
  before = jnp.array(rng.random(50))
  after = before + 0.1 + 0.01 * jnp.array(rng.standard_normal(50))
  gain = statistics.paired_gain_interval(before, after)
  apart = statistics.mean_interval(after)
  assert 0.08 < gain.low < gain.mean < gain.high < 0.12
  assert gain.high - gain.low < 0.1 * (apart.high - apart.low)
  back = statistics.paired_gain_interval(after, before)
  np.testing.assert_allclose(back.low, -gain.high, rtol=1e-5)


def test_one_problem_says_nothing_of_the_spread():
  interval = statistics.mean_interval(jnp.array([0.5]))
  assert interval == (0.5, -math.inf, math.inf)


@pytest.mark.parametrize('x, confidence, message', [
    (np.zeros(0, np.float32), 0.95, 'x has no problems'),
    (np.zeros(3, np.float32), 1., 'confidence is 1.0'),
])
def test_intervals_refuse(x, confidence, message):
  for interval in (
      lambda: statistics.mean_interval(x, confidence),
      lambda: statistics.bootstrap_interval(
          x, jax.random.key(0), 10, confidence)):
    with pytest.raises(ValueError, match=message):
      interval()


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'int32', 'bool'])
def test_lower_precision_is_float32_inside(dtype):
  x = jnp.array([0, 1, 1, 0, 1]).astype(dtype)
  expected = statistics.mean_interval(x.astype(jnp.float32))
  for actual, end in itertools.zip_longest(
      statistics.mean_interval(x), expected):
    assert actual.dtype == jnp.float32
    assert actual == end
