"""Transforms against other baselines: what the method table leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit
from tests.methods import rollouts


def _update(transform, rollout):
  def update(rollout):
    rewards = rollout.rewards['accuracy']
    return transform.update(rewards, transform.init(), rollout)[0]

  # One small program is sooner compiled than its many operations.
  return jax.jit(update)(rollout)


@pytest.fixture
def rollout():
  return rollouts.make()[0]


def test_leave_one_out_standardize_is_leave_one_out_in_pairs():
  rollout, _ = rollouts.make(group=np.arange(16) // 2)
  np.testing.assert_allclose(
      _update(credit.leave_one_out_standardize(), rollout),
      _update(credit.leave_one_out(), rollout), rtol=1e-6)


def test_leave_one_out_standardize_divides_by_the_spread_of_the_others(rollout):
  rewards = np.asarray(rollout.rewards['accuracy']).sum(axis=1)
  ours = np.asarray(_update(credit.leave_one_out_standardize(eps=0.), rollout))
  others = np.setdiff1d(np.flatnonzero(rollouts.GROUP == 3), [0])
  expected = (rewards[0] - rewards[others].mean()) / (
      rewards[others].std(ddof=1))
  assert rollouts.GROUP[0] == 3
  np.testing.assert_allclose(
      ours[0][rollout.mask[0]], expected, rtol=1e-4)


def test_a_greedy_response_that_earns_nothing_is_no_baseline(rollout):
  rollout = rollout._replace(extras={'greedy_reward': jnp.zeros(16)})
  np.testing.assert_array_equal(
      _update(credit.subtract_greedy_reward(), rollout),
      _update(credit.reward_to_go(), rollout))
  one = rollout._replace(extras={'greedy_reward': jnp.ones(16)})
  np.testing.assert_allclose(
      _update(credit.subtract_greedy_reward(), one),
      _update(credit.reward_to_go(), rollout) - credit.taking_part(rollout),
      rtol=1e-6, atol=1e-6)


def test_equal_lengths_make_the_weighted_mean_a_mean():
  mask = np.zeros((16, 8), bool)
  mask[:, 2:6] = True
  rollout, _ = rollouts.make(mask=mask)
  np.testing.assert_allclose(
      _update(credit.subtract_length_weighted_mean(), rollout),
      _update(credit.group_standardize(std='none'), rollout),
      rtol=1e-4, atol=1e-6)


def test_a_channel_of_another_scale_does_not_drown_the_rest(rollout):
  small = rollout.rewards['accuracy']
  both = rollout._replace(rewards={
      'accuracy': small, 'big': 1e4 * small[:, ::-1] * rollout.mask})
  gdpo = credit.standardize_channels(whiten='none')
  plain, rescaled = (_update(gdpo, r) for r in (both, both._replace(
      rewards={**both.rewards, 'big': both.rewards['big'] / 1e4})))
  np.testing.assert_allclose(plain, rescaled, rtol=1e-2, atol=1e-2)
  weighed = credit.standardize_channels(
      ('big', 'accuracy'), (0., 1.), whiten='none')
  np.testing.assert_allclose(
      _update(weighed, both), _update(credit.group_standardize(), rollout),
      rtol=1e-5, atol=1e-6)


def test_whitening_by_rows_counts_each_row_once(rollout):
  rows = np.asarray(
      _update(credit.standardize_channels(), rollout)).sum(axis=1)
  mask = np.asarray(credit.taking_part(rollout))
  there = mask.any(axis=1)
  rows = rows[there] / mask.sum(axis=1)[there]
  assert rows.mean() == pytest.approx(0, abs=1e-5)
  assert rows.std(ddof=1) == pytest.approx(1, abs=1e-4)


def test_bad_arguments_are_refused_before_anything_runs():
  for match, make in (
      ('scale_by', lambda: credit.centre_and_rescale(scale_by='live')),
      ('f_norm is 0', lambda: credit.centre_and_rescale(f_norm=0)),
      ('std is', lambda: credit.best_margin(std='max')),
      ('nonpositive', lambda: credit.divide_by_mean(nonpositive='raw')),
      ('singleton', lambda: credit.subtract_length_weighted_mean(
          singleton='one')),
      ('whiten', lambda: credit.standardize_channels(whiten='rows')),
      ('weights is', lambda: credit.standardize_channels(
          ('a', 'b'), (1.,))),
      ('weights is', lambda: credit.standardize_channels(weights=(1.,))),
      ('variant', lambda: credit.subtract_token_baseline(variant='turn')),
      ('tail', lambda: credit.subtract_token_baseline(tail='cut')),
      ("old 'new'", lambda: credit.subtract_token_baseline(old='new')),
      ('observations', lambda: credit.gae(observations='skip')),
      ('observations', lambda: credit.reward_to_go(observations='skip'))):
    with pytest.raises(ValueError, match=match):
      make()


def test_an_unknown_channel_is_named(rollout):
  with pytest.raises(ValueError, match=r"standardize_channels.*\['tone'\]"):
    _update(credit.standardize_channels(('tone',)), rollout)


def test_groups_of_one_of_the_token_baseline():
  rollout, _ = rollouts.make(group=np.arange(16))
  raw = _update(credit.subtract_token_baseline(singleton='raw'), rollout)
  np.testing.assert_array_equal(raw, _update(credit.reward_to_go(), rollout))
  assert (_update(credit.subtract_token_baseline(), rollout) == 0).all()
