"""Tests of credit assignment: the order of the chains, and their states."""

import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, methods
from policyopt.training.credit import (
  assign_credit,
  credit_metrics,
  init_credit,
  method_needs,
)
from policyopt.types import CreditTransform, Loss
from tests.training import factory


def counting(factor=1.):
  """Multiplies by the number of calls so far, times a factor."""
  return CreditTransform(
      lambda: jnp.float32(0),
      lambda x, count, rollout: (x * (count + 1) * factor, count + 1))


def test_each_chain_starts_where_it_should():
  method = methods.reinforce()._replace(
      rewards=credit.stateless(lambda x, rollout: 10 * x),
      advantages=credit.stateless(lambda x, rollout: x + 1),
      weights=credit.stateless(lambda x, rollout: 3 * x))
  rollout = factory.rollout()
  assigned, _ = assign_credit(method, init_credit(method), rollout)
  total = rollout.rewards['accuracy'] + rollout.rewards['style']
  factory.close(assigned.rollout.extras['token_rewards'], 10 * total)
  factory.close(assigned.advantages, 10 * total + 1)
  factory.close(assigned.weights, 3. * rollout.mask)
  assert assigned.weights.dtype == jnp.float32


def test_advantages_see_the_rewards_after_their_transforms():
  seen = {}

  def look(x, rollout):
    seen.update(rollout.extras)
    return x

  method = methods.reinforce()._replace(
      rewards=credit.stateless(lambda x, rollout: 10 * x),
      advantages=credit.stateless(look))
  rollout = factory.rollout()
  assigned, _ = assign_credit(method, init_credit(method), rollout)
  factory.close(seen['token_rewards'], assigned.advantages)
  assert 'token_rewards' not in rollout.extras
  assert seen.keys() == rollout.extras.keys() | {'token_rewards'}


def test_a_rollout_without_rewards_is_worth_nothing():
  method = methods.reinforce()
  assigned, _ = assign_credit(
      method, init_credit(method), factory.rollout()._replace(rewards={}))
  assert not np.asarray(assigned.advantages).any()
  assert np.asarray(assigned.weights).any()


def test_each_chain_keeps_its_own_state():
  method = methods.reinforce()._replace(
      rewards=counting(), advantages=counting(2.),
      weights=credit.chain(credit.identity(), counting()))
  rollout, state = factory.rollout(), init_credit(method)
  assert [float(x) for x in (state[0], state[1], state[2][1])] == [0, 0, 0]
  for call in (1, 2, 3):
    assigned, state = assign_credit(method, state, rollout)
    factory.close(assigned.weights, float(call) * rollout.mask)
  assert [float(x) for x in (state[0], state[1], state[2][1])] == [3, 3, 3]
  total = rollout.rewards['accuracy'] + rollout.rewards['style']
  factory.close(assigned.advantages, 3 * 3 * 2 * total, atol=1e-5)


@pytest.mark.parametrize('part', ['rewards', 'advantages', 'weights', 'loss'])
def test_the_needs_of_every_part_are_met(part):
  method = methods.reinforce()
  assert method_needs(method) == frozenset()
  needs = frozenset({'values', 'turn'})
  needy = (Loss(method.loss.apply, needs) if part == 'loss'
           else credit.stateless(lambda x, rollout: x, needs))
  assert method_needs(method._replace(**{part: needy})) == needs


def test_a_row_of_no_group_weighs_nothing():
  method = factory.method('grpo')
  rollout = factory.pad_rows(factory.rollout(), 4)
  assigned, _ = assign_credit(method, init_credit(method), rollout)
  assert not np.asarray(assigned.weights[16:]).any()
  assert float(assigned.weights.sum()) == pytest.approx(1)


def test_what_is_derived_reaches_the_loss():
  def derive(advantages, state, rollout):
    largest = jnp.abs(advantages).max()
    return {'largest': jnp.full(rollout.group.shape, largest)}, state + 1

  method = factory.method('grpo')._replace(
      derived=CreditTransform(lambda: jnp.float32(0), derive, {'values'}))
  assert 'values' in method_needs(method)
  rollout = factory.rollout()
  assigned, state = assign_credit(method, init_credit(method), rollout)
  largest = float(jnp.abs(assigned.advantages).max())
  assert assigned.rollout.extras['largest'].tolist() == [largest] * 16
  assert float(state[-1]) == 1


def test_every_part_reports_what_it_was_given():
  def reporting(name):
    return credit.stateless(
        lambda x, rollout: 2 * x,
        metrics=lambda x, state, rollout: {name: (x.sum(), jnp.float32(1))})

  method = methods.reinforce()._replace(
      rewards=credit.chain(reporting('first'), reporting('second')),
      advantages=credit.add(reporting('third'), reporting('fourth')))
  rollout, state = factory.rollout(), init_credit(method)
  reported = credit_metrics(method, state, rollout)
  total = float(sum(x.sum() for x in rollout.rewards.values()))
  assert {name: float(x / n) for name, (x, n) in reported.items()} == (
      pytest.approx(dict(first=total, second=2 * total, third=4 * total,
                         fourth=4 * total), rel=1e-5))
  twice = method._replace(weights=reporting('first'))
  with pytest.raises(ValueError, match="two parts .* report 'first'"):
    credit_metrics(twice, state, rollout)
