"""What the papers of COPO, CANON, ARM, ACE and D3S say must hold."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, methods
from policyopt.methods.advantages.ace import strengthen_sure_errors
from policyopt.types import Rollout
from tests.methods import rollouts

PAIRS = np.array([0, 1, 2, 3] * 4)  # Four even groups, interleaved.


def _compiled(fn, *args):
  # One small program is sooner compiled than its many operations.
  return jax.jit(fn, compiler_options={
      'xla_backend_optimization_level': 0})(*args)


def _run(method, rollout, policy, *state):
  return _compiled(
      functools.partial(rollouts.run, method), rollout, policy, *state)


def _assign(method, rollout):
  def assign(rollout):
    state = rollouts.initial_state(method)
    reported = rollouts.credit_metrics(method, state, rollout)
    return reported, rollouts.assign(method, state, rollout)

  reported, (filled, advantages, weights, _) = _compiled(assign, rollout)
  return dict(
      extras=filled.extras, advantages=np.asarray(advantages),
      weights=np.asarray(weights), metrics={
          name: float(total) / float(weight)
          for name, (total, weight) in reported.items() if weight})


def _of_rows(tokens, rollout):
  """The number of each row, from its chosen tokens."""
  tokens, mask = np.asarray(tokens), np.asarray(rollout.mask)
  values = np.where(mask, tokens, 0).sum(1) / np.maximum(mask.sum(1), 1)
  np.testing.assert_allclose(
      tokens, np.where(mask, values[:, None], 0), atol=1e-5)
  return values


def _extras(rollout, **extras):
  return rollout._replace(extras=rollout.extras | {
      name: jnp.asarray(x) for name, x in extras.items()})


# COPO


def _copo_batch():
  """Unanimous and wrong, unanimous and right, split, and all different."""
  rewards = np.zeros(16, np.float32)
  rewards[PAIRS == 1] = 1
  rewards[[2, 6]] = 1
  rewards[3] = 1
  answer = np.array([4, 5, 0, 0, 4, 5, 0, 1, 4, 5, 1, 2, 4, 5, 1, 3])
  rollout, policy = rollouts.make(group=PAIRS, rewards=rewards)
  return _extras(rollout, answer_id=answer.astype(np.int32)), policy


def test_copo_teaches_unanimous_groups_by_the_other_prompts():
  rollout, _ = _copo_batch()
  out = _assign(methods.copo(mode='only_soft'), rollout)
  local = _of_rows(out['advantages'], rollout)
  scores = _of_rows(out['extras']['global_advantages'], rollout)
  weight = _of_rows(out['extras']['local_weight'], rollout)
  unanimous = PAIRS < 2
  assert (local[unanimous] == 0).all() and (local[~unanimous] != 0).all()
  np.testing.assert_allclose(
      weight[unanimous], 1 / (1 + np.exp(5.)), rtol=1e-3)
  assert (scores[PAIRS == 0] < 0).all() and (scores[PAIRS == 1] > 0).all()
  # Over prompts they sum to 0; over four answers the entropy is 2 bits.
  np.testing.assert_allclose(scores[:4].sum(), 0, atol=1e-5)
  np.testing.assert_allclose(
      weight[PAIRS == 3], 1 / (1 + np.exp(-5.)), rtol=1e-3)
  assert out['metrics']['copo/consistency_entropy'] == pytest.approx(
      (0 + 0 + 1 + 2) / 4, abs=1e-5)
  assert out['metrics']['copo/local_weight'] == pytest.approx(
      weight.mean(), rel=1e-4)


def test_copo_modes_silence_rows():
  rollout, _ = _copo_batch()
  rewards = np.asarray(rollout.rewards['accuracy']).sum(1)
  for mode, silent in (
      ('soft_with_zero', rewards == 0), ('soft_with_forced', PAIRS < 2),
      ('only_global', np.ones(16, bool)), ('no_global', np.zeros(16, bool))):
    out = _assign(methods.copo(mode=mode), rollout)
    weight = _of_rows(out['extras']['local_weight'], rollout)
    np.testing.assert_array_equal(weight == 0, silent, err_msg=mode)


def test_copo_counts_all_missing_answers_as_one():
  rollout, _ = _copo_batch()
  none = _extras(rollout, answer_id=-1 - np.arange(16, dtype=np.int32))
  out = _assign(methods.copo(), none)
  assert out['metrics']['copo/consistency_entropy'] == pytest.approx(
      0, abs=1e-6)


def test_copo_of_one_prompt_or_of_equal_prompts_has_no_global_part():
  for group, rewards in ((np.zeros(16), np.arange(16.)),
                         (PAIRS, np.repeat([.3, .7], 8))):
    rollout, policy = rollouts.make(group=group, rewards=rewards)
    for coef in (False, True):
      method = methods.copo(consistency_coef=coef)
      if coef and len(set(group)) > 1:
        continue  # Prompts then differ by how much their answers agree.
      out = _run(method, rollout, policy)
      assert np.isfinite(out['loss'])
      scores = _assign(method, rollout)['extras']['global_advantages']
      assert (np.asarray(scores) == 0).all()


def test_copo_with_the_coefficient_rewards_agreement():
  answer = np.where(np.arange(16) < 8, 0, np.arange(16)).astype(np.int32)
  rollout, _ = rollouts.make(group=np.arange(16) // 8, rewards=np.ones(16))
  rollout = _extras(rollout, answer_id=answer)
  scores = _of_rows(_assign(
      methods.copo(consistency_coef=True), rollout)
                    ['extras']['global_advantages'], rollout)
  np.testing.assert_allclose(scores[0], np.sqrt(.5), rtol=1e-4)
  np.testing.assert_allclose(scores[8], -np.sqrt(.5), rtol=1e-4)


# CANON


@pytest.mark.parametrize('metric', ['entropy', 'length'])
def test_canon_without_preference_is_dr_grpo_on_even_groups(metric):
  rollout, policy = rollouts.make(group=PAIRS)
  canon = _run(methods.canon(
      max_tokens=10, metric=metric, mu=.5), rollout, policy)
  plain = _run(methods.dr_grpo(max_tokens=10), rollout, policy)
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
  long = _of_rows(_assign(methods.canon(
      metric='length', **kw), rollout)['advantages'], rollout)
  np.testing.assert_allclose(long, [.2, .2, -.2, -.2], rtol=1e-5)
  entropy = np.where(np.arange(4) < 2, .1, .9)[:, None] * rollout.mask
  certain = _of_rows(_assign(methods.canon(**kw), _extras(
      rollout, entropy=entropy))['advantages'], rollout)
  np.testing.assert_allclose(certain, [-.2, -.2, .2, .2], rtol=1e-5)
  moved = _of_rows(_assign(methods.canon(
      max_tokens=10, metric='length', offset=.1), rollout)['advantages'],
                   rollout)
  np.testing.assert_allclose(moved, [-.1, -.1, .1, .1], rtol=1e-5)


def test_canon_compares_with_the_other_or_the_own_half():
  rollout = _by_length([2, 3, 8, 9], np.array([1., 0., 1., 1.], np.float32))
  inter, intra = (_assign(methods.canon(
      max_tokens=10, metric='length', mu=mu), rollout) for mu in (1., 0.))
  np.testing.assert_allclose(
      _of_rows(inter['advantages'], rollout), [0, -1, .5, .5], atol=1e-6)
  np.testing.assert_allclose(
      _of_rows(intra['advantages'], rollout), [.5, -.5, 0, 0], atol=1e-6)
  assert inter['metrics'] == {
      'canon/mu': 1., 'canon/gap': .5, 'canon/high_minus_low': .5}


@pytest.mark.parametrize('first, mu', [('intra', .25), ('inter', .75)])
def test_canon_follows_the_mean_reward(first, mu):
  rewards = (np.arange(16) % 4 == 0).astype(np.float32)
  rollout, _ = rollouts.make(group=np.arange(16) // 4, rewards=rewards)
  kw = dict(max_tokens=10)
  followed = _assign(
      methods.canon(schedule='accuracy', first=first, **kw), rollout)
  fixed = _assign(methods.canon(mu=mu, **kw), rollout)
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
    out = _run(method, rollout, policy, state)
    seen.append(float(out['reported']['canon/mu'][0]))
    state = out['state']
  np.testing.assert_allclose(seen, expected, rtol=1e-5)


# ARM


def _arm_batch():
  """A mixed group, one all right, one all wrong, and one of a single row."""
  group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, -1])
  rewards = np.array([1, 1, 0, 0] + [1] * 4 + [0] * 4 + [1, 1], np.float32)
  mask = np.zeros((len(group), rollouts.TOKENS), bool)
  mask[:, 4:] = np.random.default_rng(0).random(mask[:, 4:].shape) < .7
  mask[:, 4] = group >= 0
  mask[group < 0] = False
  rollout, _ = rollouts.make(group=group, rewards=rewards, mask=mask)
  # All rows of a group share their prompt.
  log_probs = -np.abs(np.random.default_rng(1).normal(size=(5, mask.shape[1])))
  return _extras(rollout, prompt_log_probs=jnp.asarray(
      log_probs[group], jnp.float32)), group


def test_arm_moves_groups_with_a_correct_row_by_their_confidence():
  rollout, group = _arm_batch()
  base, moved = (_of_rows(_assign(methods.arm(alpha=alpha), rollout)
                          ['advantages'], rollout) for alpha in (0., .3))
  change = moved - base
  assert (np.abs(change) <= .3).all()
  assert (change[(group == 2) | (group < 0)] == 0).all()
  assert (change[(group == 1) | (group == 3)] != 0).all()
  confidence = np.zeros(len(group))
  for row in np.flatnonzero(group >= 0):
    logs = np.sort(np.asarray(rollout.log_probs)[row][
        np.asarray(rollout.mask)[row]])
    confidence[row] = np.exp(logs[:-(-len(logs) // 5)].mean())
  # Equal rewards: the difference is that of the confidences, reversed.
  for a, b in ((0, 1), (2, 3), (4, 7), (5, 6)):
    np.testing.assert_allclose(
        moved[a] - moved[b], -.3 * (confidence[a] - confidence[b]), atol=1e-5)
  # Three prompt tokens: the least probable one is the prompt's confidence.
  question = np.exp(np.asarray(
      rollout.extras['prompt_log_probs'])[:, 1:4].min(1))
  np.testing.assert_allclose(
      change[:8], .3 * (question - confidence)[:8], atol=1e-5)


def test_arm_can_leave_groups_alone_that_are_all_correct():
  rollout, group = _arm_batch()
  base, moved = (_of_rows(_assign(methods.arm(
      alpha=alpha, skip_all_correct=True), rollout)['advantages'], rollout)
                 for alpha in (0., .3))
  assert ((moved != base) == (group == 0)).all()


def test_arm_without_prompts_compares_the_responses():
  rollout, _ = rollouts.make(
      group=np.zeros(4), mask=np.ones((4, 5), bool), rewards=np.ones(4))
  out = _assign(methods.arm(), rollout)
  moved = _of_rows(out['advantages'], rollout)
  assert np.abs(moved).max() > 1e-3
  np.testing.assert_allclose(moved.sum(), 0, atol=1e-6)
  assert out['metrics']['arm/prompt_confidence'] == pytest.approx(
      out['metrics']['arm/answer_confidence'], rel=1e-5)


def test_arm_takes_the_whole_prompt_when_asked():
  rollout, _ = _arm_batch()
  short, whole = (_assign(methods.arm(whole_prompt=flag), rollout)['metrics']
                  for flag in (False, True))
  assert whole['arm/prompt_confidence'] > short['arm/prompt_confidence']
  assert whole['arm/answer_confidence'] == short['arm/answer_confidence']


# ACE


def test_ace_leaves_right_rows_bit_identical_and_deepens_errors():
  rollout, _ = rollouts.make()
  base = _assign(methods.ace(alpha=0.), rollout)['advantages']
  out = _assign(methods.ace(), rollout)
  moved = out['advantages']
  right = base >= 0
  np.testing.assert_array_equal(moved[right], base[right])
  assert (moved[~right] < base[~right]).all()
  assert out['metrics']['ace/multiplier'] > 1
  rows = np.asarray(rollout.group) >= 0
  assert _of_rows(moved, rollout)[rows].sum() <= 0


def test_ace_at_the_reference_weighs_all_errors_alike():
  rollout, _ = rollouts.make()
  rollout = _extras(rollout, ref_log_probs=rollout.log_probs)
  base = _assign(methods.ace(alpha=0.), rollout)['advantages']
  out = _assign(methods.ace(alpha=.5), rollout)
  factor = 1 + .5 * np.log(2)
  np.testing.assert_allclose(
      out['advantages'], np.where(base < 0, base * factor, base), rtol=1e-5)
  assert out['metrics']['ace/multiplier'] == pytest.approx(factor)
  assert out['metrics']['ace/confidence_shift'] == 0


def test_ace_sums_when_it_is_not_length_normalised():
  rollout, _ = rollouts.make()
  mean, total = (_assign(methods.ace(length_normalised=flag), rollout)
                 ['advantages'] for flag in (True, False))
  one = np.asarray(rollout.mask).sum(1) == 1
  assert not np.allclose(mean, total)
  np.testing.assert_allclose(mean[one], total[one])


def test_aces_gradient_is_a_regulariser_less_a_residual(x64):
  """The paper's theorem, over all answers of a tabular softmax."""
  rng = np.random.default_rng(0)
  size, alpha = 7, .7
  logits, ref = jnp.asarray(rng.normal(size=(2, size)) * 2)
  wrong = jnp.asarray(rng.random(size) < .6)
  ref = jax.nn.log_softmax(ref)
  stop = jax.lax.stop_gradient

  def expectation(logits, of):
    log_p = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * jnp.where(wrong, of(log_p - ref), 0))

  def surrogate(logits, weights):
    log_p = jax.nn.log_softmax(logits)
    return jnp.sum(stop(jnp.exp(log_p)) * weights * log_p)

  log_p = jax.nn.log_softmax(logits)
  rollout = Rollout(
      tokens=jnp.arange(size)[:, None], mask=jnp.ones((size, 1), bool),
      log_probs=log_p[:, None], group=jnp.zeros(size, jnp.int32), rewards={},
      extras={'ref_log_probs': ref[:, None]})
  transform = strengthen_sure_errors(alpha=alpha)
  base = jnp.where(wrong, -1., 0.)
  deepened, _ = transform.update(base[:, None], (), rollout)
  extra = jax.grad(surrogate)(logits, deepened[:, 0] - base)
  regulariser = jax.grad(expectation)(logits, jax.nn.softplus)
  residual = jax.grad(surrogate)(
      logits, jnp.where(wrong, jax.nn.sigmoid(log_p - ref), 0))
  np.testing.assert_allclose(
      extra, -alpha * (regulariser - residual), rtol=1e-9, atol=1e-12)
  assert np.abs(extra).max() > 1e-2


