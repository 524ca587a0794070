"""What the papers of ARM, ACE and D3S say must hold."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import credit, methods
from policyopt.methods.advantages.ace import strengthen_sure_errors
from policyopt.types import Rollout
from tests.methods import rollouts
from tests.methods.assigned import GROUP4, assign, of_rows, run, with_extras

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
  return with_extras(rollout, prompt_log_probs=jnp.asarray(
      log_probs[group], jnp.float32)), group


def test_arm_moves_groups_with_a_correct_row_by_their_confidence():
  rollout, group = _arm_batch()
  base, moved = (of_rows(assign(methods.arm(alpha=alpha), rollout)
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
  base, moved = (of_rows(assign(methods.arm(
      alpha=alpha, skip_all_correct=True), rollout)['advantages'], rollout)
                 for alpha in (0., .3))
  assert ((moved != base) == (group == 0)).all()


def test_arm_without_prompts_compares_the_responses():
  rollout, _ = rollouts.make(
      group=np.zeros(4), mask=np.ones((4, 5), bool), rewards=np.ones(4))
  out = assign(methods.arm(), rollout)
  moved = of_rows(out['advantages'], rollout)
  assert np.abs(moved).max() > 1e-3
  np.testing.assert_allclose(moved.sum(), 0, atol=1e-6)
  assert out['metrics']['arm/prompt_confidence'] == pytest.approx(
      out['metrics']['arm/answer_confidence'], rel=1e-5)


def test_arm_takes_the_whole_prompt_when_asked():
  rollout, _ = _arm_batch()
  short, whole = (assign(methods.arm(whole_prompt=flag), rollout)['metrics']
                  for flag in (False, True))
  assert whole['arm/prompt_confidence'] > short['arm/prompt_confidence']
  assert whole['arm/answer_confidence'] == short['arm/answer_confidence']


# ACE


def test_ace_leaves_right_rows_bit_identical_and_deepens_errors():
  rollout, _ = rollouts.make()
  base = assign(methods.ace(alpha=0.), rollout)['advantages']
  out = assign(methods.ace(), rollout)
  moved = out['advantages']
  right = base >= 0
  np.testing.assert_array_equal(moved[right], base[right])
  assert (moved[~right] < base[~right]).all()
  assert out['metrics']['ace/multiplier'] > 1
  rows = np.asarray(rollout.group) >= 0
  assert of_rows(moved, rollout)[rows].sum() <= 0


def test_ace_at_the_reference_weighs_all_errors_alike():
  rollout, _ = rollouts.make()
  rollout = with_extras(rollout, ref_log_probs=rollout.log_probs)
  base = assign(methods.ace(alpha=0.), rollout)['advantages']
  out = assign(methods.ace(alpha=.5), rollout)
  factor = 1 + .5 * np.log(2)
  np.testing.assert_allclose(
      out['advantages'], np.where(base < 0, base * factor, base), rtol=1e-5)
  assert out['metrics']['ace/multiplier'] == pytest.approx(factor)
  assert out['metrics']['ace/confidence_shift'] == 0


def test_ace_sums_when_it_is_not_length_normalised():
  rollout, _ = rollouts.make()
  mean, total = (assign(methods.ace(length_normalised=flag), rollout)
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
  out = assign(method, rollout)
  kept = out['weights'] != 0
  return out, kept, kept.any(1)


@pytest.mark.slow
@pytest.mark.parametrize('progress, rows, tokens', [
    (0., .25, .2), (.5, .5, .4), (1., .75, .6), (7., .75, .6)])
def test_d3s_keeps_more_and_more(progress, rows, tokens):
  rollout, _ = rollouts.make(group=GROUP4)
  rollout = with_extras(rollout, progress=np.full(16, progress, np.float32))
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
  rollout = with_extras(rollout, progress=np.zeros(12, np.float32))
  out, _, rows = _kept(methods.d3s(
      rows_init=.5, tokens_init=1., scope=scope), rollout)
  advantages = of_rows(out['advantages'], rollout)
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
  rollout, policy = rollouts.make(group=GROUP4, rewards=np.ones(16))
  out, kept, rows = _kept(methods.d3s(
      rows_init=.25, rows_final=.25, tokens_init=1., tokens_final=1.), rollout)
  assert rows.tolist() == [True] * 4 + [False] * 12
  assert (out['advantages'] == 0).all()
  gradient = run(methods.d3s(), rollout, policy)['gradient'][0]
  assert (np.asarray(gradient) == 0).all()


def test_d3s_keeps_at_least_one_row_and_one_token():
  rollout, _ = rollouts.make()
  _, kept, rows = _kept(methods.d3s(
      rows_init=0., rows_final=0., tokens_init=0., tokens_final=0.), rollout)
  assert rows.sum() == kept.sum() == 1


@pytest.mark.slow
def test_d3s_counts_only_what_is_left_to_it():
  """Rows that an earlier step has dropped are no candidates."""
  rewards = np.where(GROUP4 == 0, 1., np.arange(16)).astype(np.float32)
  rollout, _ = rollouts.make(group=GROUP4, rewards=rewards)
  rollout = with_extras(rollout, progress=np.zeros(16, np.float32))
  method = methods.d3s(rows_init=.5, tokens_init=1.)
  method = method._replace(weights=credit.chain(
      credit.drop_flat_groups(), method.weights))
  _, _, rows = _kept(method, rollout)
  assert rows.sum() == 6 and not rows[GROUP4 == 0].any()


@pytest.mark.parametrize('name, kw, match', [
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
