"""What the papers of COPO and CANON say must hold."""

import jax
import numpy as np
import pytest

from policyopt import methods
from tests.methods import rollouts
from tests.methods.assigned import GROUP4, assign, of_rows, run, with_extras

# COPO


def _copo_batch():
  """Unanimous and wrong, unanimous and right, split, and all different."""
  rewards = np.zeros(16, np.float32)
  rewards[GROUP4 == 1] = 1
  rewards[[2, 6]] = 1
  rewards[3] = 1
  answer = np.array([4, 5, 0, 0, 4, 5, 0, 1, 4, 5, 1, 2, 4, 5, 1, 3])
  rollout, policy = rollouts.make(group=GROUP4, rewards=rewards)
  return with_extras(rollout, answer_id=answer.astype(np.int32)), policy


def test_copo_teaches_unanimous_groups_by_the_other_prompts():
  rollout, _ = _copo_batch()
  out = assign(methods.copo(mode='only_soft'), rollout)
  local = of_rows(out['advantages'], rollout)
  scores = of_rows(out['extras']['global_advantages'], rollout)
  weight = of_rows(out['extras']['local_weight'], rollout)
  unanimous = GROUP4 < 2
  assert (local[unanimous] == 0).all() and (local[~unanimous] != 0).all()
  np.testing.assert_allclose(
      weight[unanimous], 1 / (1 + np.exp(5.)), rtol=1e-3)
  assert (scores[GROUP4 == 0] < 0).all() and (scores[GROUP4 == 1] > 0).all()
  # Over prompts they sum to 0; over four answers the entropy is 2 bits.
  np.testing.assert_allclose(scores[:4].sum(), 0, atol=1e-5)
  np.testing.assert_allclose(
      weight[GROUP4 == 3], 1 / (1 + np.exp(-5.)), rtol=1e-3)
  assert out['metrics']['copo/consistency_entropy'] == pytest.approx(
      (0 + 0 + 1 + 2) / 4, abs=1e-5)
  assert out['metrics']['copo/local_weight'] == pytest.approx(
      weight.mean(), rel=1e-4)


def test_copo_modes_silence_rows():
  rollout, _ = _copo_batch()
  rewards = np.asarray(rollout.rewards['accuracy']).sum(1)
  for mode, silent in (
      ('soft_with_zero', rewards == 0), ('soft_with_forced', GROUP4 < 2),
      ('only_global', np.ones(16, bool)), ('no_global', np.zeros(16, bool))):
    out = assign(methods.copo(mode=mode), rollout)
    weight = of_rows(out['extras']['local_weight'], rollout)
    np.testing.assert_array_equal(weight == 0, silent, err_msg=mode)


def test_copo_counts_all_missing_answers_as_one():
  rollout, _ = _copo_batch()
  none = with_extras(rollout, answer_id=-1 - np.arange(16, dtype=np.int32))
  out = assign(methods.copo(), none)
  assert out['metrics']['copo/consistency_entropy'] == pytest.approx(
      0, abs=1e-6)


def test_copo_of_one_prompt_or_of_equal_prompts_has_no_global_part():
  for group, rewards in ((np.zeros(16), np.arange(16.)),
                         (GROUP4, np.repeat([.3, .7], 8))):
    rollout, policy = rollouts.make(group=group, rewards=rewards)
    for coef in (False, True):
      method = methods.copo(consistency_coef=coef)
      if coef and len(set(group)) > 1:
        continue  # Prompts then differ by how much their answers agree.
      out = run(method, rollout, policy)
      assert np.isfinite(out['loss'])
      scores = assign(method, rollout)['extras']['global_advantages']
      assert (np.asarray(scores) == 0).all()


def test_copo_with_the_coefficient_rewards_agreement():
  answer = np.where(np.arange(16) < 8, 0, np.arange(16)).astype(np.int32)
  rollout, _ = rollouts.make(group=np.arange(16) // 8, rewards=np.ones(16))
  rollout = with_extras(rollout, answer_id=answer)
  scores = of_rows(assign(
      methods.copo(consistency_coef=True), rollout)
                    ['extras']['global_advantages'], rollout)
  np.testing.assert_allclose(scores[0], np.sqrt(.5), rtol=1e-4)
  np.testing.assert_allclose(scores[8], -np.sqrt(.5), rtol=1e-4)


# CANON


@pytest.mark.parametrize('metric', ['entropy', 'length'])
def test_canon_without_preference_is_dr_grpo_on_even_groups(metric):
  rollout, policy = rollouts.make(group=GROUP4)
  canon = run(methods.canon(
      max_tokens=10, metric=metric, mu=.5), rollout, policy)
  plain = run(methods.dr_grpo(max_tokens=10), rollout, policy)
  for name in ('advantages', 'weights', 'loss', 'gradient'):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-4, atol=1e-6), canon[name], plain[name])


