"""What the papers of HAPO, CAPO and VERL say must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import methods, ops
from tests.methods import rollouts

PAIRS = np.array([0, 1, 2, 3] * 4)  # Four even groups, interleaved.
SHAPE = dict(vocab_size=rollouts.VOCAB, width=rollouts.WIDTH)
WIDE = dict(tau_h=np.inf, tau_f=np.inf)


def _compiled(method):
  """rollout, policy, state -> everything; compiled once for a method."""
  run = jax.jit(
      lambda rollout, policy, state: rollouts.run(
          method, rollout, policy, state),
      compiler_options={'xla_backend_optimization_level': 0})
  return lambda rollout, policy, state=None: run(
      rollout, policy,
      rollouts.initial_state(method) if state is None else state)


def _extras(rollout, **extras):
  return rollout._replace(extras=rollout.extras | {
      name: jnp.asarray(x) for name, x in extras.items()})


def _mean(out, name):
  total, weight = out['reported'][name]
  return float(total) / float(weight)


def _empty(rollout):
  return rollout._replace(
      mask=jnp.zeros_like(rollout.mask), group=jnp.full(16, -1))


# HAPO


def test_the_tokens_of_a_group_sum_to_zero():
  out = _compiled(methods.hapo(fallback=None))(*rollouts.make())
  for group in set(rollouts.GROUP[rollouts.GROUP >= 0].tolist()):
    assert abs(out['advantages'][rollouts.GROUP == group].sum()) < 1e-4


def test_rows_of_equal_length_need_no_token_average():
  mask = np.zeros((16, 8), bool)
  mask[:, 2:7] = True
  rollout, policy = rollouts.make(group=PAIRS, mask=mask)
  ours = _compiled(methods.hapo())(rollout, policy)
  plain = _compiled(methods.grpo(std='population', beta=0.))(rollout, policy)
  np.testing.assert_allclose(
      ours['advantages'], plain['advantages'], rtol=1e-5, atol=1e-6)


def test_equal_entropies_leave_the_loss_alone():
  rollout, policy = rollouts.make(group=PAIRS)
  rollout = _extras(rollout, entropy=jnp.full(rollout.mask.shape, .3))
  ours, plain = (
      _compiled(methods.hapo(**kw))(rollout, policy)
      for kw in ({}, dict(adv_beta=0., clip_alpha=0.)))
  np.testing.assert_allclose(ours['loss'], plain['loss'], rtol=1e-6)
  np.testing.assert_allclose(ours['gradient'][0], plain['gradient'][0])


def test_the_sampler_is_heated_by_the_batch_before():
  method = methods.hapo(tau=.2, quantile=.5)
  rollout, policy = rollouts.make()
  first = method.heat(method.derived.init())
  entropy = jnp.array([1e-6, .5, 1e3])
  # Nothing is known before the first batch.
  assert (ops.heated(entropy, first) == 1).all()
  run = _compiled(method)
  out = run(rollout, policy)
  heat = method.heat(out['state'][-1])
  assert heat.strength == pytest.approx(.2)
  mask = np.asarray(rollout.mask)
  own = np.asarray(rollout.extras['entropy'])[mask]
  # The ends of the batch, and all beyond them, have the ends of the range.
  ends = jnp.asarray([own.min() / 9, own.min(), own.max(), own.max() * 9])
  np.testing.assert_allclose(
      ops.heated(ends, heat), [.8, .8, 1.2, 1.2], rtol=1e-5)
  assert _mean(out, 'hapo/heat') == 1
  assert _mean(out, 'hapo/pivot') == pytest.approx(float(heat.pivot))
  again = run(rollout, policy, out['state'])
  assert .8 < _mean(again, 'hapo/heat') < 1.2
  # A batch without tokens leaves everything as it was.
  after = run(_empty(rollout), policy, out['state'])['state'][-1]
  np.testing.assert_array_equal(np.array(after), np.array(heat))
  assert methods.hapo(tau=0.).heat is None


def test_the_sign_slip_of_the_release_can_be_chosen():
  rollout, policy = rollouts.make()
  scores = {}
  for signed in (True, False):
    method = methods.hapo(signed=signed)
    filled, *_ = rollouts.assign(
        method, rollouts.initial_state(method), rollout)
    scores[signed] = np.asarray(filled.extras['entropy_score'])
  assert scores[True].min() == pytest.approx(-1) and scores[False].min() == 0
  np.testing.assert_array_equal(scores[False], np.abs(scores[True]))


# CAPO


def test_what_is_accepted():
  rollout, policy = rollouts.make()
  taken = np.asarray(rollout.mask)
  full = _compiled(methods.capo(**SHAPE, **WIDE))(rollout, policy)
  assert _mean(full, 'capo/rejected') == 0
  none = _compiled(methods.capo(**SHAPE, tau_h=0., tau_f=0.))(rollout, policy)
  assert _mean(none, 'capo/rejected') == 1
  assert none['loss'] == 0 and not np.asarray(none['weights']).any()
  state = none['state'][2][0]
  assert state.count == 1 and not state.filled and not state.mean.any()
  # A small step moves nothing; rows without a signal are always kept.
  still = _extras(rollout, learning_rate=jnp.zeros(16))
  strict = dict(tau_h=1e-9, tau_f=1e-12)
  kept = _compiled(methods.capo(**SHAPE, **strict))(still, policy)
  assert ((np.asarray(kept['weights']) > 0) == taken).all()
  tight = _compiled(methods.capo(**SHAPE, **strict))(rollout, policy)
  zero = np.asarray(tight['advantages']) == 0
  assert ((np.asarray(tight['weights']) > 0) == (taken & zero)).all()


def test_a_sure_token_is_accepted():
  rollout, policy = rollouts.make()
  sure = jnp.zeros_like(rollout.extras['top_probs']).at[..., 0].set(1.)
  rollout = _extras(rollout, top_probs=sure)._replace(
      tokens=rollout.extras['top_ids'][..., 0])
  out = _compiled(methods.capo(
      optimizer_model='sgd', tau_h=1e-9, tau_f=1e-12))(rollout, policy)
  assert _mean(out, 'capo/rejected') == 0


def test_rejected_tokens_count_in_no_length_but_their_rows_count():
  rollout, policy = rollouts.make()
  mask = np.asarray(rollout.mask)
  row = np.flatnonzero(mask.sum(1) >= 3)[0]
  # A large hidden state makes the row's first tokens too steep to follow.
  steep = np.zeros(mask.shape, bool)
  steep[row, np.flatnonzero(mask[row])[:2]] = True
  whole = np.flatnonzero(mask.any(1))[-1]
  steep[whole] = mask[whole]
  rewards = np.arange(16, dtype=np.float32)
  hidden = np.where(steep[..., None], 100., .01) * np.ones(rollouts.WIDTH)
  rollout, policy = rollouts.make(group=np.zeros(16), mask=mask,
                                  rewards=rewards)
  rollout = _extras(
      rollout, hidden_states=(hidden * mask[..., None]).astype(np.float32))
  weights = {
      variant: np.asarray(_compiled(methods.capo(
          variant=variant, optimizer_model='sgd', max_tokens=9,
          tau_h=1., tau_f=1.))(rollout, policy)['weights'])
      for variant in ('capo', 'dr_capo')}
  kept = mask & ~steep
  rows = mask.any(1).sum()
  expected = kept / np.maximum(kept.sum(1, keepdims=True), 1) / rows
  np.testing.assert_allclose(weights['capo'], expected, rtol=1e-5)
  np.testing.assert_allclose(
      weights['dr_capo'], kept / 9 / rows, rtol=1e-5)


def test_the_model_learns_from_what_was_accepted():
  rollout, policy = rollouts.make()
  run = _compiled(methods.capo(**SHAPE, **WIDE))
  first = run(rollout, policy)
  state = first['state'][2][0]
  assert state.count == 1 and state.filled and np.asarray(state.mean).any()
  sgd = _compiled(methods.capo(optimizer_model='sgd', **WIDE))(
      rollout, policy)
  for name in ('capo/objective', 'capo/divergence'):
    # The first batch finds no moments; later ones do.
    assert _mean(first, name) == pytest.approx(_mean(sgd, name), rel=1e-5)
  second = run(rollout, policy, first['state'])
  assert second['state'][2][0].count == 2
  assert _mean(second, 'capo/divergence') != pytest.approx(
      _mean(sgd, 'capo/divergence'), rel=.1)


def test_the_width_must_be_that_of_the_policy():
  rollout, policy = rollouts.make()
  with pytest.raises(ValueError, match='width is 5; .* have 6'):
    _compiled(methods.capo(vocab_size=11, width=5))(rollout, policy)


# VERL


def test_the_bonus_is_bounded_and_keeps_signs():
  rollout, policy = rollouts.make()
  plain = _compiled(methods.grpo(beta=0.))(rollout, policy)['advantages']
  plain = np.asarray(plain)
  for kappa in (2., 10.):
    out = _compiled(methods.verl_hidden(stride=2, kappa=kappa))(
        rollout, policy)
    shaped = np.asarray(out['advantages'])
    assert (shaped >= plain - 1e-6).all() and (shaped > plain + .01).any()
    assert (shaped * plain >= 0).all() and (shaped[plain == 0] == 0).all()
    bound = (1 + 1 / kappa) * np.abs(plain) + 1e-6
    assert (np.abs(shaped) <= bound).all()
    assert _mean(out, 'verl_hidden/bonus') == pytest.approx(
        (shaped - plain).sum() / np.asarray(rollout.mask).sum(), rel=1e-4)


def test_neither_scale_nor_place_of_hidden_states_matters():
  rollout, policy = rollouts.make()
  run = _compiled(methods.verl_hidden(stride=2))
  moved = _extras(
      rollout, hidden_states=5 * rollout.extras['hidden_states'] + 2)
  np.testing.assert_allclose(
      run(moved, policy)['advantages'], run(rollout, policy)['advantages'],
      rtol=1e-3, atol=1e-4)


def test_how_the_release_starts():
  rollout, policy = rollouts.make()
  plain = np.asarray(_compiled(methods.grpo(beta=0.))(
      rollout, policy)['advantages'])
  run = _compiled(methods.verl_hidden(stride=2, start='zero', rate=.5))
  first = run(rollout, policy)
  np.testing.assert_array_equal(first['advantages'], plain)
  second = run(rollout, policy, first['state'])
  # μ is still 0, so that every deviation is at its limit.
  ranks = np.asarray(rollout.mask).sum(1) >= 2
  shaped = np.asarray(second['advantages'])[ranks]
  assert (shaped[np.abs(plain[ranks]) > 0] != plain[ranks][
      np.abs(plain[ranks]) > 0]).all()
  before, after = (x['state'][1][1] for x in (first, second))
  assert not np.asarray(before.mean).any() and before.count == 1
  np.testing.assert_allclose(after.mean, before.latest / 2, rtol=1e-5)


def test_a_batch_without_rows_is_none():
  rollout, policy = rollouts.make()
  run = _compiled(methods.verl_hidden(stride=2))
  state = run(rollout, policy)['state']
  for before in (None, state):
    after = run(_empty(rollout), policy, before)['state'][1][1]
    expected = ops.empty_baseline() if before is None else before[1][1]
    jax.tree.map(np.testing.assert_array_equal, after, expected)


def test_the_bonus_may_lie_on_the_last_token_alone():
  rollout, policy = rollouts.make()
  plain = np.asarray(_compiled(methods.grpo(beta=0.))(
      rollout, policy)['advantages'])
  whole, last = (
      np.asarray(_compiled(methods.verl_hidden(stride=2, place=place))(
          rollout, policy)['advantages'])
      for place in ('sequence', 'last'))
  mask = np.asarray(rollout.mask)
  end = mask & (np.cumsum(mask[:, ::-1], 1)[:, ::-1] == 1)
  np.testing.assert_array_equal(last, np.where(end, whole, plain))
  assert (whole != last).any()


def test_the_scale_may_follow_the_rewards():
  """At a mean reward of 1 there is nothing left to explore for."""
  rollout, policy = rollouts.make(rewards=np.ones(16))
  run = _compiled(methods.verl_hidden(
      stride=2, start='zero', fixed_scale=False, rate=1.))
  state = None
  for _ in range(3):
    out = run(rollout, policy, state)
    state = out['state']
  assert _mean(out, 'verl_hidden/signal') == pytest.approx(0, abs=1e-6)
  assert float(state[1][1].score) == pytest.approx(1.)


@pytest.mark.parametrize('name, kw, match', [
    ('hapo', dict(max_length=8), 'needs both'),
    ('hapo', dict(tau=1.), 'tau is 1.0'),
    ('hapo', dict(quantile=1.5), 'quantile is 1.5'),
    ('hapo', dict(adv_beta=-1.), 'adv_beta is -1.0'),
    ('capo', dict(), "vocab_size is None; optimizer_model='adam' keeps"),
    ('capo', dict(vocab_size=9), 'width is None'),
    ('capo', dict(optimizer_model='lion'), "optimizer_model is 'lion'"),
    ('capo', dict(variant='caapo'), "variant is 'caapo'"),
    ('capo', dict(variant='dr_capo', **SHAPE), 'max_tokens is None'),
    ('capo', dict(top_k=0, **SHAPE), 'top_k is 0'),
    ('capo', dict(b2=1., **SHAPE), 'b2 is 1.0'),
    ('verl_hidden', dict(stride=0), 'stride is 0'),
    ('verl_hidden', dict(last_tokens=0), 'last is 0'),
    ('verl_hidden', dict(kappa=0.), 'kappa is 0.0'),
    ('verl_hidden', dict(rate=2.), 'rate is 2.0'),
    ('verl_hidden', dict(place='first'), "place is 'first'"),
    ('verl_hidden', dict(mix='odd'), "mix is 'odd'"),
    ('verl_hidden', dict(start='one'), "start is 'one'"),
])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw)