# D3S


def _kept(method, rollout):
  out = _assign(method, rollout)
  kept = out['weights'] != 0
  return out, kept, kept.any(1)


@pytest.mark.parametrize('progress, rows, tokens', [
    (0., .25, .2), (.5, .5, .4), (1., .75, .6), (7., .75, .6)])
def test_d3s_keeps_more_and_more(progress, rows, tokens):
  rollout, _ = rollouts.make(group=PAIRS)
  rollout = _extras(rollout, progress=np.full(16, progress, np.float32))
  method = methods.d3s()
  out, kept, _ = _kept(method, rollout)
  chosen = round(rows * 16)
  assert out['metrics']['d3s/rows'] == pytest.approx(chosen / 16)
  everything = methods.d3s(tokens_init=1., tokens_final=1.)
  full = _kept(everything, rollout)[1]
  assert full.any(1).sum() == chosen
  assert kept.sum() == np.ceil(tokens * full.sum() - 1e-6)
  assert (full | ~kept).all()
  # Of the kept tokens' rows nothing better was left out.
  score = np.abs(out['advantages']) * np.asarray(rollout.extras['entropy'])
  assert score[kept].min() >= score[full & ~kept].max()
  assert out['metrics']['d3s/tokens'] == pytest.approx(
      kept.sum() / np.asarray(rollout.mask).sum())
  np.testing.assert_allclose(
      out['weights'], kept / kept.sum(), rtol=1e-5)


