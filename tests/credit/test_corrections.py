"""Off-policy corrections before a method's own weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, losses, methods, ops
from tests.methods import rollouts


def _far(scale=.5, seed=3, **kw):
  """A rollout whose sampler is `scale` away from the learner."""
  rollout, policy = rollouts.make(seed=seed, **kw)
  rng = np.random.default_rng(seed)
  old = jnp.where(rollout.mask, rollout.log_probs + scale * rng.normal(
      size=rollout.mask.shape).astype(np.float32), 0)
  return rollout._replace(
      extras={**rollout.extras, 'old_log_probs': old}), policy


def _x(rollout):
  return np.asarray(rollout.extras['old_log_probs'] - rollout.log_probs)


def _update(transform, x, rollout):
  return np.asarray(transform.update(x, transform.init(), rollout)[0])


def _report(transform, x, rollout):
  return {name: [float(v) for v in pair] for name, pair in
          transform.metrics(x, transform.init(), rollout).items()}


def _ones(rollout):
  return rollout.mask.astype(jnp.float32)


def test_weights_multiply_and_report():
  rollout, _ = _far()
  x, mask = _x(rollout), np.asarray(rollout.mask)
  transform = credit.importance_weights('token', cap=1.5, floor=.5)
  assert transform.needs == {'old_log_probs'}
  weights = _update(transform, 3 * _ones(rollout), rollout)
  ratio = np.exp(x)
  np.testing.assert_allclose(
      weights, 3 * np.clip(ratio, .5, 1.5) * mask, rtol=1e-5)
  report = _report(transform, _ones(rollout), rollout)
  count, own = mask.sum(), np.clip(ratio, .5, 1.5)[mask]
  assert report['importance/weight'] == pytest.approx(
      [own.sum(), count], rel=1e-5)
  assert report['importance/ess'] == pytest.approx(
      [own.mean()**2 / (own**2).mean(), 1], rel=1e-5)
  assert report['importance/above'] == [(ratio[mask] > 1.5).sum(), count]
  assert report['importance/below'] == [(ratio[mask] < .5).sum(), count]
  assert 0 < report['importance/above'][0] < count


def test_normalised_weights_average_to_one_over_what_is_left():
  rollout, _ = _far()
  left = _ones(rollout).at[:4].set(0)
  for level in ('token', 'sequence'):
    transform = credit.importance_weights(level, normalize=True)
    weights = _update(transform, left, rollout)
    kept = np.asarray(left) != 0
    if level == 'token':
      mean = weights[kept].mean()
    else:
      mean = np.mean([w[k].mean() for w, k in zip(weights, kept) if k.any()])
    assert mean == pytest.approx(1, rel=1e-5)
    assert (weights[~kept] == 0).all()


def test_rejection_reports_tokens_and_rows():
  rollout, _ = _far()
  x, mask = _x(rollout), np.asarray(rollout.mask)
  transform = credit.reject_tokens('k2', 'token', high=.2)
  lost = mask & (.5 * x**2 > .2)
  np.testing.assert_array_equal(
      _update(transform, _ones(rollout), rollout), mask & ~lost)
  assert _report(transform, _ones(rollout), rollout) == {
      'rejected/token_k2': [lost.sum(), mask.sum()],
      'rejected/token_k2/rows': [
          lost.any(1).sum(), mask.any(1).sum()]}
  assert 0 < lost.sum() < mask.sum()


def test_rejected_tokens_leave_the_mean_or_stay_in_it():
  rollout, _ = _far()
  reject = credit.reject_tokens('k1', 'token', high=1.5)
  weights = {count: _update(
      credit.chain(reject, credit.token_mean(count=count)), _ones(rollout),
      rollout) for count in ('kept', 'mask')}
  kept = weights['kept'] != 0
  assert weights['kept'].sum() == pytest.approx(1)
  assert weights['mask'].sum() == pytest.approx(
      kept.sum() / rollout.mask.sum())
  np.testing.assert_array_equal(kept, weights['mask'] != 0)


def test_several_rejections_must_all_be_passed():
  rollout, _ = _far()
  both = credit.chain(
      credit.reject_tokens('k1', 'token', high=2.5),
      credit.reject_tokens('k3', 'seq_mean', high=.1))
  x = _ones(rollout)
  one, two = (_update(t, x, rollout) for t in (
      credit.reject_tokens('k1', 'token', high=2.5),
      credit.reject_tokens('k3', 'seq_mean', high=.1)))
  np.testing.assert_array_equal(_update(both, x, rollout), one * two)
  assert len(_report_chain(both, x, rollout)) == 4


def _report_chain(chain, x, rollout):
  return chain.metrics(x, chain.init(), rollout)


def test_bad_rows_that_drifted_lose_their_advantage():
  rollout, _ = _far()
  x, mask = _x(rollout), np.asarray(rollout.mask)
  advantages, _ = credit.group_standardize().update(
      rollout.rewards['accuracy'], (), rollout)
  transform = credit.mask_off_policy_sequences(0.)
  masked = _update(transform, advantages, rollout)
  drift = np.array([-a[m].mean() if m.any() else 0 for a, m in zip(x, mask)])
  lost = (np.asarray(advantages) < 0).any(1) & (drift > 0)
  np.testing.assert_array_equal(
      masked, np.where(lost[:, None], 0, advantages))
  assert 0 < lost.sum() < mask.any(1).sum()
  assert _report(transform, advantages, rollout) == {
      'off_policy/masked': [lost.sum(), mask.any(1).sum()]}


def test_watching_changes_nothing():
  rollout, _ = _far()
  watch = credit.watch_mismatch()
  x = _ones(rollout)
  np.testing.assert_array_equal(_update(watch, x, rollout), x)
  report = _report(watch, x, rollout)
  direct = ops.off_policy_metrics(
      rollout.extras['old_log_probs'], rollout.log_probs, rollout.mask)
  assert report['mismatch/k3'] == pytest.approx([float(direct['k3']), 1.])
  assert len(report) == len(direct)


def test_equal_policies_are_left_alone():
  rollout, policy = _far(0.)
  plain = methods.grpo(old='old_log_probs', off_policy_threshold=None)
  fixed = credit.corrected(
      plain, credit.importance_weights('sequence', normalize=True),
      credit.reject_tokens(), credit.reject_tokens('k3', 'seq_max', high=.1))
  fixed = fixed._replace(advantages=credit.chain(
      fixed.advantages, credit.mask_off_policy_sequences(0.)))
  ours, theirs = (rollouts.run(m, rollout, policy) for m in (fixed, plain))
  for name in ('advantages', 'weights', 'loss', 'gradient'):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a, b, rtol=1e-5, atol=1e-7), ours[name], theirs[name])


def test_decoupled_ppo():
  """π_prox/π_behave as weight, and a clip of π/π_prox."""
  rollout, policy = _far()
  method = methods.grpo(
      old='old_log_probs', importance='token', importance_cap=2., beta=0.,
      aggregation='token_mean')
  out = rollouts.run(method, rollout, policy)
  mask, proximal = rollout.mask, rollout.extras['old_log_probs']

  def expected(log_probs):
    ratio = jnp.exp(log_probs - proximal)
    clipped = jnp.clip(ratio, .8, 1.2)
    objective = jnp.minimum(
        ratio * out['advantages'], clipped * out['advantages'])
    behave = jnp.minimum(jnp.exp(proximal - rollout.log_probs), 2.)
    return -jnp.sum(jnp.where(mask, behave * objective, 0)) / mask.sum()

  loss, gradient = jax.value_and_grad(expected)(policy.log_probs)
  assert float(out['loss']) == pytest.approx(float(loss), rel=1e-5)
  np.testing.assert_allclose(
      out['gradient'][0], jnp.where(mask, gradient, 0), rtol=1e-4, atol=1e-7)


def test_one_update_by_weights_is_one_update_by_the_ratio():
  """At π = π_prox the weight is the ratio: who sampled counts once."""
  rollout, _ = _far()
  policy = rollouts.types.PolicyOutput(rollout.extras['old_log_probs'])
  kw = dict(beta=0., clip_low=1., clip_high=1e9)
  weighted, _ = (rollouts.run(m, rollout, policy._replace(
      values=jnp.zeros_like(policy.log_probs))) for m in (
          methods.grpo(old='old_log_probs', importance='token',
                       importance_bound='none', **kw),
          methods.grpo(**kw)))
  ratio = rollouts.run(methods.grpo(**kw), rollout, policy._replace(
      values=jnp.zeros_like(policy.log_probs)))
  np.testing.assert_allclose(
      weighted['gradient'][0], ratio['gradient'][0], rtol=1e-4, atol=1e-7)


def test_any_recipe_can_be_corrected():
  rollout, policy = _far()
  for name, kw in (('reinforce', {}), ('rloo', dict(beta=0.)), (
      'dapo', dict(old='old_log_probs')), (
          'gspo', dict(old='old_log_probs'))):
    plain = methods.build(name, kw)
    fixed = credit.corrected(plain, credit.importance_weights('geometric'))
    assert 'old_log_probs' in rollouts.needs(fixed)
    ours, theirs = (rollouts.run(m, rollout, policy) for m in (fixed, plain))
    scale = _update(
        credit.importance_weights('geometric'), _ones(rollout), rollout)
    np.testing.assert_allclose(
        ours['weights'], theirs['weights'] * scale, rtol=1e-5, atol=1e-8)


def test_the_correction_is_an_expectation_under_the_learner():
  """Over all responses of two tokens: E_μ of the gradient is E_π of it."""
  rng = np.random.default_rng(0)
  log_p, log_q = (jax.nn.log_softmax(jnp.asarray(
      rng.normal(size=3), jnp.float32)) for _ in range(2))
  tokens = np.stack(np.meshgrid(*[np.arange(3)] * 2), -1).reshape(-1, 2)
  rewards = rng.normal(size=9).astype(np.float32)
  rollout, _ = rollouts.make(
      group=np.zeros(9), mask=np.ones((9, 2), bool), rewards=rewards)
  rollout = rollout._replace(
      tokens=jnp.asarray(tokens), log_probs=log_q[tokens],
      extras={'old_log_probs': log_p[tokens]})
  transform = credit.importance_weights('sequence', bound='none')
  weights = _update(transform, jnp.ones((9, 2)), rollout)
  seen = jnp.exp(log_q[tokens].sum(1))[:, None]
  wanted = jnp.exp(log_p[tokens].sum(1))

  def surrogate(theta):
    policy = rollouts.types.PolicyOutput(jax.nn.log_softmax(theta)[tokens])
    advantages = jnp.broadcast_to(rewards[:, None], (9, 2))
    return losses.policy_gradient_loss().apply(
        policy, advantages, seen * weights, rollout)[0]

  def exact(theta):
    return -jnp.sum(jax.lax.stop_gradient(wanted) * rewards * jax.nn.
                    log_softmax(theta)[tokens].sum(1))

  np.testing.assert_allclose(
      jax.grad(surrogate)(log_p), jax.grad(exact)(log_p), rtol=1e-4,
      atol=1e-6)


@pytest.mark.parametrize('factory, match', [
    (lambda: credit.importance_weights('row'), "level is 'row'"),
    (lambda: credit.importance_weights(cap=-1.), 'cap is -1'),
    (lambda: credit.reject_tokens('k1', 'seq_max'), 'two sides'),
    (lambda: credit.reject_tokens('k3', low=.5), 'only k1'),
    (lambda: credit.mask_off_policy_sequences(float('nan')),
     'threshold is nan'),
    (lambda: credit.corrected(methods.grpo()), 'no transforms'),
    (lambda: methods.grpo(importance='token'), "old is 'log_probs'"),
    (lambda: methods.grpo(importance='row', old='old_log_probs'),
     "level is 'row'"),
    (lambda: methods.grpo(count='all'), "count is 'all'"),
    (lambda: credit.adapt_entropy_coef(step=0.), 'step is 0'),
    (lambda: credit.adapt_entropy_coef(start=2.), r'start is 2.*most = 1')])
def test_bad_arguments_are_refused_at_once(factory, match):
  with pytest.raises(ValueError, match=match):
    factory()


@pytest.mark.parametrize('transform', [
    credit.importance_weights(), credit.reject_tokens(),
    credit.mask_off_policy_sequences(.1)])
def test_what_is_missing_is_named(transform):
  rollout, _ = _far()
  rollout = rollout._replace(extras={})
  with pytest.raises(ValueError, match="needs .*'old_log_probs'.*policy"):
    transform.update(_ones(rollout), (), rollout)


def test_the_entropy_coefficient_follows_the_entropy():
  rollout, _ = rollouts.make()
  transform = credit.adapt_entropy_coef(.5, start=.01, step=.005, most=.016)
  state, seen = transform.init(), []
  for entropy in (.2, .5, .2, .9, .9, .9, .9, .4):
    batch = rollout._replace(extras={
        'entropy': jnp.where(rollout.mask, entropy, jnp.nan)})
    report = transform.metrics(None, state, batch)
    extras, state = transform.update(None, state, batch)
    applied = np.asarray(extras['entropy_coef'])
    assert applied.shape == (rollouts.ROWS,)
    assert (applied == applied[0]).all()
    assert float(report['entropy/coef'][0]) == applied[0]
    seen.append((float(applied[0]), float(state.coef)))
  np.testing.assert_allclose(seen, [
      (.01, .015), (.015, .016), (.016, .016), (0, .011), (0, .006),
      (0, .001), (0, 0), (0, .005)], atol=1e-7)


def test_an_empty_batch_moves_no_coefficient():
  rollout, _ = rollouts.make(mask=np.zeros((16, 14), bool))
  transform = credit.adapt_entropy_coef(start=.01)
  _, state = transform.update(None, transform.init(), rollout)
  assert float(state.coef) == pytest.approx(.01)
