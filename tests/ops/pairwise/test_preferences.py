"""Pairs, and their losses against a reference."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

ROWS = 6
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
ids_of = st.lists(st.integers(-1, ROWS - 1), min_size=ROWS, max_size=ROWS)
scores_of = st.lists(  # Few values, so that ties are common.
    st.sampled_from([-1., 0., 2.]), min_size=ROWS, max_size=ROWS)
SMOOTHING = {'exo_pair': .1, 'robust': .2}
DIFFERENCE = ('sigmoid', 'hinge', 'ipo', 'exo_pair', 'robust', 'discopop')
CASES = ([(kind, 'reverse_kl') for kind in ops.DPO_KINDS]
         + [(kind, name) for kind in DIFFERENCE
            for name in ops.DIVERGENCES[1:]])
_roles = jax.jit(ops.best_and_worst)
EXTREMES = np.array([0., -1e5, 1e5, -30., 30., 1e-7], np.float32)


def _logps(seed, count=4, rows=ROWS):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.normal(-4, 2, rows), jnp.float32)
          for _ in range(count)]


def _dpo(*logps, kind='sigmoid', **kw):
  return ops.dpo_pair_losses(
      *logps, kind=kind, label_smoothing=SMOOTHING.get(kind, 0.), **kw)


# --- who is paired ---


@few
@given(scores_of, ids_of)
def test_best_and_worst_equals_a_loop(scores, ids):
  expected = np.zeros(ROWS)
  for group in set(ids) - {-1}:
    rows = [i for i in range(ROWS) if ids[i] == group]
    values = [scores[i] for i in rows]
    if max(values) > min(values):
      expected[rows[int(np.argmax(values))]] = 1
      expected[rows[int(np.argmin(values))]] = -1
  roles = _roles(jnp.array(scores), jnp.array(ids))
  np.testing.assert_array_equal(roles, expected)
  # Roles are scores of which they themselves are the best and the worst.
  np.testing.assert_array_equal(_roles(roles, jnp.array(ids)), roles)


@few
@given(seeds, ids_of)
def test_without_ties_rows_may_come_in_any_order(seed, ids):
  rng = np.random.default_rng(seed)
  scores, order = rng.permutation(ROWS) * 1., rng.permutation(ROWS)
  ids = np.array(ids)
  roles = _roles(jnp.asarray(scores), jnp.asarray(ids))
  moved = _roles(jnp.asarray(scores[order]), jnp.asarray(ids[order]))
  np.testing.assert_array_equal(moved, np.asarray(roles)[order])


def test_rows_that_may_not_be_chosen_are_passed_over():
  scores = jnp.array([9., 1., 2., jnp.nan, jnp.inf, 3.])
  ids = jnp.array([0, 0, 0, -1, 9, 4])
  where = jnp.array([False, True, True, True, True, True])
  roles = ops.best_and_worst(scores, ids, where=where)
  assert roles.tolist() == [0, -1, 1, 0, 0, 0]


def test_split_pairs_hands_each_group_its_two_rows():
  x, ids = jnp.array([1., 2., 3., jnp.nan, 5.]), jnp.array([3, 0, 3, -1, 0])
  roles = jnp.array([1., 0., -1., 0., 0.])
  chosen, rejected = ops.split_pairs(x, roles, ids)
  assert chosen.tolist() == [0, 0, 0, 1, 0]
  assert rejected.tolist() == [0, 0, 0, 3, 0]


# --- direct preference optimisation ---


@pytest.mark.parametrize('kind, divergence', CASES)
def test_extremes_stay_finite(kind, divergence):
  """Log-probabilities of ±1e5, and NaN where there is no pair."""
  chosen, rejected = (
      x.reshape(-1) for x in np.meshgrid(EXTREMES, EXTREMES))
  junk = np.full(4, np.nan, np.float32)
  logps = [jnp.asarray(np.concatenate([x, junk])) for x in (chosen, rejected)]
  ref = jnp.zeros_like(logps[0])
  where = jnp.arange(ref.shape[0]) < chosen.size
  losses, pull = jax.vjp(lambda c, r: _dpo(
      c, r, ref, ref, kind=kind, divergence=divergence, where=where), *logps)
  gradient = pull(jnp.ones_like(losses))
  for x in (losses, *gradient):
    assert x.dtype == jnp.float32
    assert np.isfinite(x).all()
    assert (np.asarray(x)[~np.asarray(where)] == 0).all()


@pytest.mark.parametrize('kind', ops.DPO_KINDS)
def test_no_pairs_at_all(kind):
  logps = _logps(0)
  losses, pull = jax.vjp(
      lambda *x: _dpo(*x, kind=kind, where=jnp.zeros(ROWS, bool)), *logps)
  for x in (losses, *pull(jnp.ones(ROWS))):
    assert (np.asarray(x) == 0).all()


@few
@given(seeds, st.sampled_from(CASES))
def test_pairs_do_not_see_each_other(seed, case):
  kind, divergence = case
  logps, order = _logps(seed), np.random.default_rng(seed).permutation(ROWS)
  kw = dict(kind=kind, divergence=divergence)
  losses = np.asarray(_dpo(*logps, **kw))
  moved = np.asarray(_dpo(*(x[order] for x in logps), **kw))
  padded = [jnp.concatenate([x, jnp.full(2, jnp.nan)]) for x in logps]
  longer = _dpo(*padded, where=jnp.arange(ROWS + 2) < ROWS, **kw)
  np.testing.assert_allclose(longer[:ROWS], losses, rtol=1e-5, atol=1e-6)
  if kind.startswith('aot'):  # Entries are ranks, whatever the order was.
    np.testing.assert_allclose(moved, losses, rtol=1e-5, atol=1e-6)
  else:
    np.testing.assert_allclose(moved, losses[order], rtol=1e-5, atol=1e-6)


@few
@given(seeds, st.sampled_from(DIFFERENCE), st.floats(-5, 5))
def test_functions_of_the_difference(seed, kind, shift):
  """Moving both responses alike changes nothing; so the gradients cancel."""
  logps = _logps(seed)
  losses = _dpo(*logps, kind=kind)
  both = _dpo(logps[0] + shift, logps[1] + shift, *logps[2:], kind=kind)
  np.testing.assert_allclose(both, losses, rtol=1e-3, atol=1e-3)
  chosen, rejected = jax.grad(
      lambda c, r: jnp.sum(_dpo(c, r, *logps[2:], kind=kind)), (0, 1))(
          *logps[:2])
  np.testing.assert_allclose(chosen, -rejected, rtol=1e-5, atol=1e-7)


def test_the_reference_is_a_constant():
  logps = _logps(0)
  gradient = jax.grad(
      lambda refs: jnp.sum(ops.dpo_pair_losses(*logps[:2], *refs)))(logps[2:])
  assert all((np.asarray(x) == 0).all() for x in gradient)


def test_dpo_and_conservative_dpo_by_hand():
  chosen, rejected, ref_chosen, ref_rejected = logps = _logps(1)
  x = .3 * ((chosen - ref_chosen) - (rejected - ref_rejected))
  right, wrong = np.log1p(np.exp(-x)), np.log1p(np.exp(x))
  np.testing.assert_allclose(
      ops.dpo_pair_losses(*logps, beta=.3), right, rtol=1e-5)
  np.testing.assert_allclose(
      ops.dpo_pair_losses(*logps, beta=.3, label_smoothing=.2),
      .8 * right + .2 * wrong, rtol=1e-5)


def test_robust_without_noise_is_dpo():
  logps = _logps(2)
  np.testing.assert_allclose(
      ops.dpo_pair_losses(*logps, kind='robust'), ops.dpo_pair_losses(*logps))


def test_robust_is_unbiased_under_its_noise():
  """Labels that flip with probability ε give DPO's loss on average."""
  logps, eps = _logps(3), .2
  flipped = [logps[i] for i in (1, 0, 3, 2)]
  kw = dict(kind='robust', label_smoothing=eps)
  mean = ((1 - eps) * ops.dpo_pair_losses(*logps, **kw)
          + eps * ops.dpo_pair_losses(*flipped, **kw))
  np.testing.assert_allclose(mean, ops.dpo_pair_losses(*logps), rtol=1e-5)


