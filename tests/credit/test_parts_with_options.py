"""Options of credit transforms that only some frameworks use."""

import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, ops
from tests.methods import rollouts


def _update(transform, x, rollout):
  return np.asarray(transform.update(x, transform.init(), rollout)[0])


def _with_a_silent_row():
  """A rollout with a row of a group that chose no token."""
  rollout, _ = rollouts.make()
  return rollout._replace(mask=rollout.mask.at[0].set(False))


@pytest.mark.parametrize('make', [
    credit.sequence_mean, credit.sequence_sum,
    lambda **kw: credit.constant_length(7, **kw),
    lambda **kw: credit.aggregate('constant_length', length=7, **kw),
    lambda **kw: credit.aggregate('sequence_mean', **kw)])
def test_responses_without_a_token_can_count_in_means_over_rows(make):
  rollout = _with_a_silent_row()
  x = rollout.mask.astype(jnp.float32)
  skip, count = (_update(make(empty_rows=rule), x, rollout)
                 for rule in ('skip', 'count'))
  members = int((rollouts.GROUP >= 0).sum())
  np.testing.assert_allclose(
      count, skip * (members - 1) / members, rtol=1e-6)
  # Rows of no group are padding, and count in no case.
  assert members < rollouts.ROWS
  with pytest.raises(ValueError, match="unknown empty_rows 'keep'"):
    make(empty_rows='keep')


@pytest.mark.parametrize('name', ['token_mean', 'prompt_mean'])
def test_other_means_have_no_rows_to_count(name):
  rollout = _with_a_silent_row()
  x = rollout.mask.astype(jnp.float32)
  np.testing.assert_array_equal(*(
      _update(credit.aggregate(name, empty_rows=rule), x, rollout)
      for rule in ('skip', 'count')))


@pytest.mark.parametrize('scale', [1., 1e-6])
def test_whitening_with_a_smallest_variance(scale):
  rollout, _ = rollouts.make()
  mask = np.asarray(rollout.mask & (rollout.group >= 0)[:, None])
  x = scale * rollout.extras['values']
  white = _update(credit.whiten(ddof=0, eps=0., floor=1e-8), x, rollout)
  chosen = np.asarray(x)[mask]
  spread = np.sqrt(max(chosen.var(), 1e-8))
  np.testing.assert_allclose(
      white[mask], (chosen - chosen.mean()) / spread, rtol=1e-4, atol=1e-6)
  flat = _update(credit.whiten(eps=0., floor=1e-8), 0 * x + 3, rollout)
  assert np.abs(flat).max() < 1e-2


@pytest.mark.parametrize('limits', [
    dict(input_limit=.1), dict(output_limit=.02),
    dict(k3_input_limit=.1, k3_output_limit=.004)], ids=str)
def test_the_price_in_the_reward_has_the_limits_of_the_estimate(limits):
  rollout, _ = rollouts.make()
  zero = jnp.zeros(rollout.mask.shape)
  ours = _update(
      credit.kl_in_reward(2., estimator='k3', **limits), zero, rollout)
  kl = ops.kl_estimate(
      rollout.log_probs, rollout.extras['ref_log_probs'], value='k3', **limits)
  np.testing.assert_allclose(ours, -2 * kl, rtol=1e-6)
  free = _update(credit.kl_in_reward(2., estimator='k3'), zero, rollout)
  assert np.abs(free).max() > np.abs(ours).max()
