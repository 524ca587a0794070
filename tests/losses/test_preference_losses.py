"""Losses of pairs, on a few rows against the kernels and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import losses, ops
from policyopt.types import PolicyOutput, Rollout

MASK = np.array([
    [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0],  # group 7: rows 0 and 1
    [0, 1, 1, 0], [0, 1, 0, 1],                # group 4: rows 4 and 3
    [0, 1, 1, 1]]) == 1                        # group 9: no pair
GROUP = np.array([7, 7, 7, 4, 4, 9])
ROLES = np.array([1., -1., 0., -1., 1., 0.])
CHOSEN, REJECTED = [4, 0], [3, 1]
METRICS = {f'preference/{name}' for name in (
    'accuracy', 'margin', 'chosen', 'rejected')}


def _tokens(seed, scale=1.):
  x = scale * np.random.default_rng(seed).normal(size=MASK.shape)
  return np.where(MASK, x - 1, np.nan).astype(np.float32)


LOG_PROBS, REF = _tokens(0), _tokens(1)


def _rows(x, mean=False):
  total = np.where(MASK, x, 0).sum(1)
  return total / MASK.sum(1) if mean else total


def _pairs(x, mean=False):
  return [jnp.asarray(_rows(x, mean)[rows]) for rows in (CHOSEN, REJECTED)]


def _apply(loss, weights=None, policy=None, roles=ROLES, **extras):
  rollout = Rollout(
      tokens=jnp.zeros(MASK.shape, jnp.int32), mask=jnp.asarray(MASK),
      log_probs=jnp.where(MASK, -1., 0.), group=jnp.asarray(GROUP), rewards={},
      extras={name: jnp.asarray(x) for name, x in extras.items()})
  if weights is None:
    weights = np.where(roles[:, None] != 0, .5, 0.) * MASK
  policy = policy or PolicyOutput(log_probs=jnp.asarray(LOG_PROBS))
  advantages = jnp.asarray(roles[:, None] * MASK, jnp.float32)
  return loss.apply(policy, advantages, jnp.asarray(weights, jnp.float32),
                    rollout)


@pytest.mark.parametrize('kw', [
    dict(), dict(kind='hinge', beta=.5), dict(kind='ipo', average=False),
    dict(kind='nca_pair'), dict(divergence='js', label_smoothing=.1)])
def test_dpo_is_the_mean_of_the_kernel_over_pairs(kw):
  loss, metrics = _apply(losses.dpo_loss(**kw), ref_log_probs=REF)
  kw = {name: x for name, x in kw.items() if name != 'average'}
  expected = ops.dpo_pair_losses(*_pairs(LOG_PROBS), *_pairs(REF), **kw)
  assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)
  assert metrics.keys() == METRICS | {'loss/preference', 'log_prob_gap'}
  assert [float(x) for x in metrics['loss/preference']] == pytest.approx(
      [float(loss), 1.])
  beta = kw.get('beta', .1)
  chosen, rejected = (beta * np.asarray(x - y) for x, y in zip(
      _pairs(LOG_PROBS), _pairs(REF)))
  for name, x in (('chosen', chosen), ('rejected', rejected),
                  ('margin', chosen - rejected),
                  ('accuracy', chosen > rejected)):
    total, weight = metrics[f'preference/{name}']
    assert (float(total), float(weight)) == pytest.approx((x.sum(), 2))


def test_ipo_averages_over_tokens():
  loss, _ = _apply(losses.dpo_loss(kind='ipo'), ref_log_probs=REF)
  expected = ops.dpo_pair_losses(
      *_pairs(LOG_PROBS, mean=True), *_pairs(REF, mean=True), kind='ipo')
  assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_only_the_tokens_of_pairs_have_a_gradient():
  loss = losses.dpo_loss()
  gradient = jax.grad(lambda x: _apply(
      loss, policy=PolicyOutput(log_probs=x), ref_log_probs=REF)[0])(
          jnp.asarray(LOG_PROBS))
  gradient = np.asarray(gradient)
  assert (gradient[~MASK] == 0).all() and (gradient[[2, 5]] == 0).all()
  assert (gradient[CHOSEN][MASK[CHOSEN]] < 0).all()
  assert (gradient[REJECTED][MASK[REJECTED]] > 0).all()


def test_roles_may_be_rewards():
  """What is largest in a group is chosen, and what is smallest rejected."""
  ranks = np.array([3., -2., 1., 0., 5., 4.])
  weights = np.where(ROLES[:, None] != 0, .5, 0.) * MASK
  by_rank, by_role = (
      _apply(losses.dpo_loss(), weights, roles=roles, ref_log_probs=REF)[0]
      for roles in (ranks, ROLES))
  assert float(by_rank) == float(by_role)


def test_a_pair_without_weight_does_not_count():
  weights = np.where(GROUP[:, None] == 4, 1., 0.) * MASK
  weights[3] = 0  # The rejected row of its pair.
  loss, metrics = _apply(losses.dpo_loss(), weights, ref_log_probs=REF)
  assert float(loss) == 0
  assert float(metrics['preference/accuracy'][1]) == 0


def test_the_likelihood_is_the_mean_over_the_tokens_of_chosen_rows():
  tokens = MASK[CHOSEN].sum()
  nll = -_rows(LOG_PROBS)[CHOSEN].sum() / tokens
  length = np.full(len(MASK), tokens / len(CHOSEN), np.float32)
  loss, metrics = _apply(
      losses.cpo_loss(kind='simpo', nll_coef=2.), chosen_length=length)
  assert float(metrics['loss/nll'][0]) == pytest.approx(2 * nll, rel=1e-5)
  expected = ops.cpo_pair_losses(*_pairs(LOG_PROBS, mean=True), kind='simpo')
  assert float(loss) == pytest.approx(
      float(expected.mean()) + 2 * nll, rel=1e-5)
  plain, metrics = _apply(losses.cpo_loss(kind='simpo', nll_coef=0.))
  assert float(plain) == pytest.approx(float(expected.mean()), rel=1e-5)
  assert 'loss/nll' not in metrics


def test_cpo_sums_over_tokens():
  loss, _ = _apply(losses.cpo_loss(nll_coef=0.))
  expected = ops.cpo_pair_losses(*_pairs(LOG_PROBS))
  assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_orpo_takes_the_odds_of_mean_probabilities():
  # Means over tokens above 0 are no log-probabilities.
  log_probs = -np.abs(LOG_PROBS)
  loss, metrics = _apply(
      losses.orpo_loss(beta=.3, nll_coef=0.),
      policy=PolicyOutput(log_probs=jnp.asarray(log_probs)))
  p, q = (np.exp(np.asarray(x)) for x in _pairs(log_probs, mean=True))
  ratio = np.log(p / (1 - p)) - np.log(q / (1 - q))
  assert float(loss) == pytest.approx(
      .3 * np.log1p(np.exp(-ratio)).mean(), rel=1e-4)
  assert float(metrics['preference/margin'][0]) == pytest.approx(
      .3 * ratio.sum(), rel=1e-4)


def test_the_likelihood_must_be_derived():
  for loss in (losses.cpo_loss(), losses.orpo_loss()):
    with pytest.raises(ValueError, match="'chosen_length'"):
      _apply(loss)


def test_kto_judges_row_by_row():
  weights = np.where(ROLES[:, None] != 0, .25, 0.) * MASK
  loss, metrics = _apply(
      losses.kto_loss(beta=.4, desirable_weight=1.5), weights,
      ref_log_probs=REF, sampled_kl=np.full(len(MASK), .7, np.float32))
  ratios = _rows(LOG_PROBS) - _rows(REF)
  judged = [0, 1, 3, 4]
  expected = ops.kto_row_losses(
      jnp.asarray(ratios[judged]), jnp.asarray(ROLES[judged] > 0), .7, beta=.4,
      desirable_weight=1.5)
  assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)
  assert float(metrics['preference/chosen'][0]) == pytest.approx(
      .4 * ratios[[0, 4]].sum(), rel=1e-5)
  assert float(metrics['preference/rejected'][1]) == 2


def test_unpaired_apo_needs_no_divergence():
  loss = losses.kto_loss(kind='apo_zero_unpaired')
  assert np.isfinite(_apply(loss, ref_log_probs=REF)[0])
  with pytest.raises(ValueError, match="'sampled_kl'"):
    _apply(losses.kto_loss(), ref_log_probs=REF)


@pytest.mark.parametrize('coef', [0., .5])
def test_a_reward_model_scores_the_last_chosen_token(coef):
  values = _tokens(2)
  rewards = np.zeros(MASK.shape, np.float32)
  rewards[:, 1] = [3., 1., 2., 0., 4., 0.]
  loss = losses.pairwise_reward_loss(margin_coef=coef)
  assert loss.needs == {'values'} | ({'token_rewards'} if coef else set())
  extras = {'token_rewards': rewards} if coef else {}
  value, metrics = _apply(
      loss, policy=PolicyOutput(
          log_probs=jnp.asarray(LOG_PROBS), values=jnp.asarray(values)),
      **extras)
  scores = np.array([row[np.flatnonzero(mask)[-1]]
                     for row, mask in zip(values, MASK)])
  gap = scores[CHOSEN] - scores[REJECTED] - coef * np.array([4., 2.])
  assert float(value) == pytest.approx(
      np.log1p(np.exp(-gap)).mean(), rel=1e-5)
  assert metrics.keys() == METRICS | {'loss/reward_model'}


def test_a_reward_model_needs_scores():
  with pytest.raises(ValueError, match="'values'"):
    _apply(losses.pairwise_reward_loss())
  with pytest.raises(ValueError, match="'token_rewards'"):
    _apply(losses.pairwise_reward_loss(margin_coef=1.),
           policy=PolicyOutput(log_probs=jnp.asarray(LOG_PROBS),
                               values=jnp.asarray(LOG_PROBS)))


@pytest.mark.parametrize('loss, kw, match', [
    (losses.dpo_loss, dict(kind='aot'), 'sorts over the batch'),
    (losses.dpo_loss, dict(kind='dpo'), "kind of preference loss 'dpo'"),
    (losses.dpo_loss, dict(beta=0.), 'beta is 0.0'),
    (losses.cpo_loss, dict(nll_coef=-1.), 'nll_coef is -1.0'),
    (losses.orpo_loss, dict(beta=-1.), 'beta is -1.0'),
    (losses.kto_loss, dict(kind='bco'), "kind of preference loss 'bco'"),
    (losses.kto_loss, dict(undesirable_weight=-.5), 'undesirable_weight is'),
    (losses.pairwise_reward_loss, dict(margin_coef=-1.), 'margin_coef is'),
])
def test_wrong_arguments_are_refused(loss, kw, match):
  with pytest.raises(ValueError, match=match):
    loss(**kw)