def _by_length(lengths, rewards):
  mask = np.arange(12)[None] < np.asarray(lengths)[:, None]
  return rollouts.make(
      group=np.zeros(len(lengths)), mask=mask, rewards=rewards)[0]


def test_canon_holds_back_the_half_that_alpha_scales():
  rollout = _by_length([2, 3, 8, 9], np.ones(4, np.float32))
  kw = dict(max_tokens=10, alpha=.8)
  long = of_rows(assign(methods.canon(
      metric='length', **kw), rollout)['advantages'], rollout)
  np.testing.assert_allclose(long, [.2, .2, -.2, -.2], rtol=1e-5)
  entropy = np.where(np.arange(4) < 2, .1, .9)[:, None] * rollout.mask
  certain = of_rows(assign(methods.canon(**kw), with_extras(
      rollout, entropy=entropy))['advantages'], rollout)
  np.testing.assert_allclose(certain, [-.2, -.2, .2, .2], rtol=1e-5)
  moved = of_rows(assign(methods.canon(
      max_tokens=10, metric='length', offset=.1), rollout)['advantages'],
                   rollout)
  np.testing.assert_allclose(moved, [-.1, -.1, .1, .1], rtol=1e-5)


def test_canon_compares_with_the_other_or_the_own_half():
  rollout = _by_length([2, 3, 8, 9], np.array([1., 0., 1., 1.], np.float32))
  inter, intra = (assign(methods.canon(
      max_tokens=10, metric='length', mu=mu), rollout) for mu in (1., 0.))
  np.testing.assert_allclose(
      of_rows(inter['advantages'], rollout), [0, -1, .5, .5], atol=1e-6)
  np.testing.assert_allclose(
      of_rows(intra['advantages'], rollout), [.5, -.5, 0, 0], atol=1e-6)
  assert inter['metrics'] == {
      'canon/mu': 1., 'canon/gap': .5, 'canon/high_minus_low': .5}


@pytest.mark.parametrize('first, mu', [('intra', .25), ('inter', .75)])
def test_canon_follows_the_mean_reward(first, mu):
  rewards = (np.arange(16) % 4 == 0).astype(np.float32)
  rollout, _ = rollouts.make(group=np.arange(16) // 4, rewards=rewards)
  kw = dict(max_tokens=10)
  followed = assign(
      methods.canon(schedule='accuracy', first=first, **kw), rollout)
  fixed = assign(methods.canon(mu=mu, **kw), rollout)
  assert followed['metrics']['canon/mu'] == pytest.approx(mu)
  np.testing.assert_allclose(
      followed['advantages'], fixed['advantages'], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('first, expected', [
    ('intra', [.7, .4, .4, .7, .4, .7, .4]),
    ('inter', [.5, 1., 1., .7, 1., .7, 1.])])
def test_canon_counts_its_own_steps(first, expected):
  method = methods.canon(
      max_tokens=10, schedule='cosine', first=first, warmup_steps=2,
      total_steps=6, cycles=2)
  rollout, policy = rollouts.make()
  state, seen = rollouts.initial_state(method), []
  for _ in expected:
    out = run(method, rollout, policy, state)
    seen.append(float(out['reported']['canon/mu'][0]))
    state = out['state']
  np.testing.assert_allclose(seen, expected, rtol=1e-5)


@pytest.mark.parametrize('name, kw, match', [
    ('copo', dict(mode='soft'), "mode is 'soft'"),
    ('copo', dict(std='all'), "std is 'all'"),
    ('canon', dict(metric='entropi'), "did you mean 'entropy'"),
    ('canon', dict(schedule='cosin'), "did you mean 'cosine'"),
    ('canon', dict(first='intro'), "did you mean 'intra'"),
    ('canon', dict(mu=1.5), r'mu is 1\.5'),
    ('canon', dict(schedule='cosine', cycles=0), 'cycles 0'),
    ('canon', dict(schedule='cosine', total_steps=31), 'total_steps is 31'),
    ('canon', dict(singleton='one'), "singleton is 'one'"),
])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw, max_tokens=10)
