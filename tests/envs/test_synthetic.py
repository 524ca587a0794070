"""Tasks in pure JAX: right answers by plain Python, splits, bad arguments."""

import importlib
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import types
from policyopt.envs.factory import environment
from policyopt.models.tokenizer import tokenizer

NAMES = ('countdown', 'families', 'lengths', 'modes', 'modular', 'parity',
         'rules', 'sorting')
# The fraction of reference answers that are right.
RATES = {'families': (.4, .65), 'lengths': (.5, .7), 'modes': (.65, .85),
         'rules': (.4, .65)}
IDS = np.arange(160)
WIDTH = 12


def _make(name, split='train', **kwargs):
  module = importlib.import_module(f'policyopt.envs.synthetic.{name}')
  words = tokenizer(f'characters:{module.ALPHABET}')
  return environment(name, words, split, **kwargs), words


def _texts(words, prompts):
  tokens, length = np.asarray(prompts.tokens), np.asarray(prompts.length)
  return [words.decode(row[:n]) for row, n in zip(tokens, length)]


def _responses(words, texts, stop=True):
  rows = [words.encode(text) + [words.eos_id] * stop for text in texts]
  tokens = np.zeros((len(rows), WIDTH), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  return types.Prompts(tokens, np.array([len(row) for row in rows]))


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_reference_answers_are_right_as_often_as_they_should_be(name):
  env, words = _make(name)
  answers = env.answer(IDS)
  texts = _texts(words, answers)
  scores = env.score(IDS, _responses(words, texts))
  low, high = RATES.get(name, (1, 1))
  assert low <= float(scores.rewards['accuracy'].mean()) <= high
  # The same text has the same id, another text another.
  ids = np.asarray(scores.answer)
  assert len(set(ids)) == len(set(texts))
  cut = env.score(IDS, _responses(words, texts, stop=False))
  assert float(cut.rewards['accuracy'].max()) == 0


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_splits_share_no_prompt_and_a_program_may_hold_them(name):
  train, words = _make(name)
  test, _ = _make(name, 'test')
  assert train.pure and test.pure
  shown = set(_texts(words, train.reset(IDS)))
  held_out = set(_texts(words, test.reset(IDS)))
  assert not shown & held_out and len(shown) > 20 and len(held_out) > 3

  @jax.jit
  def both(ids):
    prompts = train.reset(ids)
    return prompts, train.score(ids, train.answer(ids)).rewards

  prompts, rewards = both(jnp.asarray(IDS))
  assert _texts(words, prompts) == _texts(words, train.reset(IDS))
  assert all(x.shape == IDS.shape for x in rewards.values())
  assert prompts.tokens.shape[1] == train.max_prompt


def _value(prompt):
  """A chain from left to right, modulo ten."""
  total = int(prompt[0])
  for sign, digit in zip(prompt[1:-1:2], prompt[2::2]):
    act = {'+': operator.add, '*': operator.mul, '-': operator.sub}[sign]
    total = act(total, int(digit))
  return total


def _solve(name, prompt):
  digits = [int(c) for c in prompt if c.isdigit()]
  text = ''.join(map(str, digits))
  return {
      'sorting': lambda: ''.join(map(str, sorted(digits))),
      'modular': lambda: str(_value(prompt) % 10),
      'parity': lambda: f':{sum(digits) % 2}',
      'rules': lambda: text[::-1] if prompt[0] == 'a' else text,
      'families': lambda: text,
      'lengths': lambda: text + '..',
      'modes': lambda: f'3{(digits[0] - 3) % 10}',
  }[name]()


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'countdown'])
def test_judges_agree_with_plain_python(name):
  env, words = _make(
      name, **({'products': True} if name == 'modular' else {}))
  right = [_solve(name, p) for p in _texts(words, env.reset(IDS))]
  scores = env.score(IDS, _responses(words, right))
  np.testing.assert_array_equal(scores.rewards['accuracy'], 1)
  # Another problem's answer is right only where it is the same.
  other = right[1:] + right[:1]
  judged = env.score(IDS, _responses(words, other)).rewards['accuracy']
  np.testing.assert_array_equal(
      np.asarray(judged) > 0, [a == b for a, b in zip(right, other)])


