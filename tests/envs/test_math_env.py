"""Problems from files as an environment."""

import json

import jax
import numpy as np
import pytest

from policyopt import envs, types
from policyopt.data import write_tfds
from policyopt.envs import factory, math
from policyopt.models import tokenizer
from policyopt.planning import uniform_prompts
from tests.envs import problem_files as files

BYTE = tokenizer.byte_tokenizer()
IDS = np.arange(4)


def chat(messages, **variables):
  text = ''.join(f'[{m["role"]}]{m["content"]}' for m in messages)
  end = '[think]' if variables.get('thinking') else '[assistant]'
  return BYTE.encode(text + end)


CHAT = BYTE._replace(chat=chat)


def make(name, path, split='train', words=BYTE, **kwargs):
  return envs.environment(name, words, split, path=path,
                          **{'workers': 0, **kwargs})


def responses(*texts):
  rows = [BYTE.encode(t) + [BYTE.eos_id] for t in texts]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  return types.Prompts(tokens, np.asarray([len(r) for r in rows], np.int32))


def prompts(env, ids=IDS):
  return [BYTE.decode(t[:n]) for t, n in zip(*env.reset(ids))]


def answers(env, ids=IDS):
  return [BYTE.decode(t[:n]) for t, n in zip(*env.answer(ids))]


@pytest.fixture(scope='module')
def gsm8k(tmp_path_factory):
  return files.folder(tmp_path_factory.mktemp('gsm8k'), files.gsm8k, 12, 6)


@pytest.mark.parametrize('name', ['gsm8k', 'math500', 'aime24'])
@pytest.mark.parametrize('split, size', [('train', 12), ('test', 6)])
def test_references_judge_themselves_correct(tmp_path, name, split, size):
  path = files.folder(tmp_path, getattr(files, name), 12, 6)
  env = make(name, path, split)
  assert (env.name, env.size) == (name, size) and env.max_prompt % 8 == 0
  ids = np.arange(size)
  scores = env.score(ids, env.answer(ids))
  assert scores.rewards['accuracy'].tolist() == [1.] * size
  assert set(scores.rewards) == {'accuracy'} and not scores.verdict.any()
  assert (scores.answer >= 0).all()
  env.close()


def test_prompts_and_references(gsm8k):
  env = make('gsm8k', gsm8k)
  assert prompts(env, [2]) == [
      files.gsm8k(2)['question'] + "\nLet's think step by step and output the "
      'final answer after "####".\n']
  assert answers(env, [2]) == ['She packs 5 * 4 = 20 pens.\n#### 20']
  kept = make('gsm8k', gsm8k, annotations=True)
  assert answers(kept, [2])[0] == files.gsm8k(2)['answer']
  short = make('gsm8k', gsm8k, worked=False)
  assert answers(short, [2]) == ['#### 20']


def test_a_solution_without_its_answer_gets_it(tmp_path):
  env = make('aime24', files.folder(tmp_path, files.aime24, 3, 3), split='test')
  # \framebox counts as a box, but an end without one does not.
  assert answers(env, [0]) == [files.aime24(3)['solution']]
  rows = [dict(files.math500(3), solution='Clear.')]
  path = tmp_path / 'own.jsonl'
  path.write_text(json.dumps(rows[0]) + '\n')
  env = make('math500', str(path), split='test', held_out=1.)
  assert answers(env, [0]) == ['Clear.\n\\boxed{3}']


def test_the_chat_template_makes_the_ids(gsm8k):
  env = make('gsm8k', gsm8k, words=CHAT, system='Be brief.',
             template='{question} Go.', chat_kw={'thinking': True})
  assert prompts(env, [0]) == [
      f'[system]Be brief.[user]{files.gsm8k(0)["question"]} Go.[think]']
  plain = make('gsm8k', gsm8k, words=CHAT, chat=False, template='{question}')
  assert prompts(plain, [0]) == [files.gsm8k(0)['question'] + '\n']


