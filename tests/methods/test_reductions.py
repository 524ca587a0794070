"""A method at a special setting is another method."""

import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods
from tests.methods import rollouts

NAMES = ('advantages', 'weights', 'loss', 'gradient')


def _same(a, b, rollout, policy, names=NAMES):
  a, b = (rollouts.run(m, rollout, policy) for m in (a, b))
  for name in names:
    np.testing.assert_allclose(
        *(np.stack(x[name]) if name == 'gradient' else x[name]
          for x in (a, b)), rtol=1e-5, atol=1e-6, err_msg=name)


def test_grpo_without_its_divisions_is_dr_grpo():
  _same(methods.grpo(std='none', beta=0., aggregation='constant_length',
                     max_tokens=9),
        methods.dr_grpo(max_tokens=9), *rollouts.make())


def test_rloo_is_the_centred_reward_scaled():
  rollout, _ = rollouts.make(group=np.arange(16) // 4)
  centred, loo = (
      rollouts.assign(m, rollouts.initial_state(m), rollout)[1]
      for m in (methods.dr_grpo(max_tokens=9), methods.rloo(beta=0.)))
  np.testing.assert_allclose(loo, centred * 4 / 3, rtol=1e-5)


def test_gspo_of_single_tokens_is_grpo():
  mask = np.zeros((16, 6), bool)
  mask[:, 3] = True
  _same(methods.gspo(clip_low=.2, clip_high=.2), methods.grpo(beta=0.),
        *rollouts.make(mask=mask))


def test_both_gradients_of_gspo_sum_to_the_same_in_a_row():
  rollout, policy = rollouts.make()
  one, two = (
      rollouts.run(methods.gspo(gradient=g), rollout, policy)['gradient'][0]
      for g in ('sequence', 'token'))
  np.testing.assert_allclose(one.sum(1), two.sum(1), rtol=1e-4, atol=1e-7)


def test_dapo_with_one_clip_range_is_grpo_with_the_token_mean():
  # No group of this rollout is flat.
  _same(methods.dapo(clip_high=.2),
        methods.grpo(beta=0., aggregation='token_mean'),
        *rollouts.make(group=np.arange(16) // 4))


def test_ppo_without_a_critic_is_reinforce():
  rollout, policy = rollouts.make()
  zeros = jnp.zeros_like(rollout.log_probs)
  rollout = rollout._replace(extras={**rollout.extras, 'values': zeros})
  on_policy = policy._replace(log_probs=rollout.log_probs, values=zeros)
  ppo = rollouts.run(methods.ppo(lam=1., whiten=False), rollout, on_policy)
  plain = rollouts.run(
      methods.reinforce(returns='to_go', aggregation='token_mean'),
      rollout, on_policy)
  np.testing.assert_allclose(
      ppo['advantages'], plain['advantages'], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      ppo['gradient'][0], plain['gradient'][0], rtol=1e-5, atol=1e-6)


def test_grpo_on_policy_has_the_gradient_of_reinforce_with_its_advantage():
  rollout, policy = rollouts.make()
  policy = policy._replace(log_probs=rollout.log_probs)
  grpo = methods.grpo(beta=0.)
  _same(grpo, grpo._replace(loss=methods.reinforce().loss), rollout, policy,
        names=('gradient',))


def test_dapo_leaves_flat_groups_out_of_the_mean():
  rewards = np.arange(16.)
  rewards[:4] = 1.
  rollout, policy = rollouts.make(group=np.arange(16) // 4, rewards=rewards)
  out = rollouts.run(methods.dapo(), rollout, policy)
  kept = np.array(rollout.mask)
  kept[:4] = False
  np.testing.assert_allclose(out['weights'], kept / kept.sum(), rtol=1e-6)


def test_dapo_charges_long_rows():
  method = methods.dapo(max_length=8, buffer=4)
  mask = np.zeros((4, 10), bool)
  for row, length in enumerate((4, 6, 8, 10)):
    mask[row, :length] = True
  rollout, _ = rollouts.make(
      group=np.zeros(4), mask=mask, rewards=np.ones(4))
  filled, *_ = rollouts.assign(
      method, rollouts.initial_state(method), rollout)
  np.testing.assert_allclose(
      filled.extras['token_rewards'].sum(1), [1., .5, 0., 0.])


def test_unknown_method_suggests_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'grpo'"):
    methods.recipe('grpoo')


def test_unknown_keyword_names_the_right_ones():
  with pytest.raises(ValueError, match="of method grpo 'clip_hi'.*clip_high"):
    methods.build('grpo', {'clip_hi': .3})


def test_missing_keyword_is_named():
  with pytest.raises(ValueError, match=r"'dr_grpo' needs.*max_tokens"):
    methods.build('dr_grpo')


@pytest.mark.parametrize('name, kw, match', [
    ('grpo', dict(aggregation='token_meen'), "did you mean 'token_mean'"),
    ('grpo', dict(kl='k4'), "value is 'k4'"),
    ('grpo', dict(old='older'), "old is 'older'"),
    ('grpo', dict(std='samples'), "std is 'samples'"),
    ('grpo', dict(singleton='one'), "singleton is 'one'"),
    ('rloo', dict(kl='k4'), "estimator is 'k4'"),
    ('gspo', dict(gradient='row'), "gradient is 'row'"),
    ('dapo', dict(max_length=8), 'needs both'),
    ('dapo', dict(max_length=8, buffer=9), 'buffer is 9'),
    ('dapo', dict(rounds=0), 'rounds is 0'),
    ('dr_grpo', dict(max_tokens=0), 'length is 0'),
    ('reinforce', dict(returns='both'), "returns is 'both'"),
    ('reinforce', dict(baseline='mean'), "baseline is 'mean'"),
    ('ppo', dict(aggregation='constant_length'), 'needs a length'),
])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw)


def test_every_recipe_is_listed_with_its_paper():
  for name in methods.names():
    assert 'Source: "' in methods.recipe(name).__doc__
    assert methods.recipe(name) is getattr(methods, name)
