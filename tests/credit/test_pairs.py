"""Roles and their weights, on a few rows by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit
from policyopt.types import Rollout

MASK = np.array([
    [0, 1, 1, 1],  # group 0
    [0, 1, 0, 0],
    [0, 1, 1, 0],
    [0, 1, 1, 0],  # group 5
    [0, 1, 1, 1],
    [0, 1, 0, 0],  # alone
    [0, 0, 0, 0],  # group 0, but nothing was chosen
    [0, 1, 1, 1],  # no group
]) == 1
GROUP = np.array([0, 0, 0, 5, 5, 2, 0, -1])


def _rollout(rewards, **extras):
  token_rewards = np.zeros(MASK.shape, np.float32)
  token_rewards[:, 1] = rewards
  return Rollout(
      tokens=jnp.zeros(MASK.shape, jnp.int32), mask=jnp.asarray(MASK),
      log_probs=jnp.where(MASK, -1., 0.), group=jnp.asarray(GROUP),
      rewards={}, extras={
          'token_rewards': jnp.asarray(token_rewards),
          **{name: jnp.asarray(x) for name, x in extras.items()}})


REWARDS = [1., 0., .5, 2., 3., 4., 9., 7.]


def _advantages(transform, rollout):
  x, _ = transform.update(rollout.extras['token_rewards'], (), rollout)
  return np.asarray(x)


def _weights(transform, rollout, mask=MASK):
  x, _ = transform.update(jnp.asarray(mask, jnp.float32), (), rollout)
  return np.asarray(x)


def _metrics(transform, rollout):
  reported = transform.metrics(
      rollout.mask.astype(jnp.float32), (), rollout)
  return {name: tuple(map(float, pair)) for name, pair in reported.items()}


def test_roles_lie_on_the_chosen_tokens():
  advantages = _advantages(credit.mark_pairs(), _rollout(REWARDS))
  expected = np.array([1, -1, 0, -1, 1, 0, 0, 0])[:, None] * MASK
  np.testing.assert_array_equal(advantages, expected)


def test_a_pair_weighs_one_over_the_number_of_pairs():
  transform, rollout = credit.weigh_pairs(), _rollout(REWARDS)
  weights = _weights(transform, rollout)
  paired = np.array([1, 1, 0, 1, 1, 0, 0, 0])
  np.testing.assert_array_equal(weights, .5 * paired[:, None] * MASK)
  # Three groups take part; one of them is a single row.
  assert _metrics(transform, rollout) == {'pairs/fraction': (2, 3)}


def test_a_flat_group_is_no_pair():
  rollout = _rollout([1., 1., 1., 2., 3., 4., 9., 7.])
  weights = _weights(credit.weigh_pairs(), rollout)
  assert (weights[:3] == 0).all()
  np.testing.assert_array_equal(weights[3:5], MASK[3:5])
  assert (_advantages(credit.mark_pairs(), rollout)[:3] == 0).all()


def test_the_first_of_several_best_and_worst_is_taken():
  rollout = _rollout([0., 1., 1., 2., 3., 4., 9., 7.])
  roles = _advantages(credit.mark_pairs(), rollout)[:, 1]
  assert roles[:3].tolist() == [-1, 1, 0]


def test_a_pair_of_which_one_row_was_dropped_is_no_pair():
  truncated = np.arange(8) == 1
  rollout = _rollout(REWARDS, truncated=truncated)
  transform = credit.chain(credit.drop_truncated(), credit.weigh_pairs())
  weights, _ = transform.update(
      rollout.mask.astype(jnp.float32), transform.init(), rollout)
  np.testing.assert_array_equal(
      weights, np.isin(np.arange(8), [3, 4])[:, None] * MASK)


def test_desirable_is_above_the_mean_of_the_group():
  transform = credit.mark_desirable()
  advantages = _advantages(transform, _rollout(REWARDS))
  # Row 2 earns the mean exactly.
  expected = np.array([1, -1, 0, -1, 1, 0, 0, 0])[:, None] * MASK
  np.testing.assert_array_equal(advantages, expected)


def test_desirable_is_above_a_threshold():
  rollout = _rollout(REWARDS)
  advantages = _advantages(credit.mark_desirable(threshold=.5), rollout)
  expected = np.array([1, -1, -1, 1, 1, 1, 0, 0])[:, None] * MASK
  np.testing.assert_array_equal(advantages, expected)
  transform = credit.weigh_judged(threshold=.5)
  weights = _weights(transform, rollout)
  np.testing.assert_allclose(weights, (expected != 0) / 6, rtol=1e-6)
  assert _metrics(transform, rollout) == {'rows/desirable': (4, 6)}


def test_judged_rows_weigh_alike_whatever_their_length():
  weights = _weights(credit.weigh_judged(), _rollout(REWARDS))
  np.testing.assert_array_equal(weights[MASK.any(1)].max(1),
                                [.25, .25, 0, .25, .25, 0, 0])


def test_nothing_to_compare_gives_weights_of_zero():
  for transform in (credit.weigh_pairs(), credit.weigh_judged()):
    rollout = _rollout(np.ones(8))
    assert (_weights(transform, rollout) == 0).all()
    empty = rollout._replace(mask=jnp.zeros_like(rollout.mask))
    assert (_weights(transform, empty) == 0).all()
    assert list(_metrics(transform, empty).values()) == [(0, 0)]


def test_weights_say_what_they_need():
  rollout = _rollout(REWARDS)._replace(extras={})
  for transform in (credit.weigh_pairs(), credit.weigh_judged()):
    assert transform.needs == {'token_rewards'}
    with pytest.raises(ValueError, match="needs .*'token_rewards'"):
      _weights(transform, rollout)


def test_the_length_of_chosen_rows():
  rollout = _rollout(REWARDS)
  roles = jnp.asarray(_advantages(credit.mark_pairs(), rollout))
  derived, _ = credit.chosen_length().update(roles, (), rollout)
  np.testing.assert_array_equal(derived['chosen_length'], np.full(8, 3.))
  derived, _ = credit.chosen_length().update(0 * roles, (), rollout)
  np.testing.assert_array_equal(derived['chosen_length'], np.ones(8))


@pytest.mark.parametrize('ref, expected', [(-1.5, 1.), (-.5, 0.)])
def test_the_divergence_of_what_was_sampled(ref, expected):
  """Twelve tokens of the six rows that take part, each half a nat away."""
  rollout = _rollout(REWARDS, ref_log_probs=np.where(MASK, ref, np.nan))
  transform = credit.sampled_divergence()
  derived, _ = transform.update(jnp.zeros(MASK.shape), (), rollout)
  np.testing.assert_allclose(derived['sampled_kl'], np.full(8, expected))
  assert _metrics(transform, rollout) == {'kl/responses': (12 * (-1 - ref), 6)}
