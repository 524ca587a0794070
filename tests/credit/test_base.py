"""The combinators, and the transforms that the method table leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit
from policyopt.types import CreditTransform, Rollout


def _scale(by, needs=()):
  return credit.stateless(lambda x, rollout: by * x, needs)


def _counter():
  """Adds how often it was called before."""
  return CreditTransform(
      lambda: jnp.zeros(()), lambda x, n, rollout: (x + n, n + 1),
      frozenset({'values'}))


@pytest.fixture
def rollout():
  mask = jnp.array([[0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 1, 1], [0] * 4]) == 1
  return Rollout(
      tokens=jnp.zeros(mask.shape, jnp.int32), mask=mask,
      log_probs=jnp.where(mask, -1., 0.), group=jnp.array([0, 0, 1, -1]),
      rewards={'a': mask * 1., 'b': mask * 2.},
      extras={'truncated': jnp.array([True, False, False, False]),
              'ref_log_probs': jnp.where(mask, -2., 0.)})


def test_chain_threads_states_and_unites_needs(rollout):
  chain = credit.chain(_counter(), _scale(2., {'entropy'}), _counter())
  state = chain.init()
  assert chain.needs == {'values', 'entropy'}
  x, state = chain.update(1., state, rollout)
  assert float(x) == 2
  x, state = chain.update(1., state, rollout)
  assert float(x) == (1 + 1) * 2 + 1


def test_add_sums_weighted_branches(rollout):
  both = credit.add(_counter(), _scale(3.), weights=(10., 1.))
  x, state = both.update(1., both.init(), rollout)
  assert float(x) == 13
  x, _ = both.update(1., state, rollout)
  assert float(x) == 23
  with pytest.raises(ValueError, match='2 transforms and 1 weights'):
    credit.add(_counter(), _counter(), weights=(1.,))


def test_from_channel(rollout):
  x, _ = credit.from_channel('b').update(jnp.ones((4, 4)), (), rollout)
  np.testing.assert_array_equal(x, rollout.rewards['b'])
  with pytest.raises(ValueError, match=r"no reward channel 'c'.*\['a', 'b'\]"):
    credit.from_channel('c').update(x, (), rollout)


@pytest.mark.parametrize('per_token', [False, True])
def test_where_selects(rollout, per_token):
  def first(r):
    holds = r.group == 0
    return jnp.broadcast_to(holds[:, None], (4, 4)) if per_token else holds

  x = jnp.ones((4, 4))
  either = credit.where(first, _scale(5.), _counter())
  out, state = either.update(x, either.init(), rollout)
  assert out[:, 0].tolist() == [5, 5, 1, 1]
  out, _ = either.update(x, state, rollout)
  assert out[:, 0].tolist() == [5, 5, 2, 2]
  kept, _ = credit.where(first, _scale(5.)).update(x, ((), ()), rollout)
  assert kept[:, 0].tolist() == [5, 5, 1, 1]
  assert either.needs == {'values'}


def test_scheduled_counts_under_jit(rollout):
  transform = credit.scheduled(
      lambda by: _scale(by, {'entropy'}), by=lambda count: 2. * count)
  assert transform.needs == {'entropy'}
  update = jax.jit(transform.update)
  state, seen = transform.init(), []
  for _ in range(3):
    x, state = update(jnp.ones(()), state, rollout)
    seen.append(float(x))
  assert seen == [0, 2, 4]


def test_missing_extra_is_named_with_its_supplier(rollout):
  gae = credit.gae()
  with pytest.raises(ValueError, match="gae needs .*'values'.*value head"):
    gae.update(jnp.ones((4, 4)), gae.init(), rollout)


def _weights(transform, rollout):
  return transform.update(rollout.mask.astype(jnp.float32), (), rollout)[0]


def test_dropped_tokens_leave_the_mean(rollout):
  chain = credit.chain(credit.drop_truncated(), credit.token_mean())
  weights, _ = chain.update(
      rollout.mask.astype(jnp.float32), chain.init(), rollout)
  np.testing.assert_allclose(weights.sum(1), [0, .4, .6, 0], rtol=1e-6)
  chain = credit.chain(
      credit.drop_truncated(), credit.token_mean(count='mask'))
  weights, _ = chain.update(
      rollout.mask.astype(jnp.float32), chain.init(), rollout)
  np.testing.assert_allclose(weights.sum(1), [0, 2 / 7, 3 / 7, 0], rtol=1e-6)


@pytest.mark.parametrize('name, expected', [
    ('token_mean', [2 / 7, 2 / 7, 3 / 7, 0]),
    ('sequence_mean', [1 / 3, 1 / 3, 1 / 3, 0]),
    ('sequence_sum', [2 / 3, 2 / 3, 1, 0]),
    ('constant_length', [2 / 30, 2 / 30, 1 / 10, 0]),
    ('prompt_mean', [1 / 4, 1 / 4, 1 / 2, 0]),
])
def test_aggregators(rollout, name, expected):
  weights = _weights(credit.aggregate(name, length=10), rollout)
  np.testing.assert_allclose(weights.sum(1), expected, rtol=1e-5)


def test_flat_groups_are_dropped(rollout):
  # Rows 0 and 1 both chose two tokens of equal reward; row 2 is alone.
  assert (_weights(credit.drop_flat_groups(), rollout) == 0).all()
  paid = rollout._replace(rewards={'a': rollout.rewards['a'].at[0].set(7.)})
  weights = _weights(credit.drop_flat_groups(), paid)
  assert weights.sum(1).tolist() == [2, 2, 0, 0]


def test_kl_in_reward_charges_chosen_tokens_only(rollout):
  x, _ = credit.kl_in_reward(.5).update(jnp.zeros((4, 4)), (), rollout)
  np.testing.assert_array_equal(x, jnp.where(rollout.mask, -.5, 0.))


def test_overlong_penalty_may_go_on_beyond_the_limit(rollout):
  long = rollout._replace(mask=jnp.arange(4)[None] < jnp.arange(4)[:, None])
  zero = jnp.zeros((4, 4))
  capped, _ = credit.overlong_penalty(2, 2).update(zero, (), long)
  free, _ = credit.overlong_penalty(2, 2, cap=False).update(zero, (), long)
  assert capped.sum(1).tolist() == [0, -.5, -1, -1]
  assert free.sum(1).tolist() == [0, -.5, -1, -1.5]
  assert free[3].tolist() == [0, 0, -1.5, 0]


def test_baseline_is_the_mean_over_tokens(rollout):
  chain = credit.chain(credit.sequence_return(), credit.subtract_batch_mean())
  x, _ = chain.update(rollout.rewards['a'], chain.init(), rollout)
  mean = (2 * 2 + 2 * 2 + 3 * 3) / 7
  np.testing.assert_allclose(
      x[:, 1], [2 - mean, 2 - mean, 3 - mean, 0], rtol=1e-6)
