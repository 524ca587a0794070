"""What the papers of NGRPO and DVAO imply: virtual and several rewards."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, methods, ops
from policyopt.methods.advantages.dvao import combine_channels
from policyopt.methods.advantages.ngrpo import standardize_with_virtual
from tests.methods import rollouts
from tests.methods.per_row import (
    GROUP,
    IDS,
    binary,
    per_row,
    rollout_of,
    same,
    sums,
)

few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)


# NGRPO.

@few
@given(seeds)
def test_ngrpo_pushes_down(seed):
  rewards = binary(seed)
  rollout = rollout_of(rewards)
  ours = per_row(standardize_with_virtual, rollout, virtual=2)
  grpo = per_row(credit.group_standardize, rollout)
  same(per_row(standardize_with_virtual, rollout, virtual=0,
                 singleton='zero'), grpo)
  virtual = []
  for name in IDS:
    own = rewards[GROUP == name].astype(np.float64)
    joined = np.append(own, [1, 1])
    virtual.append(2 * (1 - joined.mean()) / (joined.std(ddof=1) + 1e-6))
    if 0 < own.mean() < 1:
      good = ours[(GROUP == name) & (rewards == 1)]
      bad = ours[(GROUP == name) & (rewards == 0)]
      assert (good < grpo[(GROUP == name) & (rewards == 1)]).all()
      assert (bad < grpo[(GROUP == name) & (rewards == 0)]).all()
  same(sums(ours), -np.array(virtual), atol=1e-4)
  total, count = standardize_with_virtual(virtual=2).metrics(
      sum(rollout.rewards.values()), (), rollout)['ngrpo/negative_push']
  alone = -ours[GROUP == 2].sum()
  same(float(total), sum(virtual) + alone, atol=1e-3)
  assert float(count) == 4
  moved = per_row(standardize_with_virtual, rollout_of(2 * rewards + 3),
                   virtual=2, reward_max=5.)
  same(moved, ours, rtol=1e-3)


@pytest.mark.parametrize('std, expected', [
    ('sample', lambda n: -1 / math.sqrt(n + 1)),
    ('population', lambda n: -1 / math.sqrt(n))])
def test_ngrpo_of_groups_that_are_all_wrong(std, expected):
  ours = per_row(standardize_with_virtual,
                  rollout_of(np.zeros(16, np.float32)), std=std, eps=0.)
  for name in [*IDS, 2]:
    rows = GROUP == name
    same(ours[rows], expected(rows.sum()))
  assert not per_row(
      standardize_with_virtual, rollout_of(np.ones(16, np.float32))).any()


def test_ngrpo_drops_only_groups_that_are_all_right():
  rewards = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 2, 2, 2, 2.])
  rollout, _ = rollouts.make(group=np.arange(16) // 4, rewards=rewards)
  method = methods.ngrpo()
  weights, _ = method.weights.update(
      rollout.mask.astype(jnp.float32), method.weights.init(), rollout)
  kept = np.asarray(weights.sum(1) > 0).reshape(4, 4)
  assert kept.all(1).tolist() == [True, False, True, True]
  assert not kept[1].any()
  assert float(weights.sum()) == pytest.approx(1)


# DVAO.

def _channels(seed):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(3, 16)).astype(np.float32) * [[1], [4], [.5]]


def _dvao(channels, weights=None, **kw):
  names = tuple(f'c{k}' for k in range(len(channels)))
  rollout = rollout_of(np.zeros(16), **dict(zip(names, channels)))
  return per_row(combine_channels, rollout, channels=names,
                  channel_weights=weights, **kw)


@few
@given(seeds)
def test_dvao_stays_within_its_bounds(seed):
  channels, weights = _channels(seed), (.2, .5, .3)
  ours = _dvao(channels, weights)
  assert (np.abs(ours) <= np.abs(
      _dvao(channels, weights, combine='rewards')) + 1e-5).all()
  same(sums(ours), 0)
  for name in IDS:
    own = ours[GROUP == name]
    assert np.abs(own).max() <= math.sqrt(len(own) - 1) + 1e-5
    assert np.square(own).mean() <= 1 + 1e-5


@few
@given(seeds)
def test_dvao_at_special_settings(seed):
  channels, weights = _channels(seed), (.2, .5, .3)
  ours = _dvao(channels, weights)
  same(_dvao(channels, (2., 5., 3.)), ours)
  same(_dvao(channels * 7 + np.array([[3.], [-2.], [0.]]), weights), ours,
        rtol=1e-3, atol=1e-4)
  grpo = per_row(credit.group_standardize, rollout_of(channels[0]),
                  std='population', eps=1e-8)
  same(_dvao(channels[:1]), grpo)
  same(_dvao(np.stack([channels[0]] * 3), weights), grpo)
  # With equal spreads in all channels fixed weights are the same.
  level = np.stack([channels[0], -channels[0]])
  same(_dvao(level, (.8, .2)), _dvao(level, (.8, .2), combine='advantages'))


def test_dvao_reports_its_weights():
  one = np.zeros(16)
  one[[1, 3, 4]] = 1
  transform = combine_channels()
  reported = transform.metrics(
      None, (), rollout_of(one, length=3 * one, style=np.ones(16)))
  shares = {name: float(total) for name, (total, _) in reported.items()}
  counts = {float(count) for _, count in reported.values()}
  assert counts == {3.}
  assert shares['dvao/weight/style'] == 0
  assert shares['dvao/weight/length'] == pytest.approx(3 * .75)
  assert shares['dvao/weight/accuracy'] == pytest.approx(3 * .25)


@pytest.mark.slow
def test_sensitivity_of_dvao_to_one_reward():
  rng = np.random.default_rng(2)
  rewards = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
  ids, weights = jnp.zeros(5, int), jnp.array([.3, .7])
  kw = dict(eps=0.)
  jacobian = jax.jacobian(lambda r: ops.spread_weighted(
      r, ids, weights, **kw))(rewards)
  ours = ops.spread_weighted(rewards, ids, weights, **kw)
  spread = jnp.std(rewards, axis=1)
  for k in range(2):
    own = ops.group_standardize(rewards[k], ids, std='population', eps=0.)
    expected = weights[k] / jnp.dot(weights, spread) * (
        1 - 1 / 5 - ours * own / 5)
    same(jnp.diag(jacobian[:, k]), expected)
