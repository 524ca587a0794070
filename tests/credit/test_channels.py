"""Reward channels as rows, groups at one reward, and what is reported."""

import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit
from policyopt.credit import reports
from tests.methods import rollouts


def _two_channels():
  rollout, _ = rollouts.make(rewards=np.arange(16.))
  return rollout._replace(rewards={
      'style': 2 * rollout.rewards['accuracy'],
      'accuracy': rollout.rewards['accuracy']})


def test_channels_are_read_row_by_row():
  rollout = _two_channels()
  every = credit.environment_rewards(rollout)
  assert list(every) == ['accuracy', 'style']
  own = np.where(rollouts.GROUP >= 0, np.arange(16.), 0)
  np.testing.assert_array_equal(every['accuracy'], own)
  chosen = credit.environment_rewards(rollout, ('style', 'accuracy'))
  assert list(chosen) == ['style', 'accuracy']
  np.testing.assert_array_equal(credit.row_success(rollout), 3 * own)
  np.testing.assert_array_equal(
      credit.row_success(rollout, 'style'), 2 * own)


def test_a_channel_that_is_not_there():
  for names in (('styl',), ()):
    with pytest.raises(ValueError, match=(
        r"me: there are no reward channels .*gives \['accuracy', 'style'\]")):
      credit.environment_rewards(_two_channels(), names, reader='me')
  with pytest.raises(ValueError, match='row_success: there are no'):
    credit.row_success(_two_channels(), 'styl')


@pytest.mark.parametrize('at, tolerance, dropped', [
    (None, 0., [0, 1, 3]), (1., 0., [1]), (.95, .1, [1, 3]), (5., 0., [])])
def test_groups_at_one_reward_are_dropped(at, tolerance, dropped):
  rewards = np.array([0, 0, 1, 1, 0, 1, .9, .9])
  rollout, _ = rollouts.make(group=np.arange(8) // 2, rewards=rewards)
  weights, _ = credit.drop_flat_groups(at=at, tolerance=tolerance).update(
      jnp.ones(rollout.mask.shape), (), rollout)
  gone = np.flatnonzero(np.asarray(weights[::2, 0]) == 0).tolist()
  assert gone == dropped


def test_reports_leave_out_what_is_not_there():
  rollout, _ = rollouts.make()
  assert [float(x) for x in reports.batch_metric(3., rollout)] == [3, 1]
  values = jnp.arange(16.)
  total, count = reports.prompt_metric(values, rollout)
  there = sorted(set(rollouts.GROUP) - {-1})
  assert (float(total), float(count)) == (sum(there), len(there))
  total, count = reports.prompt_metric(values, rollout, values > 4)
  assert (float(total), float(count)) == (12, 2)
  empty = rollout._replace(mask=jnp.zeros_like(rollout.mask))
  for pair in (reports.batch_metric(3., empty),
               reports.prompt_metric(values, empty)):
    assert [float(x) for x in pair] == [0, 0]
