"""Group kernels against loops over groups."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.ops import normalizers, segments

ROWS = 7
few = settings(max_examples=20, deadline=None)
ids_of = st.lists(st.integers(-1, ROWS - 1), min_size=ROWS, max_size=ROWS)
numbers = st.lists(
    st.floats(-100, 100, width=32), min_size=ROWS, max_size=ROWS)


def _members(ids):
  return [np.flatnonzero(np.asarray(ids) == g) for g in range(ROWS)]


@few
@given(numbers, ids_of)
def test_reductions_equal_loops(x, ids):
  x, ids = np.array(x, np.float32), np.array(ids)
  for kernel, plain in (
      (segments.segment_sum, np.sum), (segments.segment_mean, np.mean),
      (segments.segment_max, np.max), (segments.segment_min, np.min),
      (segments.segment_std, lambda v: v.std(ddof=1) if len(v) > 1 else 0)):
    expected = [plain(x[m]) if len(m) else 0 for m in _members(ids)]
    np.testing.assert_allclose(
        kernel(jnp.asarray(x), jnp.asarray(ids)), expected, rtol=1e-4,
        atol=1e-4, err_msg=kernel.__name__)


@few
@given(ids_of)
def test_compact_ids_keep_who_is_with_whom(ids):
  strange = np.array([-7 if i < 0 else 1000 - 13 * i for i in ids])
  compact = np.asarray(segments.compact_ids(jnp.asarray(strange)))
  assert ((compact >= 0) == (strange >= 0)).all()
  assert (compact < ROWS).all()
  real = strange >= 0
  np.testing.assert_array_equal(
      compact[real][:, None] == compact[real][None],
      strange[real][:, None] == strange[real][None])


@few
@given(numbers, ids_of, st.sampled_from(normalizers.STD_KINDS))
def test_group_standardize_equals_a_loop(x, ids, std):
  x, ids = np.array(x, np.float32), np.array(ids)
  expected = np.zeros(ROWS)
  for m in _members(ids):
    if len(m) > 1:
      v = x[m].astype(np.float64)
      scale = 1 if std == 'none' else v.std(ddof=int(std == 'sample')) + 1e-2
      expected[m] = (v - v.mean()) / scale
  ours = normalizers.group_standardize(
      jnp.asarray(x), jnp.asarray(ids), std=std, eps=1e-2)
  np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


@few
@given(numbers, ids_of)
def test_leave_one_out_equals_a_loop(x, ids):
  x, ids = np.array(x, np.float32), np.array(ids)
  expected = np.zeros(ROWS)
  for m in _members(ids):
    for row in m:
      others = [r for r in m if r != row]
      if others:
        expected[row] = x[row] - x[others].mean()
  np.testing.assert_allclose(
      normalizers.leave_one_out(jnp.asarray(x), jnp.asarray(ids)),
      expected, rtol=1e-3, atol=1e-3)


def test_ids_outside_the_range_belong_to_no_group():
  x, ids = jnp.ones(4), jnp.array([0, -1, 4, -9])
  assert segments.segment_sum(x, ids).tolist() == [1, 0, 0, 0]
  assert segments.segment_sum(x, ids, 5).tolist() == [1, 0, 0, 0, 1]
  assert segments.gather(jnp.arange(4.) + 1, ids).tolist() == [1, 0, 0, 0]


def test_nan_of_no_group_stays_out():
  x = jnp.array([1., jnp.nan, 3.])
  ids = jnp.array([0, -1, 0])
  assert segments.segment_sum(x, ids).tolist() == [4, 0, 0]
  out = normalizers.group_standardize(x, ids, std='none')
  assert out.tolist() == [-1, 0, 1]


@pytest.mark.parametrize('value, std, eps', [
    (.1, 'sample', 0.), (1e30, 'population', 1e-6), (-7e-8, 'none', 0.)])
def test_equal_rewards_give_exactly_zero(value, std, eps):
  out = normalizers.group_standardize(
      jnp.full(6, value), jnp.zeros(6, int), std=std, eps=eps)
  assert (np.asarray(out) == 0).all()


def test_where_restricts_who_is_compared():
  x, ids = jnp.array([1., 3., 100.]), jnp.zeros(3, int)
  out = normalizers.group_standardize(
      x, ids, std='none', where=jnp.array([True, True, False]))
  assert out.tolist() == [-1, 1, 0]


@pytest.mark.parametrize('std, raw', [('none', 5.), ('sample', 5. / 1.5)])
def test_singletons_follow_their_rule(std, raw):
  kw = dict(std=std, eps=.5)
  x, ids = jnp.array([5.]), jnp.array([0])
  assert normalizers.group_standardize(x, ids, **kw).tolist() == [0]
  out = normalizers.group_standardize(x, ids, singleton='raw', **kw)
  assert float(out[0]) == pytest.approx(raw)


def test_flat_groups_within_a_tolerance():
  x, ids = jnp.array([1., 1.1, 0., 2.]), jnp.array([0, 0, 1, 1])
  assert normalizers.flat_groups(x, ids).tolist() == [False] * 4
  flat = normalizers.flat_groups(x, ids, tolerance=.2)
  assert flat.tolist() == [True, True, False, False]
