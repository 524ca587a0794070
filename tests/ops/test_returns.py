"""What observation tokens and packed rows do to returns and advantages."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops
from policyopt.ops import returns

SHAPE = ROWS, WIDTH = 4, 7
GAMMA, LAM = .9, .7
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
rules = st.sampled_from(returns.OBSERVATIONS)
every = pytest.mark.parametrize('rule', returns.OBSERVATIONS)


def _draw(seed):
  rng = np.random.default_rng(seed)
  rewards, values = rng.normal(size=(2, *SHAPE)).astype(np.float32)
  return rewards, values, rng.random(SHAPE) < .6, rng.random(SHAPE) < .2


def _loop(rewards, values, mask, dones, rule, lam):
  """The advantages of one row, written down token by token."""
  out, after, running = np.zeros(WIDTH), 0., 0.
  for t in reversed(range(WIDTH)):
    if dones[t]:
      after = running = 0.
    if mask[t]:
      delta = rewards[t] + GAMMA * after - values[t]
      running, after = delta + GAMMA * lam * running, values[t]
    elif rule == 'decay':
      running, after = GAMMA * after + GAMMA * lam * running, 0.
    elif rule == 'cut':
      running = after = 0.
    out[t] = running
  return out


@few
@given(seeds, rules)
def test_advantages_equal_a_loop(seed, rule):
  rewards, values, mask, dones = _draw(seed)
  ours = ops.generalized_advantages(
      rewards, values, mask, gamma=GAMMA, lam=LAM, observations=rule,
      dones=dones)
  expected = [_loop(*row, rule, LAM)
              for row in zip(rewards, values, mask, dones)]
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@few
@given(seeds, rules)
def test_returns_are_the_advantages_of_no_values_at_lambda_one(seed, rule):
  rewards, values, mask, dones = _draw(seed)
  kw = dict(gamma=GAMMA, observations=rule, dones=dones)
  to_go = ops.discounted_returns(rewards, mask, **kw)
  for baseline in (values, np.zeros_like(values)):
    advantages = ops.generalized_advantages(
        rewards, baseline, mask, lam=1., **kw)
    np.testing.assert_allclose(
        ops.fill(advantages, mask), ops.fill(to_go - baseline, mask),
        rtol=1e-4, atol=1e-5)
  assert (np.asarray(to_go)[~mask] == 0).all()


@few
@given(seeds, rules)
def test_a_packed_row_is_its_sequences(seed, rule):
  rewards, values, mask, _ = _draw(seed)
  cut = 3
  dones = np.zeros(SHAPE, bool)
  dones[:, cut - 1] = True
  kw = dict(gamma=GAMMA, lam=LAM, observations=rule)
  whole = ops.generalized_advantages(
      rewards, values, mask, dones=dones, **kw)
  for part in (slice(0, cut), slice(cut, WIDTH)):
    alone = ops.generalized_advantages(
        rewards[:, part], values[:, part], mask[:, part], **kw)
    np.testing.assert_allclose(whole[:, part], alone, rtol=1e-5, atol=1e-6)


@every
def test_padding_and_junk_outside_the_mask_change_nothing(rule):
  rewards, values, mask, _ = _draw(3)
  mask[:, -2:] = False
  kw = dict(gamma=GAMMA, lam=LAM, observations=rule)

  def total(rewards, values):
    out = ops.generalized_advantages(rewards, values, mask, **kw)
    return jnp.sum(ops.fill(out, mask))

  dirty = [np.where(mask, x, np.nan) for x in (rewards, values)]
  assert total(*dirty) == total(rewards, values)
  for gradient in jax.grad(total, (0, 1))(*dirty):
    assert np.isfinite(gradient).all()
  short = ops.generalized_advantages(
      rewards[:, :-2], values[:, :-2], mask[:, :-2], **kw)
  long = ops.generalized_advantages(rewards, values, mask, **kw)
  np.testing.assert_array_equal(
      ops.fill(long, mask)[:, :-2], ops.fill(short, mask[:, :-2]))


def test_the_three_rules_are_three():
  rewards, values = np.array([[0., 0., 1.]]), np.array([[.5, 9., .25]])
  mask = np.array([[True, False, True]])
  first = [float(ops.generalized_advantages(
      rewards, values, mask, gamma=.5, lam=1., observations=rule)[0, 0])
           for rule in returns.OBSERVATIONS]
  assert first == [.5 - .5, .25 - .5, 0 - .5]


def test_an_unknown_rule_is_refused():
  one = jnp.ones((1, 2))
  for fn in (ops.discounted_returns, lambda x, m, **kw:
             ops.generalized_advantages(x, x, m, **kw)):
    with pytest.raises(ValueError, match="observations is 'skip'"):
      fn(one, one, observations='skip')
