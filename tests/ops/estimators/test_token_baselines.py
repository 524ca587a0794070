"""The optimal token baseline against a loop over groups and positions."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops
from policyopt.ops.estimators import token_baselines

SHAPE = ROWS, WIDTH = 6, 8
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
compiled = jax.jit(ops.optimal_token_baseline, static_argnames='tail')


def _draw(seed):
  rng = np.random.default_rng(seed)
  mask = rng.random(SHAPE) < .6
  mask[0] = False
  returns = rng.normal(size=SHAPE).astype(np.float32)
  energy = rng.random(SHAPE).astype(np.float32)
  return returns, energy, mask, rng.integers(-1, 3, ROWS)


@few
@given(seeds, st.sampled_from(token_baselines.VARIANTS),
       st.sampled_from(token_baselines.TAILS))
def test_it_equals_a_loop(seed, variant, tail):
  returns, energy, mask, ids = _draw(seed)
  positions = np.asarray(ops.token_positions(mask, variant))
  ours = compiled(returns, energy, mask, ids, positions, tail=tail)
  weight = np.cumsum(energy * mask, axis=1)
  lengths, expected = mask.sum(axis=1), np.zeros(SHAPE)
  for group in range(3):
    rows = np.flatnonzero(ids == group)
    if len(rows) < 2:
      continue
    second, first = np.sort(lengths[rows])[-2:]
    for i in rows:
      for t in np.flatnonzero(mask[i]):
        k = positions[i, t]
        same = [(j, s) for j in rows for s in np.flatnonzero(mask[j])
                if positions[j, s] == k]
        beyond = first > second and lengths[i] == first and k >= second
        if {'alone': len(same) == 1, 'length': beyond, 'none': False}[tail]:
          continue
        w = np.array([weight[at] for at in same])
        g = np.array([returns[at] for at in same])
        expected[i, t] = (g * w).sum() / (w.sum() + 1e-8)
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@few
@given(seeds, st.permutations(range(ROWS)))
def test_rows_come_in_any_order_and_ids_are_names(seed, order):
  order = np.array(order)
  returns, energy, mask, ids = _draw(seed)
  positions = np.asarray(ops.token_positions(mask))
  plain = compiled(returns, energy, mask, ids, positions)
  renamed = np.array([4, 0, 5, -1])[ids]
  moved = compiled(*(x[order] for x in (
      returns, energy, mask, renamed, positions)))
  np.testing.assert_allclose(moved, plain[order], rtol=1e-5, atol=1e-6)


@few
@given(seeds)
def test_what_lies_outside_the_mask_is_never_read(seed):
  returns, energy, mask, ids = _draw(seed)
  positions = np.asarray(ops.token_positions(mask))

  def total(returns, energy):
    return jnp.sum(compiled(returns, energy, mask, ids, positions))

  dirty = [np.where(mask, x, np.nan) for x in (returns, energy)]
  expected = jax.grad(total, (0, 1))(returns, energy)
  for ours, wanted in zip(jax.grad(total, (0, 1))(*dirty), expected):
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    assert (np.asarray(ours)[~mask] == 0).all()


@pytest.mark.parametrize('energy', [0., 1e-12, 1e15])
def test_a_certain_policy_has_no_baseline_but_a_finite_one(energy):
  returns, _, mask, ids = _draw(0)
  value, gradient = jax.value_and_grad(lambda x: jnp.sum(compiled(
      returns, x, mask, ids, ops.token_positions(mask), eps=0.)))(
          jnp.full(SHAPE, energy, jnp.float32))
  assert np.isfinite(value) and np.isfinite(gradient).all()
  if not energy:
    assert value == 0


def test_observations_change_nothing_at_valid_positions():
  returns, energy, _, ids = _draw(1)
  full = np.ones(SHAPE, bool)
  plain = compiled(
      returns, energy, full, ids, ops.token_positions(full, 'valid'))
  at = np.arange(WIDTH) + (np.arange(WIDTH) > 2)
  wide = np.full((3, ROWS, WIDTH + 1), np.nan, np.float32)
  wide[0][:, at], wide[1][:, at], wide[2][:, at] = returns, energy, 1
  mask = wide[2] == 1
  spread = ops.optimal_token_baseline(
      wide[0], wide[1], mask, ids, ops.token_positions(mask, 'valid'))
  np.testing.assert_allclose(spread[:, at], plain, rtol=1e-6)


def test_equal_energies_give_the_mean():
  returns, _, _, _ = _draw(2)
  mask, ids = np.ones(SHAPE, bool), np.array([0, 1, 0, 1, 0, 1])
  ours = compiled(
      returns, np.ones(SHAPE), mask, ids, ops.token_positions(mask))
  for group in (0, 1):
    np.testing.assert_allclose(
        ours[group], returns[ids == group].mean(axis=0), rtol=1e-5)


def test_the_energy_is_the_squared_norm_of_the_gradient_by_the_logits():
  logits = jnp.array([.3, -1., 2., .5])
  probs = jax.nn.softmax(logits)
  for token in range(4):
    gradient = jax.grad(lambda z, i=token: jax.nn.log_softmax(z)[i])(logits)
    assert float(ops.gradient_energy(
        jnp.log(probs[token]), jnp.sum(probs**2))) == pytest.approx(
            float(jnp.sum(gradient**2)), rel=1e-5)


def test_unknown_names_are_refused():
  mask = jnp.ones(SHAPE, bool)
  with pytest.raises(ValueError, match="variant 'valids'.*'valid'"):
    ops.token_positions(mask, 'valids')
  with pytest.raises(ValueError, match="unknown tail 'zero'"):
    ops.optimal_token_baseline(
        mask, mask, mask, jnp.zeros(ROWS, int), mask, tail='zero')
