"""Success rates, competence, difficulty weights and the length criterion."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.ops.estimators import difficulty

ROWS = 9
few = settings(max_examples=20, deadline=None)
ids_of = st.lists(st.integers(-1, ROWS - 1), min_size=ROWS, max_size=ROWS)
flags = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)
lengths_of = st.lists(st.integers(0, 5), min_size=ROWS, max_size=ROWS)
longer = {missing: jax.jit(
    lambda *args, missing=missing: difficulty.longer_when_correct(
        *args, missing=missing)) for missing in difficulty.MISSING}


def _members(ids):
  return [np.flatnonzero(np.asarray(ids) == g) for g in range(ROWS)]


@few
@given(lengths_of, flags, flags, ids_of, st.sampled_from(['llm', 'vlm']))
def test_the_length_criterion_equals_a_loop(
    lengths, correct, cut, ids, missing):
  lengths, correct, cut = map(np.array, (lengths, correct, cut))
  wrong = ~correct & ~cut
  ours = longer[missing](lengths, correct, wrong, np.array(ids))
  none = -np.inf if missing == 'llm' else np.inf
  for group, rows in enumerate(_members(ids)):
    if not len(rows):
      continue
    right = lengths[rows][correct[rows]]
    other = lengths[rows][wrong[rows]]
    longest = right.max() if len(right) else -np.inf
    mean = other.mean() if len(other) else none
    expected = longest > mean
    if missing == 'vlm' and not len(right):
      expected = True
    assert ours[group] == expected


@few
@given(flags, ids_of)
def test_rates_and_competence_equal_loops(success, ids):
  success, members = np.array(success, np.float32), _members(ids)
  ids = np.array(ids)
  rates, counted = difficulty.success_rates(success, ids)
  assert counted.tolist() == [len(rows) > 1 for rows in members]
  np.testing.assert_allclose(
      rates, [success[rows].mean() if len(rows) else 0 for rows in members],
      rtol=1e-6)
  raw, counted = difficulty.success_rates(success, ids, singleton='raw')
  assert counted.tolist() == [len(rows) > 0 for rows in members]
  assert all(raw[g] == 0 for g, rows in enumerate(members) if len(rows) == 1)
  inside = success[ids >= 0]
  assert float(difficulty.competence(success, ids)) == pytest.approx(
      inside.mean() if len(inside) else 0)
  by_prompt = [success[rows].mean() if len(rows) > 1 else 0.
               for rows in members if len(rows)]
  assert float(difficulty.competence(
      success, ids, over='prompts')) == pytest.approx(
          np.mean(by_prompt) if by_prompt else 0)


@few
@given(st.floats(.01, .99), st.floats(0, 1))
def test_difficulty_weights(rate, omega):
  rate, omega = np.float32(rate), np.float32(omega)
  both, hard, easy = (
      float(difficulty.difficulty_weights(rate, omega, focus=focus))
      for focus in ('both', 'hard', 'easy'))
  assert hard == pytest.approx(.5 / np.sqrt(rate), rel=1e-4)
  assert easy == pytest.approx(.5 / np.sqrt(1 - rate), rel=1e-4)
  assert both == pytest.approx(omega * hard + (1 - omega) * easy, rel=1e-4)
  # Mirrored rates and competence are the same.
  assert both == pytest.approx(float(difficulty.difficulty_weights(
      1 - rate, 1 - omega)), rel=1e-3)


@pytest.mark.parametrize('reading', difficulty.READINGS)
def test_weights_are_finite_at_both_ends(reading):
  rates = jnp.array([-1., 0., 1e-12, .5, 1 - 1e-7, 1., 4.])

  def total(rates, omega):
    return jnp.sum(difficulty.difficulty_weights(
        rates, omega, reading=reading))

  for omega in (0., .3, 1.):
    assert np.isfinite(difficulty.difficulty_weights(
        rates, omega, reading=reading)).all()
    for gradient in jax.grad(total, (0, 1))(rates, omega):
      assert np.isfinite(gradient).all()
  exact = difficulty.difficulty_weights(
      jnp.array([0., 1.]), .5, reading=reading, eps=0.)
  assert np.isfinite(exact).all()


def test_no_rows_at_all():
  ids = jnp.full(4, -1)
  assert float(difficulty.competence(jnp.ones(4), ids)) == 0
  assert not difficulty.success_rates(jnp.ones(4), ids)[1].any()
  nothing = jnp.zeros(4, bool)
  assert not difficulty.longer_when_correct(
      jnp.ones(4), nothing, nothing, ids).any()


@pytest.mark.parametrize('call, match', [
    (lambda: difficulty.competence(jnp.ones(2), jnp.zeros(2, int), over='row'),
     "did you mean 'rows'"),
    (lambda: difficulty.difficulty_weights(jnp.ones(2), 1., focus='herd'),
     "did you mean 'hard'"),
    (lambda: difficulty.difficulty_weights(jnp.ones(2), 1., reading='papr'),
     "did you mean 'paper'"),
    (lambda: difficulty.success_rates(
        jnp.ones(2), jnp.zeros(2, int), reward_min=1.), 'reward_max is 1.0')])
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
