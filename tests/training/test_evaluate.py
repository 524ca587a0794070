"""Tests of held-out evaluation: what is sampled, and the numbers of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.envs import factory as envs
from policyopt.models import tokenizer
from policyopt.rollouts.group import Generate
from policyopt.rollouts.sampler import Samples
from policyopt.training import evaluate, record
from policyopt.types import Rollout

BYTE = tokenizer.byte_tokenizer()
# Four problems, four samples; of the last problem two could not be judged.
SOLVED = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]],
                  bool)
RESULT = evaluate.Evaluation(
    solved=SOLVED,
    scored=np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]],
                    bool),
    answer=np.array([[0, 0, 0, 0], [1, 2, 3, 4], [5, 5, 5, 5], [6, 7, 7, 8]],
                    np.int32),
    length=np.array([[2, 2, 2, 2], [2, 4, 4, 2], [6, 6, 6, 6], [4, 4, 4, 4]],
                    np.int32),
    truncated=np.array([[0] * 4, [0, 1, 0, 0], [1] * 4, [0] * 4], bool))
NOTHING = RESULT._replace(solved=np.zeros((4, 4), bool))


def test_summary():
  found = evaluate.summary(RESULT, (1, 2, 4))
  assert found['problems'] == 4 and found['samples'] == 4
  assert found['verifier_failures'] == 2
  assert found['truncated'] == pytest.approx(5 / 16)
  # 1, 1/4, 0 and one of two.
  assert found['pass@1']['mean'] == pytest.approx((1 + .25 + 0 + .5) / 4)
  # 1, 1 - C(3,2)/C(4,2), 0 and 1.
  assert found['pass@2']['mean'] == pytest.approx((1 + .5 + 0 + 1) / 4)
  # With two judged samples nothing can be said of four tries.
  assert found['pass@4']['mean'] == pytest.approx((1 + 1 + 0) / 3)
  # All agree; four ways to tie; all agree on a wrong one; outvoted.
  assert found['maj@4']['mean'] == pytest.approx((1 + .25 + 0 + 0) / 4)
  assert found['length']['mean'] == pytest.approx((2 + 3 + 6 + 4) / 4)


def test_intervals_are_over_problems():
  interval = evaluate.summary(RESULT)['pass@1']
  values = np.array([1, .25, 0, .5])
  half = 1.959964 * values.std(ddof=1) / 2
  assert interval['low'] == pytest.approx(values.mean() - half, abs=1e-5)
  assert interval['high'] == pytest.approx(values.mean() + half, abs=1e-5)


def test_by_default_one_try_and_all():
  names = [name for name in evaluate.summary(RESULT) if name[:4] == 'pass']
  assert names == ['pass@1', 'pass@4']


def test_pass_at_is_unknown_with_too_few_judged():
  found = evaluate.pass_at(RESULT, 3)
  np.testing.assert_allclose(found, [1, .75, 0, np.nan], atol=1e-6)


def test_gain_is_paired():
  gain = evaluate.gain(NOTHING, RESULT, 1)
  alone = evaluate.summary(RESULT)['pass@1']
  assert gain == pytest.approx(alone)
  # The same gain for every problem leaves no doubt, however they differ.
  half = RESULT._replace(solved=np.array(
      [[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool))
  more = half._replace(solved=np.array(
      [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool))
  first = lambda x: evaluate.Evaluation(*(part[:3] for part in x))
  gain = evaluate.gain(first(half), first(more), 1)
  assert gain == pytest.approx(dict(mean=.25, low=.25, high=.25))


def test_problems_without_a_number_are_left_out_of_a_gain():
  gain = evaluate.gain(NOTHING, RESULT, 4)
  assert gain['mean'] == pytest.approx(2 / 3)


def test_table():
  interval = lambda mean, low, high: dict(mean=mean, low=low, high=high)
  before = {'problems': 512, 'samples': 8, 'truncated': .1,
            'pass@1': interval(.25, .2, .3), 'length': interval(3, 2.5, 3.5)}
  after = before | {'pass@1': interval(.5, .45, .55)}
  gain = {'pass@1': interval(.25, -.01, .51)}
  text = record.table({'before': before, 'after rloo': after, 'gain': gain})
  assert text.split('\n') == [
      '512 held-out problems, 8 samples each: mean [95% interval]',
      '                            before                after rloo'
      '                      gain',
      'pass@1        0.250 [0.200, 0.300]      0.500 [0.450, 0.550]'
      '   +0.250 [-0.010, +0.510]',
      'length        3.000 [2.500, 3.500]      3.000 [2.500, 3.500]']


class Answering:
  """A sampler that knows the answers, and gives them to some samples only."""

  def __init__(self, env, right):
    self.env, self.right, self.calls = env, np.asarray(right, bool), []

  def __call__(self, prompts, row_ids, key, max_tokens=None):
    self.calls.append((np.asarray(prompts.tokens).shape, np.asarray(row_ids)))
    samples = self.right.shape[0]
    limit = 4
    tokens = np.repeat(np.pad(prompts.tokens, ((0, 0), (0, limit))),
                       samples, axis=0)
    mask = np.zeros(tokens.shape, bool)
    length = np.asarray(prompts.length)
    for row in range(len(tokens)):
      start = length[row // samples]
      prompt = BYTE.decode(tokens[row, :start].tolist())
      left, right = prompt[:-1].split('+')
      text = str(int(left) + int(right) + (not self.right[row % samples]))
      ids = BYTE.encode(text) + [BYTE.eos_id]
      tokens[row, start:start + len(ids)] = ids
      mask[row, start:start + len(ids)] = True
    zeros = jnp.zeros(mask.shape)
    return Samples(
        tokens=jnp.asarray(tokens), mask=jnp.asarray(mask), log_probs=zeros,
        policy_log_probs=zeros, entropy=zeros, kept=None,
        length=jnp.asarray(mask.sum(1), jnp.int32),
        truncated=jnp.zeros(len(mask), bool), steps=jnp.int32(limit))


@pytest.fixture(scope='module')
def env():
  return envs.environment('arithmetic', BYTE, 'test', digits=1, size=5)


@pytest.mark.parametrize('prompts, calls', [(2, 3), (5, 1), (8, 1)])
def test_every_problem_is_judged_once(env, prompts, calls):
  sampler = Answering(env, [1, 0, 1])
  result = evaluate.evaluate(
      Generate(sampler, 3), env, 5, prompts, jax.random.key(0))
  # The last call is filled up, so that all have the shape of the first.
  assert [shape for shape, _ in sampler.calls] == [(prompts, 4)] * calls
  assert (result.solved == [[True, False, True]] * 5).all()
  assert result.scored.all() and not result.truncated.any()
  assert ((result.answer[:, 0] == result.answer[:, 2])
          & (result.answer[:, 0] != result.answer[:, 1])).all()
  expected = np.asarray(env.answer(np.arange(5)).length)
  assert (result.length[:, 0] == expected).all()
  assert evaluate.summary(result)['maj@3']['mean'] == 1


def test_more_problems_than_there_are(env):
  sampler = Answering(env, [1])
  with pytest.raises(ValueError, match='evaluation.problems is 6, but task '
                     "'arithmetic' has only 5 held-out problems"):
    evaluate.evaluate(Generate(sampler, 1), env, 6, 2, jax.random.key(0))
  assert not sampler.calls


def test_the_form_of_a_response_solves_nothing():
  zeros = np.zeros((4, 3), np.float32)
  accuracy, form = zeros.copy(), zeros.copy()
  accuracy[1, 2], form[:, 2] = 1., 1.
  extras = dict(verdict=np.asarray([0, 0, 0, 1]), length=np.full(4, 3),
                truncated=np.zeros(4, bool), answer_id=np.asarray([7, 7, 9, 9]))
  rollout = Rollout(
      tokens=np.arange(12).reshape(4, 3), mask=zeros > 1, log_probs=zeros,
      group=np.zeros(4, np.int32),
      rewards=dict(accuracy=accuracy, format=form), extras=extras)
  result = evaluate._judged(rollout, 4)
  assert result.solved.tolist() == [[False, True, False, False]]
  # Equal answers are equal although the responses are not.
  assert result.answer.tolist() == [[7, 7, 9, -1]]
