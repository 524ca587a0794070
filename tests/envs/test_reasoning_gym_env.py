"""Problems of reasoning-gym: stable, split by question, judged by its owner."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import reasoning_gym

from policyopt import types
from policyopt.envs import reasoning_gym as env_module
from policyopt.envs import verifiers
from policyopt.models import tokenizer

BYTE = tokenizer.byte_tokenizer()
SHORT = (('State the final answer to the following arithmetic problem: ', ''),)


def chain_sum(split='train', **kwargs):
  kwargs = {'workers': 0, 'replace': SHORT, 'max_terms': 2, 'max_digits': 1,
            **kwargs}
  return env_module.environment('chain_sum', BYTE, split, **kwargs)


def prompts(env, ids):
  return [BYTE.decode(row) for row in env.reset(ids).tokens]


def responses(*texts, stop=True):
  rows = [BYTE.encode(t) + [BYTE.eos_id] * stop for t in texts]
  width = max(map(len, rows)) + 2
  tokens = np.zeros((len(rows), width), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  return types.Prompts(tokens, np.asarray([len(r) for r in rows], np.int32))


def test_prompts_are_padded_text():
  env = chain_sum(template='Q: {question} A:')
  out = env.reset(np.arange(5))
  assert out.tokens.shape == (5, env.max_prompt) and env.max_prompt % 8 == 0
  assert out.tokens.dtype == out.length.dtype == np.int32
  for tokens, length in zip(out.tokens, out.length):
    text = BYTE.decode(tokens[:length])
    assert text.startswith('Q: ') and text.endswith(' = A:')
    assert (tokens[length:] == BYTE.pad_id).all()


def test_problem_does_not_depend_on_the_order_of_calls():
  ids = [0, 5000, 3, 10 ** 9, 1023, 1024]
  first = prompts(chain_sum(), ids)
  env = chain_sum()
  assert prompts(env, ids[::-1]) == first[::-1]
  assert [prompts(env, [i])[0] for i in ids] == first
  assert len(set(prompts(chain_sum(max_digits=4), range(100)))) > 90


def test_problems_are_the_same_in_another_process():
  program = textwrap.dedent("""
      from policyopt.envs import reasoning_gym
      from policyopt.models import tokenizer
      env = reasoning_gym.environment(
          'chain_sum', tokenizer.byte_tokenizer(), workers=0)
      print(env.reset([7, 2000]).tokens.tolist())
      """)
  out = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      check=True, timeout=120,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path),
           'PYTHONHASHSEED': '7'}).stdout
  env = env_module.environment('chain_sum', BYTE, workers=0)
  assert out.strip() == str(env.reset([7, 2000]).tokens.tolist())


@pytest.mark.parametrize('seeds', [(0, 0), (1, 0)])
def test_splits_share_no_question_even_in_a_small_space(seeds):
  train = set(prompts(chain_sum(seed=seeds[0]), range(3000)))
  test = set(prompts(chain_sum('test', seed=seeds[1]), range(600)))
  assert not train & test
  # 200 questions exist; both splits are seen nearly whole.
  assert len(train) + len(test) > 190
  assert 10 < len(test) < 50


def test_without_disjoint_the_splits_share_no_seed():
  seeds = {}
  for split in env_module._TRIES:
    seeds[split] = set()
    for seed in (0, 1, 127, 128, 10 ** 6):
      stream = env_module._Stream('chain_sum', {}, split, seed, False)
      for block in (0, 1, 2 ** 17 - 1):
        dataset = stream._block(block * env_module._TRIES[split])
        seeds[split] |= {dataset.seed, dataset.seed + len(dataset) - 1}
  assert max(seeds['train']) < 2 ** 31 <= min(seeds['test'])
  assert max(seeds['test']) < 2 ** 32


def test_seed_chooses_the_stream():
  assert prompts(chain_sum(seed=1), range(20)) != prompts(
      chain_sum(), range(20))


def test_a_space_without_held_out_questions_is_an_error(monkeypatch):
  monkeypatch.setattr(env_module, 'split_of', lambda question: 'train')
  with pytest.raises(ValueError, match='none of 256 questions belongs to the '
                     'test split'):
    chain_sum('test')
  assert chain_sum('test', disjoint=False).reset([0]).length > 0


def test_answers_score_one_and_others_the_score_of_the_dataset():
  env = chain_sum()
  ids = [3, 4, 5]
  scores = env.score(ids, env.answer(ids))
  assert scores.rewards['accuracy'].tolist() == [1., 1., 1.]
  assert scores.verdict.tolist() == [0, 0, 0]
  problem = env_module._Problems(
      'x', env_module._Stream(
          'chain_sum', dict(max_terms=2, max_digits=1), 'train', 0, True),
      None, BYTE, '{question}', ())(3)
  right = problem.entry['answer']
  dataset = reasoning_gym.create_dataset('chain_sum', seed=0, size=1)
  texts = [f'  {right} ', f'{right}.0', f'x{right}', '', '777']
  scores = env.score([3] * 5, responses(*texts))
  assert scores.rewards['accuracy'].tolist() == pytest.approx([
      dataset.score_answer(t.strip(), problem.entry) for t in texts])
  assert env.score([3], responses(right, stop=False)).rewards[
      'accuracy'].tolist() == [1.]


def test_exact_knows_only_right_and_wrong():
  partial, exact = chain_sum(), chain_sum(exact=True)
  right = BYTE.decode(partial.answer([0]).tokens[0])
  rows = responses(f'{right} or so', right)
  first, second = partial.score([0, 0], rows).rewards['accuracy'].tolist()
  assert 0 < first < 1 == second
  assert exact.score([0, 0], rows).rewards['accuracy'].tolist() == [0., 1.]


def test_equal_answers_are_known_without_their_text():
  env = chain_sum()
  scores = env.score([0, 1, 2, 3, 4], responses('7', ' 7 ', '', '8', '7.'))
  seven, spaced, nothing, eight, dotted = scores.answer.tolist()
  assert env.answer_ids and scores.answer.dtype == np.int32
  assert seven == spaced >= 0 and nothing == -1
  assert len({seven, nothing, eight, dotted}) == 4


def test_worker_processes_score_alike():
  with verifiers.VerifierPool(env_module.SCORER, workers=1) as pool:
    train, test = chain_sum(pool=pool), chain_sum('test', pool=pool)
    for env in (train, test):
      ids = np.arange(40)
      answers = env.answer(np.roll(ids, 1))
      here = chain_sum('test' if env is test else 'train').score(ids, answers)
      there = env.score(ids, answers)
      assert 0 < there.rewards['accuracy'].mean() < 1
      np.testing.assert_array_equal(
          here.rewards['accuracy'], there.rewards['accuracy'])
      env.close()  # Leaves a shared pool open.
    assert pool.counts['scored'] == 80


def test_a_row_whose_verifier_crashes_is_told_apart(monkeypatch):
  env = chain_sum()
  dataset = reasoning_gym.factory.DATASETS['chain_sum'][0]
  score = dataset.score_answer
  def crash(self, answer, entry):
    if answer == 'bad':
      raise RecursionError
    return score(self, answer, entry)
  monkeypatch.setattr(dataset, 'score_answer', crash)
  scores = env.score([0, 0], responses('bad', 'wrong'))
  assert scores.verdict.tolist() == [2, 0]
  assert scores.rewards['accuracy'].tolist()[0] == 0.


def test_size_limits_the_ids():
  env = chain_sum(size=10)
  assert env.size == 10 and chain_sum().size is None
  env.reset([9])
  for i in (10, -1):
    with pytest.raises(ValueError, match=rf'problem {i} is not in \[0, 10\)'):
      env.reset([i])


def test_a_long_prompt_names_item_and_lengths():
  env = chain_sum(max_prompt=3)
  with pytest.raises(
      ValueError, match='problem 2 has 8 tokens, but max_prompt is 3'):
    env.reset([2])


@pytest.mark.parametrize('args, kwargs, message', [
    (('chain_sums',), {}, "unknown reasoning_gym dataset.*'chain_sum'"),
    (('chain_sum', 'tset'), {}, "unknown split 'tset'.*'test'"),
    (('chain_sum',), dict(max_term=3), "'max_term'.*'max_terms'"),
    (('chain_sum',), dict(max_terms=1), 'max_terms must be >= min_terms'),
    (('chain_sum',), dict(template='Q'), "template is 'Q'")])
def test_wrong_arguments(args, kwargs, message):
  dataset, *split = args
  with pytest.raises(ValueError, match=message):
    env_module.environment(dataset, BYTE, *split, workers=0, **kwargs)


def test_generators_that_depend_on_string_hashes_warn(monkeypatch):
  monkeypatch.setenv('PYTHONHASHSEED', 'random')
  with pytest.warns(UserWarning, match='PYTHONHASHSEED=0'):
    env_module.environment('ransom_note', BYTE, workers=0, size=1)
  monkeypatch.setenv('PYTHONHASHSEED', '0')
  env_module.environment('ransom_note', BYTE, workers=0, size=1)


def test_global_random_generators_are_left_alone():
  np.random.seed(0)
  expected = np.random.get_state()[1].tolist()
  def problem():
    env = env_module.environment('pool_matrix', BYTE, workers=0, size=1)
    return env.reset([0]).tokens.tolist()
  assert problem() == problem()
  assert np.random.get_state()[1].tolist() == expected