@pytest.mark.parametrize('scope', ['batch', 'prompt'])
def test_d3s_rows_have_the_largest_variance_of_all_subsets(scope):
  rollout, _ = rollouts.make(group=np.arange(12) // 4)
  rollout = _extras(rollout, progress=np.zeros(12, np.float32))
  out, _, rows = _kept(methods.d3s(
      rows_init=.5, tokens_init=1., scope=scope), rollout)
  advantages = _of_rows(out['advantages'], rollout)
  pools = [np.arange(12)] if scope == 'batch' else np.arange(12).reshape(3, 4)
  for pool in pools:
    ours = np.var(advantages[pool][rows[pool]])
    size = rows[pool].sum()
    assert size == len(pool) // 2
    best = max(np.var(advantages[list(subset)])
               for subset in itertools.combinations(pool, size))
    np.testing.assert_allclose(ours, best, rtol=1e-5)
  assert out['metrics']['d3s/variance'] == pytest.approx(
      np.var(advantages[rows]), rel=1e-4)


def test_d3s_of_flat_groups_keeps_the_first_rows():
  rollout, policy = rollouts.make(group=PAIRS, rewards=np.ones(16))
  out, kept, rows = _kept(methods.d3s(
      rows_init=.25, rows_final=.25, tokens_init=1., tokens_final=1.), rollout)
  assert rows.tolist() == [True] * 4 + [False] * 12
  assert (out['advantages'] == 0).all()
  gradient = _run(methods.d3s(), rollout, policy)['gradient'][0]
  assert (np.asarray(gradient) == 0).all()


def test_d3s_keeps_at_least_one_row_and_one_token():
  rollout, _ = rollouts.make()
  _, kept, rows = _kept(methods.d3s(
      rows_init=0., rows_final=0., tokens_init=0., tokens_final=0.), rollout)
  assert rows.sum() == kept.sum() == 1


def test_d3s_counts_only_what_is_left_to_it():
  """Rows that an earlier step has dropped are no candidates."""
  rewards = np.where(PAIRS == 0, 1., np.arange(16)).astype(np.float32)
  rollout, _ = rollouts.make(group=PAIRS, rewards=rewards)
  rollout = _extras(rollout, progress=np.zeros(16, np.float32))
  method = methods.d3s(rows_init=.5, tokens_init=1.)
  method = method._replace(weights=credit.chain(
      credit.drop_flat_groups(), method.weights))
  _, _, rows = _kept(method, rollout)
  assert rows.sum() == 6 and not rows[PAIRS == 0].any()


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
    ('arm', dict(low_fraction=0.), r'low_fraction is 0\.0'),
    ('ace', dict(alpha=-1.), r'alpha is -1\.0'),
    ('d3s', dict(rows_init=1.5), r'rows_init is 1\.5'),
    ('d3s', dict(tokens_final=-.1), r'tokens_final is -0\.1'),
    ('d3s', dict(scope='group'), "unknown scope 'group'"),
    ('d3s', dict(level='row'), "level is 'row'"),
])
def test_wrong_values_are_refused_at_once(name, kw, match):
  with pytest.raises(ValueError, match=match):
    methods.build(name, kw, max_tokens=10)