def test_ipo_wants_a_margin_and_no_more():
  beta, zero = .25, jnp.zeros(1)
  at = lambda d: jax.value_and_grad(lambda c: ops.dpo_pair_losses(
      c, zero, zero, zero, kind='ipo', beta=beta)[0])(jnp.array([d]))
  loss, gradient = at(1 / (2 * beta))
  assert float(loss) == 0 and float(gradient[0]) == 0
  assert at(5.)[1][0] > 0 > at(-5.)[1][0]


def test_lengths_turn_sums_into_means():
  logps, rng = _logps(4), np.random.default_rng(4)
  lengths = [jnp.asarray(rng.integers(1, 9, ROWS), jnp.float32)
             for _ in range(2)]
  for kind in ('ipo', 'sigmoid'):
    np.testing.assert_allclose(
        ops.dpo_pair_losses(*logps, kind=kind, lengths=tuple(lengths)),
        ops.dpo_pair_losses(
            *(x / n for x, n in zip(logps, lengths * 2)), kind=kind),
        rtol=1e-5)


@pytest.mark.parametrize(
    'alpha, name', [(1., 'reverse_kl'), (0., 'forward_kl')])
def test_the_ends_of_the_alpha_divergence(alpha, name):
  x = jnp.linspace(-3, 3, 7)
  np.testing.assert_allclose(
      ops.divergence_score(x, 'alpha', alpha=alpha),
      ops.divergence_score(x, name), rtol=1e-6)