def test_countdown_accepts_every_chain_that_reaches_the_target():
  env, words = _make('countdown')
  prompts = _texts(words, env.reset(IDS))
  chains = ['{}+{}*{}', '{}-{}+{}', '{}*{}-{}', '{}+{}+{}']
  for chain in chains:
    texts = [chain.format(*p[:3]) for p in prompts]
    judged = env.score(IDS, _responses(words, texts)).rewards['accuracy']
    right = [_value(text + '=') == int(p[4:6])
             for text, p in zip(texts, prompts)]
    np.testing.assert_array_equal(np.asarray(judged) > 0, right)
    assert any(right)
  reused = [p[0] + '+' + p[0] + '+' + p[2] for p in prompts]
  judged = env.score(IDS, _responses(words, reused)).rewards['accuracy']
  same = [p[0] == p[1] and _value(text + '=') == int(p[4:6])
          for text, p in zip(reused, prompts)]
  np.testing.assert_array_equal(np.asarray(judged) > 0, same)


def test_parity_allows_scratch_work_and_one_answer():
  env, words = _make('parity')
  prompts = _texts(words, env.reset(IDS))
  right = [str(p.count('1') % 2) for p in prompts]
  for form, earned in (('0101:{}', 1), (':{}', 1), ('{}', 0), (':{}1', 0),
                       (':1:{}', 0), ('{}:', 0)):
    texts = [form.format(r) for r in right]
    judged = env.score(IDS, _responses(words, texts)).rewards['accuracy']
    np.testing.assert_array_equal(judged, earned, err_msg=form)


def test_brevity_is_what_dots_cost():
  env, words = _make('lengths', dots=4)
  digits = [p[:-1] for p in _texts(words, env.reset(IDS))]
  for dots, brevity in (0, 1.), (1, .75), (4, 0.), (6, 0.):
    scores = env.score(
        IDS, _responses(words, [text + '.' * dots for text in digits]))
    np.testing.assert_array_equal(scores.rewards['accuracy'], 1)
    np.testing.assert_allclose(scores.rewards['brevity'], brevity)


def test_families_have_the_rates_that_they_are_given():
  env, words = _make('families', rates=(0., .3, 1.))
  ids = np.arange(1200)
  family = np.array([p[0] for p in _texts(words, env.reset(ids))])
  answers = _texts(words, env.answer(ids))
  right = np.asarray(
      env.score(ids, _responses(words, answers)).rewards['accuracy'])
  rates = [right[family == letter].mean() for letter in 'abc']
  assert rates[0] == 0 and rates[2] == 1 and abs(rates[1] - .3) < .07


@pytest.mark.parametrize('name, kwargs, message', [
    ('countdown', dict(numbers=1), 'numbers is 1'),
    ('families', dict(rates=(2.,)), 'rates is'),
    ('families', dict(wrong=0), 'wrong is 0'),
    ('lengths', dict(dots=0), 'dots is 0'),
    ('modes', dict(peak=1.5), 'peak is 1.5'),
    ('modular', dict(terms=1), 'terms is 1'),
    ('parity', dict(base=1), 'base is 1'),
    ('rules', dict(rules=5), 'rules is 5'),
    ('sorting', dict(digits=0), 'digits is 0'),
    ('sorting', dict(size=0), 'size is 0'),
    ('sorting', dict(digts=3), 'did you mean'),
])
def test_bad_arguments_are_named(name, kwargs, message):
  with pytest.raises(ValueError, match=message):
    _make(name, **kwargs)


def test_a_tokenizer_without_the_characters_is_refused():
  with pytest.raises(ValueError, match='not in the alphabet'):
    environment('rules', tokenizer('characters:012'))
