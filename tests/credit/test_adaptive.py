"""The price of the distance from the reference follows that distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit
from policyopt.types import Rollout

LENGTHS = np.array([1, 2, 4, 3])


def _rollout(kl):
  """Three rows of one group and one that takes no part; `kl` per token."""
  mask = jnp.asarray(np.arange(4)[None] < LENGTHS[:, None])
  return Rollout(
      tokens=jnp.zeros((4, 4), jnp.int32), mask=mask,
      log_probs=jnp.where(mask, -1., 0.), group=jnp.array([0, 0, 0, -1]),
      rewards={}, extras={'ref_log_probs': jnp.where(mask, -1. - kl, jnp.nan)})


@pytest.mark.parametrize('measure, kl', [
    ('sequence', 7 / 3 * .3), ('token', .3)])
def test_a_batch_is_charged_at_the_old_price(measure, kl):
  rollout = _rollout(.3)
  price = credit.adaptive_kl_in_reward(
      .5, target=1., horizon=30, measure=measure)
  zero = jnp.zeros((4, 4))
  charged, state = price.update(zero, price.init(), rollout)
  fixed, _ = credit.kl_in_reward(.5).update(zero, (), rollout)
  np.testing.assert_array_equal(charged, fixed)
  error = np.clip(kl - 1, -.2, .2)
  assert float(state.beta) == pytest.approx(.5 * (1 + error * 3 / 30))
  reported = price.metrics(zero, price.init(), rollout)
  total, rows = reported['adaptive_kl/kl']
  assert float(total / rows) == pytest.approx(kl) and float(rows) == 3
  total, rows = reported['adaptive_kl/beta']
  assert float(total / rows) == .5


def test_the_price_holds_the_target():
  """Of a policy whose distance falls as its price rises."""
  price = credit.adaptive_kl_in_reward(.01, target=2., horizon=10)
  update, state, seen = jax.jit(price.update), price.init(), []
  for _ in range(60):
    kl = 1. / (1. + 10 * float(state.beta))
    _, state = update(jnp.zeros((4, 4)), state, _rollout(kl))
    seen.append(7 / 3 * kl)
  assert seen[0] > 2.1 and seen[-1] == pytest.approx(2., rel=.02)


def test_a_batch_without_tokens_moves_nothing():
  rollout = _rollout(.3)._replace(mask=jnp.zeros((4, 4), bool))
  price = credit.adaptive_kl_in_reward(.5)
  charged, state = price.update(jnp.zeros((4, 4)), price.init(), rollout)
  assert float(state.beta) == .5 and (charged == 0).all()


def test_the_price_of_recipes():
  assert credit.kl_price(0.).init() == ()
  assert credit.kl_price(.1).init() == ()
  assert float(credit.kl_price(.1, target=6.).init().beta) == pytest.approx(.1)
  for match, kw in (
      ('beta is 0', dict(beta=0., target=6.)),
      ('target is 0', dict(beta=.1, target=0.)),
      ('horizon is -1', dict(beta=.1, target=6., horizon=-1)),
      ("measure 'row'", dict(beta=.1, target=6., measure='row')),
      ("estimator is 'k4'", dict(beta=.1, estimator='k4')),
      ("estimator is 'k4'", dict(beta=.1, target=6., estimator='k4'))):
    with pytest.raises(ValueError, match=match):
      credit.kl_price(**kw)
