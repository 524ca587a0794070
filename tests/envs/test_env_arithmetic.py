"""The pure-JAX task: right arithmetic, split by question, and traceable."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import types
from policyopt.envs import arithmetic
from policyopt.models import tokenizer

BYTE = tokenizer.byte_tokenizer()
IDS = jnp.arange(512)


@functools.cache
def make(digits, operators, **kwargs):
  """Shared between tests: each environment compiles programs of its own."""
  return arithmetic.environment(
      BYTE, digits=digits, operators=operators, **kwargs)


def texts(prompts):
  return [BYTE.decode(t[:n]) for t, n in zip(
      np.asarray(prompts.tokens), np.asarray(prompts.length))]


@pytest.mark.parametrize('digits, operators', [
    (2, ('+', '-')), (4, ('*', '-'))])
def test_problems_and_answers(digits, operators):
  env = make(digits, operators)
  prompts, answers = env.reset(IDS), env.answer(IDS)
  assert prompts.tokens.shape == (512, env.max_prompt)
  seen = set()
  for question, answer in zip(texts(prompts), texts(answers)):
    a, op, b = re.fullmatch(
        rf'(\d{{1,{digits}}})([-+*])(\d{{1,{digits}}})=', question).groups()
    assert str(int(a)) == a and str(int(b)) == b
    assert str(eval(f'{a}{op}{b}')) == answer  # pylint: disable=eval-used
    seen.add(op)
  assert seen == set(operators)
  last = np.asarray(answers.length)[:, None] - 1
  assert (np.take_along_axis(np.asarray(answers.tokens), last, 1)
          == BYTE.eos_id).all()
  np.testing.assert_array_equal(env.score(IDS, answers).rewards['accuracy'], 1)


def test_splits_share_no_question():
  questions = {}
  for split in arithmetic.SPLITS:
    env = arithmetic.environment(
        BYTE, split, digits=1, seed=int(split == 'test'))
    questions[split] = set(texts(env.reset(jnp.arange(4096))))
  assert not questions['train'] & questions['test']
  assert len(questions['train'] | questions['test']) == 100
  assert len(questions['test']) > 4


def test_problem_depends_on_seed_and_id_alone():
  env = make(2, ('+', '-'))
  tokens = env.reset(IDS).tokens
  np.testing.assert_array_equal(
      env.reset(IDS[::-1]).tokens, tokens[::-1])
  np.testing.assert_array_equal(env.reset(IDS[5:7]).tokens, tokens[5:7])
  other = make(2, ('+', '-'), seed=1).reset(IDS).tokens
  assert (other != tokens).any(axis=1).mean() > 0.9


def test_scores_need_the_whole_answer_and_nothing_else():
  env = make(2, ('+', '-'))
  answer = texts(env.answer(IDS))[0]
  cases = {
      answer + '$': 1., answer: 1., answer + '$junk': 1., answer + '0$': 0.,
      answer[:-1] + '$': 0., '0' + answer + '$': 0., '$' + answer: 0., '': 0.}
  rows = [[BYTE.eos_id if c == '$' else BYTE.encode(c)[0] for c in text]
          for text in cases]
  tokens = np.full((len(rows), 12), 60, np.int32)  # Garbage as padding.
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  responses = types.Prompts(tokens, np.asarray([len(r) for r in rows]))
  scores = env.score(jnp.zeros(len(rows), jnp.int32), responses)
  assert scores.rewards['accuracy'].tolist() == list(cases.values())
  assert not scores.verdict.any()
  # Rows that say the same up to the stop token give the same answer.
  same = dict(zip(cases, scores.answer.tolist(), strict=True))
  assert same[answer + '$'] == same[answer] == same[answer + '$junk'] >= 0
  assert same['$' + answer] == same[''] == -1
  assert len(set(same.values())) == 5
  narrow = types.Prompts(tokens[:, :1], np.minimum(responses.length, 1))
  assert not env.score(
      jnp.zeros(len(rows), jnp.int32), narrow).rewards['accuracy'].any()


def test_reset_and_score_trace():
  env = make(2, ('+', '-'))

  @jax.jit
  def both(ids):
    return env.reset(ids), env.score(ids, env.answer(ids))

  prompts, scores = both(IDS)
  np.testing.assert_array_equal(prompts.tokens, env.reset(IDS).tokens)
  assert scores.rewards['accuracy'].mean() == 1.
  assert scores.verdict.dtype == jnp.int32


@pytest.mark.parametrize('kwargs, message', [
    (dict(split='dev'), "unknown split 'dev'"), (dict(digits=5), '1 to 4'),
    (dict(operators=('/',)), "unknown operator '/'"),
    (dict(operators=('+', '+')), 'each once')])
def test_wrong_arguments(kwargs, message):
  with pytest.raises(ValueError, match=message):
    arithmetic.environment(BYTE, **kwargs)


def test_a_tokenizer_without_digits_is_refused():
  pairs = BYTE._replace(name='pairs', encode=lambda text: [7, 7])
  with pytest.raises(ValueError, match=r"pairs encodes '0' as \[7, 7\]"):
    arithmetic.environment(pairs)