@pytest.mark.parametrize('name', ops.DIVERGENCES)
def test_scores_increase_through_zero_with_the_right_slope(name):
  """f′ is increasing, and 0 where policy and reference agree."""
  x = jnp.linspace(-4, 4, 33)
  score = ops.divergence_score(x, name)
  assert (np.diff(score) > 0).all()
  assert float(score[16]) == pytest.approx(0, abs=1e-7)
  slope = jax.grad(lambda v: ops.divergence_score(v, name))(0.)
  assert float(slope) == pytest.approx(.5 if name == 'js' else 1.)


def test_one_pair_has_nothing_to_sort():
  logps = _logps(5, rows=1)
  for kind in ('aot', 'aot_unpaired'):
    np.testing.assert_allclose(
        ops.dpo_pair_losses(*logps, kind=kind), ops.dpo_pair_losses(*logps),
        rtol=1e-5)


def test_unpaired_sorting_forgets_the_pairs():
  chosen, rejected, ref_chosen, ref_rejected = _logps(6)
  order = np.array([3, 0, 5, 1, 4, 2])
  plain, other = (
      ops.dpo_pair_losses(chosen, rejected[o], ref_chosen, ref_rejected[o],
                          kind='aot_unpaired') for o in (slice(None), order))
  np.testing.assert_allclose(plain, other, rtol=1e-6)


def test_discopop_by_hand():
  logps, tau = _logps(7), .5
  x = np.asarray(logps[0] - logps[1] - logps[2] + logps[3], np.float64)
  blend = 1 / (1 + np.exp(-x / tau))
  expected = (1 - blend) * np.log1p(np.exp(-x)) + blend * np.exp(-x)
  np.testing.assert_allclose(
      ops.dpo_pair_losses(*logps, kind='discopop', beta=1., tau=tau), expected,
      rtol=1e-4)


# --- arguments ---


@pytest.mark.parametrize('kw, match', [
    (dict(kind='sigmoids'), "did you mean 'sigmoid'"),
    (dict(divergence='forward'), "did you mean 'forward_kl'"),
    (dict(kind='apo_zero', divergence='js'), "divergence is 'js'"),
    (dict(kind='aot', divergence='alpha'), "divergence is 'alpha'"),
    (dict(label_smoothing=1.), 'label_smoothing is 1.0'),
    (dict(kind='hinge', label_smoothing=.1), "kind 'hinge' has none"),
    (dict(kind='exo_pair'), 'must be above 0'),
    (dict(kind='robust', label_smoothing=.5), 'must be below 0.5'),
    (dict(kind='discopop', tau=0.), 'tau is 0.0'),
])
def test_wrong_choices_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.dpo_pair_losses(*_logps(0), **kw)