def test_prompts_are_made_once(gsm8k):
  made = []
  def encode(text):
    made.append(text)
    return BYTE.encode(text)
  env = make('gsm8k', gsm8k, words=BYTE._replace(encode=encode))
  first = env.reset(IDS).tokens
  count = len(made)
  np.testing.assert_array_equal(env.reset(IDS).tokens, first)
  np.testing.assert_array_equal(env.reset(IDS[::-1]).tokens, first[::-1])
  assert len(made) == count == 12


def test_scores_and_answer_ids(gsm8k):
  env = make('gsm8k', gsm8k, format='hashes', format_weight=0.2)
  total = 3 * 2  # Of problem 0.
  texts = [f'3*2\n#### {total}', f'####{total}.0', '#### 7', '#### 7.00',
           f'it is {total}', '']
  scores = env.score(np.zeros(6, int), responses(*texts))
  assert scores.rewards['accuracy'].tolist() == [1., 1., 0., 0., 0., 0.]
  np.testing.assert_allclose(
      scores.rewards['format'], [.2, .2, .2, .2, 0., 0.])
  a = scores.answer.tolist()
  assert a[0] == a[1] != a[2] == a[3] >= 0 and a[4] == a[5] == -1


def test_any_stop_token_ends_a_response(gsm8k):
  words = BYTE._replace(other_stops=(200,))
  env = make('gsm8k', gsm8k, words=words)
  row = BYTE.encode('#### 6') + [200] + BYTE.encode(' 7')
  rows = types.Prompts(np.asarray([row], np.int32), np.asarray([len(row)]))
  assert env.score([0], rows).rewards['accuracy'].tolist() == [1.]


def test_a_hanging_judge_is_a_verdict(gsm8k):
  env = make('gsm8k', gsm8k, workers=1, timeout_s=1., verifier='time:sleep')
  try:
    verdict = env.score([0], responses('#### 6')).verdict
  finally:
    env.close()
  # time.sleep takes one argument: a crash of the row, and of nothing else.
  assert verdict.tolist() == [2]


def test_own_data_by_two_fields_and_a_verifier(tmp_path):
  path = files.write(tmp_path / 'own.jsonl', files.own, 40)
  kwargs = dict(question='prompt', answer='target', verifier='exact',
                held_out=0.25)
  train, test = (make('jsonl', path, s, **kwargs) for s in ('train', 'test'))
  both = [set(prompts(env, np.arange(env.size))) for env in (train, test)]
  assert train.size + test.size == 40 and not both[0] & both[1]
  i = int(prompts(test, [0])[0].split()[-1].rstrip('?'))
  assert test.score([0], responses(f' city{i}.')).rewards[
      'accuracy'].tolist() == [1.]
  few = make('jsonl', path, where={'n': (3, 4, 5)}, **{**kwargs, 'held_out': 0})
  assert few.size == 3
  assert make('jsonl', path, size=2, **kwargs).size == 2


def test_two_files(tmp_path):
  kwargs = dict(question='prompt', answer='target', verifier='exact',
                test_path=files.write(tmp_path / 'b.jsonl', files.own, 5, 50))
  path = files.write(tmp_path / 'a.jsonl', files.own, 9)
  assert make('jsonl', path, 'train', **kwargs).size == 9
  assert prompts(make('jsonl', path, 'test', **kwargs), [0]) == [
      'Capital of country 50?\n']


@pytest.mark.filterwarnings('ignore')  # Of the library.
def test_a_data_set_of_tfds(tmp_path):
  splits = {'train': [files.gsm8k(i) for i in range(6)],
            'test': [files.gsm8k(i) for i in range(6, 9)]}
  write_tfds(str(tmp_path), 'pens', splits, fields=('question', 'answer'))
  kwargs = dict(verifier='gsm8k', answer_in='hashes', solution='answer')
  env = make('tfds:pens', str(tmp_path), 'test', **kwargs)
  assert env.size == 3 and env.name == 'tfds:pens'
  scores = env.score(np.arange(3), env.answer(np.arange(3)))
  assert scores.rewards['accuracy'].tolist() == [1.] * 3


