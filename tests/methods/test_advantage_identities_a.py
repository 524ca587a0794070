"""What the papers of BNPO, ADORA and A-GRAE imply."""

import functools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, methods, ops
from policyopt.methods.advantages.adora import favour_promising_prompts
from policyopt.methods.advantages.agrae import refocus_on_difficulty
from policyopt.methods.advantages.bnpo import normalize_by_beta
from policyopt.methods.advantages.dvao import combine_channels
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


# BNPO.

@few
@given(seeds)
def test_bnpo_with_fixed_parameters_is_older_methods(seed):
  rollout = rollout_of(binary(seed))
  same(per_row(normalize_by_beta, rollout, shape=1.),
        per_row(credit.group_standardize, rollout, std='none'))
  same(per_row(normalize_by_beta, rollout, shape=1.5),
        math.pi / 8 * per_row(
            credit.group_standardize, rollout, std='population', eps=0.))


@few
@given(seeds)
def test_bnpo_keeps_sums_and_signs(seed):
  rewards = binary(seed)
  rollout = rollout_of(rewards)
  ours = per_row(normalize_by_beta, rollout, reward_max=2.)
  centred = per_row(credit.group_standardize, rollout, std='none')
  same(sums(ours), 0)
  assert (np.sign(ours) == np.sign(centred)).all()
  assert np.abs(ours).max() > 0


@few
@given(seeds)
def test_bnpo_follows_its_range_and_mirrors(seed):
  graded = np.random.default_rng(seed).uniform(.3, .7, 16).astype(np.float32)
  plain, mapped, mirrored = (
      per_row(normalize_by_beta, rollout_of(x), reward_min=low, reward_max=high)
      for x, low, high in ((graded, 0., 1.), (4 * graded - 3, -3., 1.),
                           (1 - graded, 0., 1.)))
  # Close rates make c large, and with it what rounding does.
  same(mapped, plain, atol=1e-4, rtol=1e-2)
  same(mirrored, -plain, atol=1e-4, rtol=1e-2)
  fits = [ops.beta_normalize(x, GROUP)[1] for x in (graded, 1 - graded)]
  same(fits[0].alpha, fits[1].beta, rtol=1e-3)


def test_bnpo_decomposes_over_channels():
  rng = np.random.default_rng(5)
  one, two = rng.integers(0, 2, (2, 16)).astype(np.float32)
  rollout = rollout_of(one, format=two)
  parts = [per_row(normalize_by_beta, rollout_of(x)) for x in (one, two)]
  both = per_row(normalize_by_beta, rollout, decompose=True)
  same(both, np.mean(parts, 0))
  assert np.abs(both - per_row(
      normalize_by_beta, rollout, reward_max=2.)).max() > 1e-2
  only = per_row(
      normalize_by_beta, rollout, decompose=True, channels=('format',))
  same(only, parts[1])
  reported = normalize_by_beta(decompose=True).metrics(None, (), rollout)
  assert sorted(reported) == [
      f'bnpo/{name}/{channel}' for name in ('alpha', 'beta')
      for channel in ('accuracy', 'format')]


# ADORA.

def _adora(**kw):
  return credit.chain(
      credit.group_standardize(), favour_promising_prompts(**kw))


@few
@given(seeds, st.sampled_from([('attenuate', .1), ('amplify', 2.)]),
       st.sampled_from(['llm', 'vlm']))
def test_adora_scales_whole_prompts(seed, regime, missing):
  mode, lam = regime
  rollout = rollout_of(binary(seed))
  ours = per_row(
      _adora, rollout, mode=mode, lam=lam, missing=missing)
  plain = per_row(credit.group_standardize, rollout)
  for name in IDS:
    rows = np.flatnonzero((GROUP == name) & (plain != 0))
    factor = ours[rows] / plain[rows]
    assert np.allclose(factor, 1, rtol=1e-5) or np.allclose(
        factor, lam, rtol=1e-5)
  same(sums(ours), 0)


@pytest.mark.parametrize('criterion, expected', [
    # Longest correct 9 of 4: mean wrong 5, success 3/4; and so on.
    ('length', [1, .5, .5]), ('difficulty', [.5, 1, 1]),
    ('both', [.5, .5, .5])])
def test_adora_criteria(criterion, expected):
  group = np.repeat([0, 1, 2], 4)
  rewards = np.array([1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0], np.float32)
  lengths = [9, 2, 3, 5, 4, 4, 4, 4, 2, 5, 5, 10]
  mask = np.arange(10)[None] < np.array(lengths)[:, None]
  rollout, _ = rollouts.make(group=group, mask=mask, rewards=rewards)
  transform = favour_promising_prompts(
      criterion=criterion, lam=.5, max_length=10)
  x, _ = transform.update(jnp.ones(mask.shape), (), rollout)
  assert x[::4, 0].tolist() == expected
  total, count = transform.metrics(x, (), rollout)['adora/advantaged']
  assert float(total) == expected.count(1) and float(count) == 3


def test_adora_leaves_out_wrong_rows_that_were_cut_short():
  group, mask = np.zeros(4, int), np.zeros((4, 9), bool)
  for row, length in enumerate((4, 9, 2, 1)):
    mask[row, :length] = True
  rollout, _ = rollouts.make(group=group, mask=mask, rewards=[1, 0, 0, 0])

  def weight(cut, **kw):
    extras = {'truncated': jnp.array([False, cut, False, False])}
    transform = favour_promising_prompts(**kw)
    return float(transform.update(
        jnp.ones(mask.shape), (), rollout._replace(extras=extras))[0][0, 0])

  assert weight(cut=True) == 1  # 4 tokens against a mean of 1.5
  assert weight(cut=False) == pytest.approx(.1)  # against one of 4
  # A limit on the length takes the place of the sampler's mark.
  assert weight(cut=False, max_length=9) == 1
  assert weight(cut=True, max_length=10) == pytest.approx(.1)


