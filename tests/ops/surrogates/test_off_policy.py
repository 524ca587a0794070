"""Importance weights, rejection and the distance of two policies."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops
from policyopt.ops.surrogates.mismatch import STATISTICS
from policyopt.ops.surrogates.off_policy import LEVELS

SHAPE = (5, 7)
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
scales = st.sampled_from([0., .1, 1., 30., 1e4])
REJECTIONS = [
    dict(statistic=s, level=level, low=.5 if s == 'k1' else None, high=2.)
    for s in STATISTICS
    for level in ('token', 'seq_sum', 'seq_mean', 'seq_max')
    if (s, level) != ('k1', 'seq_max')]


def _draw(seed, scale=1.):
  """Log-ratios with noise outside the mask, and one row that is empty."""
  rng = np.random.default_rng(seed)
  mask = rng.random(SHAPE) < .6
  mask[0] = True
  mask[1] = False
  x = scale * rng.normal(size=SHAPE)
  return np.where(mask, x, 1e3).astype(np.float32), mask


def _everything(x, mask):
  """All that the kernels say, row by row and of the batch."""
  tokens, batch = {}, {}
  for level in LEVELS:
    tokens[level] = ops.importance_weights(
        x, mask, level=level, normalize=True)
    tokens[f'{level} mask'] = ops.importance_weights(
        x, mask, level=level, bound='mask', floor=.5)
  tokens['gate'] = ops.importance_weights(
      x, mask, bound='mask', bound_level='geometric', cap=5., floor=.5)
  for kw in REJECTIONS:
    chosen = {name: kw[name] for name in ('statistic', 'level')}
    name = ' '.join(chosen.values())
    tokens[f'{name} kept'] = ops.rejection_mask(x, mask, **kw)
    tokens[name] = ops.mismatch_statistic(x, mask, **chosen)
  batch['ess'] = ops.effective_sample_size(tokens['token'], mask)
  batch |= ops.off_policy_metrics(x, jnp.zeros_like(x), mask)
  return tokens, batch


_compiled = jax.jit(_everything)


@few
@given(seeds, scales)
def test_everything_is_finite_and_nothing_outside_the_mask(seed, scale):
  x, mask = _draw(seed, scale)
  tokens, batch = _compiled(x, mask)
  for name, value in tokens.items():
    assert np.isfinite(value).all(), name
    assert (np.asarray(value)[~mask] == 0).all(), name
  for name, value in batch.items():
    assert np.isfinite(value), name
  assert 0 <= batch['ess'] <= 1 + 1e-6


@few
@given(seeds)
def test_rows_come_in_any_order(seed):
  x, mask = _draw(seed)
  order = np.random.default_rng(seed).permutation(len(x))
  tokens, batch = _compiled(x, mask)
  moved, whole = _compiled(x[order], mask[order])
  for name in tokens:
    np.testing.assert_allclose(
        moved[name], tokens[name][order], rtol=1e-5, err_msg=name)
  for name in batch:
    np.testing.assert_allclose(
        whole[name], batch[name], rtol=1e-4, atol=1e-5, err_msg=name)


@few
@given(seeds)
def test_padding_changes_nothing(seed):
  x, mask = _draw(seed)
  small = _compiled(x[[0, 2, 3, 4]], mask[[0, 2, 3, 4]])
  tokens, batch = _compiled(x, mask)
  for name in tokens:
    np.testing.assert_allclose(
        small[0][name], tokens[name][np.array([0, 2, 3, 4])], rtol=1e-5)
  for name in batch:
    np.testing.assert_allclose(
        small[1][name], batch[name], rtol=1e-4, atol=1e-5, err_msg=name)


@few
@given(seeds)
def test_weights_equal_a_loop(seed):
  x, mask = _draw(seed, .7)
  tokens, _ = _compiled(x, mask)
  for row in range(len(x)):
    own = x[row][mask[row]].astype(np.float64)
    if not len(own):
      continue
    for level, log_weight in (
        ('token', own), ('sequence', own.sum()), ('geometric', own.mean())):
      ratio = np.exp(log_weight) + 0 * own
      inside = np.where((ratio >= .5) & (ratio <= 2), ratio, 0)
      np.testing.assert_allclose(
          tokens[f'{level} mask'][row][mask[row]], inside, rtol=1e-4)
    mean = np.exp(own.mean())
    np.testing.assert_allclose(
        tokens['gate'][row][mask[row]],
        np.exp(own) * (.5 <= mean <= 5), rtol=1e-4)


@few
@given(seeds, st.sampled_from(LEVELS))
def test_normalised_weights_average_to_one(seed, level):
  x, mask = _draw(seed)
  weights = np.asarray(_compiled(x, mask)[0][level])
  if level == 'token':
    assert weights[mask].mean() == pytest.approx(1, rel=1e-4)
  else:
    rows = [w[m].mean() for w, m in zip(weights, mask) if m.any()]
    assert np.mean(rows) == pytest.approx(1, rel=1e-4)


def test_importance_weights_turn_one_expectation_into_another():
  """Exactly, over all pairs of tokens of a small vocabulary."""
  rng = np.random.default_rng(0)
  ours, sampler = (
      jax.nn.log_softmax(jnp.asarray(rng.normal(size=4))) for _ in range(2))
  pairs = np.stack(np.meshgrid(*[np.arange(4)] * 2), -1).reshape(-1, 2)
  mask, f = jnp.ones(pairs.shape, bool), rng.normal(size=len(pairs))
  weights = ops.importance_weights(
      (ours - sampler)[pairs], mask, level='sequence', bound='none')[:, 0]
  seen = jnp.exp(sampler[pairs].sum(1))
  wanted = jnp.exp(ours[pairs].sum(1))
  assert float(jnp.sum(seen * weights * f)) == pytest.approx(
      float(jnp.sum(wanted * f)), rel=1e-5)


def test_truncation_bounds_from_both_sides():
  x, mask = jnp.log(jnp.array([[.1, 1., 9.]])), jnp.ones((1, 3), bool)
  clamped = ops.importance_weights(x, mask, cap=4., floor=.5)
  np.testing.assert_allclose(clamped, [[.5, 1., 4.]], rtol=1e-6)
  free = ops.importance_weights(x, mask, bound='none')
  np.testing.assert_allclose(free, [[.1, 1., 9.]], rtol=1e-5)


def test_when_nothing_is_inside_all_weights_are_zero():
  """Where a mean of 0 and an effective sample size of 0 / 0 come up."""
  x, mask = jnp.full((2, 3), 5.), jnp.ones((2, 3), bool)
  for level in LEVELS:
    weights = ops.importance_weights(
        x, mask, level=level, bound='mask', normalize=True)
    assert (weights == 0).all()
    assert float(ops.effective_sample_size(weights, mask)) == 0


def test_nothing_is_differentiated():
  x, mask = _draw(3)

  def total(x):
    tokens, batch = _everything(x, jnp.asarray(mask))
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(
        [{k: v for k, v in part.items() if v.dtype != bool}
         for part in (tokens, batch)]))

  assert (jax.grad(total)(jnp.asarray(x)) == 0).all()


@pytest.mark.parametrize('kw', REJECTIONS, ids=str)
def test_equal_policies_reject_nothing(kw):
  mask = jnp.asarray(_draw(0)[1])
  kept = ops.rejection_mask(jnp.zeros(SHAPE), mask, **kw)
  np.testing.assert_array_equal(kept, mask)


@few
@given(seeds)
def test_bounds_of_the_inverse_ratio_are_the_inverse_bounds(seed):
  x, mask = _draw(seed)
  for level in ('token', 'seq_sum', 'seq_mean'):
    direct = ops.rejection_mask(x, mask, level=level, low=.3, high=2.5)
    inverse = ops.rejection_mask(
        x, mask, level=level, low=1 / 2.5, high=1 / .3, inverse=True)
    np.testing.assert_array_equal(direct, inverse)
    flipped = ops.rejection_mask(
        np.where(mask, -x, 0), mask, level=level, low=.3, high=2.5,
        inverse=True)
    np.testing.assert_array_equal(direct, flipped)


def test_a_row_is_judged_as_a_whole():
  mask = jnp.ones((3, 2), bool)
  x = jnp.array([[1., -1.], [.4, .4], [0., 0.]])
  kept = {level: ops.rejection_mask(x, mask, level=level)[:, 0].tolist()
          for level in ('seq_sum', 'seq_mean')}
  assert kept == {'seq_sum': [True, False, True], 'seq_mean': [True] * 3}
  largest = ops.rejection_mask(
      x, mask, statistic='k2', level='seq_max', high=.1)
  assert largest.tolist() == [[False] * 2, [True] * 2, [True] * 2]
  tokens = ops.rejection_mask(x, mask, high=2.8)
  assert tokens.tolist() == [[True, True]] * 3


@few
@given(seeds)
def test_only_bad_rows_that_drifted_lose_their_advantage(seed):
  x, mask = _draw(seed)
  advantages = np.random.default_rng(seed).normal(size=(len(x), 1))
  keep = ops.off_policy_sequence_mask(advantages, x, mask, .1)
  drift = np.array([-a[m].mean() if m.any() else 0 for a, m in zip(x, mask)])
  expected = (advantages[:, 0] >= 0) | (drift <= .1)
  near = np.abs(drift - .1) < 1e-5
  np.testing.assert_array_equal((np.asarray(keep)[:, 0] == expected) | near,
                                True)


def test_effective_sample_size():
  mask = jnp.array([[True] * 4 + [False]])
  ess = lambda *w: float(ops.effective_sample_size(  # noqa: E731
      jnp.array([[*w, 7.]]), mask))
  assert ess(3., 3., 3., 3.) == pytest.approx(1)
  assert ess(1., 1., 0., 0.) == pytest.approx(.5)
  assert ess(0., 0., 0., 0.) == 0


def test_the_distance_of_equal_policies_is_zero():
  x, mask = _draw(1)
  names = ops.off_policy_metrics(x, x, jnp.asarray(mask))
  apart = ('k1', 'k3', 'chi2_token', 'chi2_sequence', 'log_perplexity_gap',
           'log_perplexity_gap_abs', 'log_perplexity_gap_max',
           'log_perplexity_gap_min')
  for name in apart:
    assert float(names[name]) == pytest.approx(0, abs=1e-6), name
  assert float(names['perplexity_ratio']) == pytest.approx(1)


def test_rows_without_a_token_are_skipped_or_counted():
  log_probs = jnp.full((2, 3), -1.)
  mask = jnp.array([[True, True, False], [False] * 3])
  kw = dict(sampler_log_probs=log_probs - 1, mask=mask)
  skip = ops.off_policy_metrics(log_probs, **kw)
  count = ops.off_policy_metrics(log_probs, **kw, empty_rows='count')
  assert float(skip['log_perplexity']) == pytest.approx(1)
  assert float(count['log_perplexity']) == pytest.approx(.5)
  assert float(count['perplexity']) == pytest.approx((np.e + 1) / 2)
  assert float(skip['k1']) == float(count['k1']) == pytest.approx(-1)


def test_an_empty_batch_has_no_distance():
  zeros = jnp.zeros((2, 3))
  metrics = ops.off_policy_metrics(zeros, zeros - 1, zeros == 1)
  assert {name: float(x) for name, x in metrics.items()} == dict.fromkeys(
      metrics, 0.)


@pytest.mark.parametrize('kw, match', [
    (dict(level='row'), "level is 'row'"),
    (dict(bound='clip'), "bound is 'clip'"),
    (dict(cap=0.), 'cap is 0'),
    (dict(cap=float('nan')), 'cap is nan'),
    (dict(floor=3.), r'floor is 3.*\[0, cap = 2'),
    (dict(bound_level='geometric'), "bound_level is 'geometric' and bound"),
    (dict(bound='mask', bound_level='row'), "bound_level is 'row'")])
def test_senseless_weights_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.importance_weights(jnp.zeros((1, 2)), jnp.ones((1, 2), bool), **kw)


@pytest.mark.parametrize('kw, match', [
    (dict(statistic='k4'), "statistic is 'k4'"),
    (dict(level='row'), "level is 'row'"),
    (dict(level='seq_max'), 'k1 has two sides'),
    (dict(high=-1.), 'high is -1'),
    (dict(low=3.), r'low is 3.*\(0, high = 2'),
    (dict(statistic='k2', low=.5), 'only k1 is bounded from below')])
def test_senseless_rejections_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.rejection_mask(jnp.zeros((1, 2)), jnp.ones((1, 2), bool), **kw)


def test_half_precision_becomes_float32_and_double_is_kept(x64):
  mask = jnp.ones((2, 2), bool)
  for given_dtype, expected in (
      (jnp.bfloat16, jnp.float32), (jnp.float64, jnp.float64)):
    tokens, batch = _everything(jnp.ones((2, 2), given_dtype), mask)
    dtypes = {v.dtype for v in jax.tree.leaves((tokens, batch))}
    assert dtypes <= {jnp.dtype(expected), jnp.dtype(bool)}