def test_long_prompts_are_refused_or_counted(gsm8k):
  lengths = make('gsm8k', gsm8k).reset(np.arange(12)).length
  limit = int(np.sort(lengths)[5])
  long = int((lengths > limit).sum())
  with pytest.raises(ValueError, match=f'{long} of 12 prompts .* raise max_p'):
    make('gsm8k', gsm8k, max_prompt=limit)
  with pytest.warns(UserWarning, match=f'{long} of 12 prompts .* left out'):
    env = make('gsm8k', gsm8k, max_prompt=limit, too_long='drop')
  assert env.size == 12 - long and env.max_prompt == limit
  ids = np.arange(env.size)
  assert env.score(ids, env.answer(ids)).rewards['accuracy'].all()
  with pytest.raises(ValueError, match='12 of 12 prompts'):
    make('gsm8k', gsm8k, max_prompt=3, too_long='drop')


def test_a_planner_goes_through_an_epoch_and_resumes(gsm8k):
  env = make('gsm8k', gsm8k)
  planner = uniform_prompts()
  def walk(state, steps):
    seen = []
    for step in steps:
      plan, state = planner.propose(
          state, 4, jax.random.fold_in(jax.random.key(0), step))
      seen += prompts(env, plan.prompt)
    return seen, state
  whole, _ = walk(planner.init(env.size), range(6))
  first, state = walk(planner.init(env.size), range(2))
  rest, _ = walk(jax.tree.map(np.asarray, state), range(2, 6))
  assert first + rest == whole
  assert len(set(whole[:12])) == len(set(whole[12:])) == 12
  assert whole[:12] != whole[12:]


@pytest.mark.parametrize('kwargs, message', [
    (dict(path=None), r'path of task .gsm8k. is not set: .*task_kw\.path'),
    (dict(path='/nowhere'), 'is one file for both splits'),
    (dict(path='/nowhere', held_out=.1), 'nowhere cannot be read'),
    (dict(split='dev'), "unknown split 'dev'"),
    (dict(question='problem'), "no field 'problem'; it has answer, question"),
    (dict(verifier='gsm9k'), "unknown verifier 'gsm9k': did you mean 'gsm8k'"),
    (dict(answer_in='boxed'), r'line 1: no reference answer for the verifier'),
    (dict(answer_in='hash'), "unknown answer_in 'hash'"),
    (dict(format='boxd'), "unknown format 'boxd'"),
    (dict(format_weight=1.), 'format_weight is 1.0'),
    (dict(template='Go.'), "template is 'Go.'"),
    (dict(chat=True), "tokenizer 'byte' has no chat template"),
    (dict(chat_kw={'thinking': True}), 'there is no chat template'),
    (dict(too_long='cut'), "too_long is 'cut'"), (dict(size=13), 'size is 13'),
    (dict(where={'level': 3}), "no field 'level'"),
    (dict(pth='x'), "unknown argument of gsm8k 'pth'")])
def test_wrong_arguments_in_one_line(gsm8k, kwargs, message):
  path = kwargs.pop('path', gsm8k)
  with pytest.raises(ValueError, match=message) as caught:
    make('gsm8k', path, **kwargs)
  assert '\n' not in str(caught.value)


def test_wrong_places(tmp_path, gsm8k):
  files.write(tmp_path / 'test.jsonl', files.math500, 5)
  with pytest.raises(ValueError, match="no 'train' split .* has test: gi"):
    make('math500', str(tmp_path))
  assert make('math500', str(tmp_path), 'test').size == 5
  with pytest.raises(ValueError, match=r'problem 12 is not in \[0, 12\)'):
    make('gsm8k', gsm8k).reset([12])
  with pytest.raises(ValueError, match="must be 'tfds:NAME'"):
    factory.environment('tfds', BYTE, path=str(tmp_path))


def test_every_set_is_a_task():
  assert set(math.SETS) == {
      name for name, module in factory.TASKS.items() if module == 'math'}