# A-GRAE.

def _agrae(**kw):
  return credit.chain(
      credit.group_standardize(), refocus_on_difficulty(**kw))


@few
@given(seeds)
def test_agrae_holds_back_right_answers(seed):
  rewards = binary(seed)
  rollout = rollout_of(rewards)
  omega = rewards[GROUP >= 0].mean()
  ours = functools.partial(per_row, _agrae, rollout)
  undamped, damped = ours(alpha=0.), ours(alpha=1.)
  same(ours(alpha=.05), undamped)  # ω is at least 1 / 15
  same(damped, np.where(undamped > 0, omega * undamped, undamped))
  mixed = [len(set(rewards[GROUP == name])) > 1 for name in IDS]
  same(sums(undamped), 0)
  assert (sums(damped)[mixed] < 0).all() or omega == 1
  half = [name for name in IDS if rewards[GROUP == name].mean() == .5]
  rows = np.isin(GROUP, half)
  same(undamped[rows], (per_row(
      credit.group_standardize, rollout) / math.sqrt(2))[rows])
  same(ours(alpha=0., positive=10.), np.where(
      undamped > 0, 10 * undamped, undamped))


@few
@given(seeds)
def test_grpo_is_symmetric_and_peaks_at_one_half(seed):
  rewards = binary(seed)
  ours = per_row(credit.group_standardize, rollout_of(rewards),
                  std='population', eps=0.)
  for name in IDS:
    own, p = ours[GROUP == name], rewards[GROUP == name].mean()
    assert own[own > 0].sum() == pytest.approx(-own[own < 0].sum(), abs=1e-4)
    assert np.abs(own).sum() == pytest.approx(
        2 * len(own) * math.sqrt(p * (1 - p)), abs=1e-4)


def test_unsampled_logits_move_only_when_advantages_do_not_sum_to_zero():
  logits = jnp.array([.3, -.2, 1., 0.])
  token = jnp.array([0, 0, 1, 2])  # 3 was not sampled
  rewards, ids = jnp.array([1., 0., 0., 0.]), jnp.zeros(4, int)
  grpo = ops.group_standardize(rewards, ids)
  rates, _ = ops.success_rates(rewards, ids)
  weight = ops.difficulty_weights(rates[0], jnp.mean(rewards))
  agrae = grpo * weight * jnp.where(grpo > 0, jnp.mean(rewards), 1)

  def moves(advantages):
    return jax.grad(lambda z: jnp.sum(
        advantages * jax.nn.log_softmax(z)[token]))(logits)

  assert abs(moves(grpo)[3]) < 1e-6 and moves(agrae)[3] > .1
  expected = -jnp.sum(agrae) * jax.nn.softmax(logits)[3]
  assert float(moves(agrae)[3]) == pytest.approx(float(expected), rel=1e-4)


# All of them, and their neighbours.

@pytest.mark.parametrize('name, kw, match', [
    ('bnpo', dict(shape=.5), 'shape is 0.5'),
    ('bnpo', dict(reward_max=0.), 'reward_max is 0'),
    ('bnpo', dict(singleton='one'), "singleton is 'one'"),
    ('bnpo', dict(channels=('accuracy',)), 'only decompose=True'),
    ('adora', dict(mode='attenuat'), "did you mean 'attenuate'"),
    ('adora', dict(criterion='lenght'), "did you mean 'length'"),
    ('adora', dict(missing='lm'), "did you mean 'vlm' or 'llm'"),
    ('adora', dict(lam=2.), r"lam is 2.0; mode 'attenuate'"),
    ('adora', dict(mode='amplify'), "lam is 0.1; mode 'amplify'"),
    ('adora', dict(max_length=0), 'max_length is 0'),
    ('agrae', dict(alpha=-1.), 'alpha is -1'),
    ('agrae', dict(focus='hrd'), "did you mean 'hard'"),
    ('agrae', dict(reading='papr'), "did you mean 'paper'"),
    ('ngrpo', dict(virtual=-1), 'virtual is -1'),
    ('ngrpo', dict(std='none'), "unknown std 'none'"),
    ('ngrpo', dict(rounds=0), 'rounds is 0'),
    ('dvao', dict(combine='rewrds'), "did you mean 'rewards'"),
    ('dvao', dict(std='none'), "unknown std 'none'"),
    ('dvao', dict(channel_weights=(1., -1.)), 'none may be negative'),
    ('dvao', dict(channels=('a',), channel_weights=(1., 1.)),
     '2 numbers for 1 channels')])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw)


@pytest.mark.parametrize('transform', [
    normalize_by_beta(decompose=True, channels=('acuracy',)),
    favour_promising_prompts(channel='acuracy', max_length=9),
    refocus_on_difficulty(channel='acuracy'),
    combine_channels(channels=('acuracy',))])
def test_a_channel_that_the_environment_does_not_give(transform):
  rollout = rollout_of(binary(0))
  with pytest.raises(ValueError, match=(
      r"no reward channels \['acuracy'\]; this environment gives "
      r"\['accuracy'\]")):
    transform.update(rollout.rewards['accuracy'], (), rollout)
