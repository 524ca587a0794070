"""The grid against plain Python: replies, rewards, ways, state ids."""

import collections

import jax
import numpy as np
import pytest

from policyopt import types
from policyopt.envs import turns
from policyopt.envs.factory import environment
from policyopt.envs.synthetic import gridworld
from policyopt.models.tokenizer import tokenizer

WORDS = tokenizer(f'characters:{gridworld.ALPHABET}')
IDS = np.arange(120)
MOVES = dict(u=(-1, 0), d=(1, 0), l=(0, -1), r=(0, 1))


@pytest.fixture(scope='module')
def grid():
  return environment('gridworld', WORDS, side=4, walls=4, turns=6, wrong=.7)


def texts(prompts):
  tokens, length = np.asarray(prompts.tokens), np.asarray(prompts.length)
  return [WORDS.decode(row[:n]) for row, n in zip(tokens, length)]


def prompts_of(rows):
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row)] = row
  return types.Prompts(tokens, np.array([len(row) for row in rows], np.int32))


def read(prompt):
  """Goal, walls and start of '*rc#rc...@rc'."""
  cells = [(int(a), int(b)) for a, b in zip(prompt[1::3], prompt[2::3])]
  assert set(prompt[3:-3:3]) <= {'#'} and prompt[0] + prompt[-3] == '*@'
  return cells[0], cells[1:-1], cells[-1]


def go(at, move, walls, side=4):
  row, column = (a + b for a, b in zip(at, MOVES.get(move, (0, 0))))
  inside = 0 <= row < side and 0 <= column < side
  return (row, column) if inside and (row, column) not in walls else at


def distance(goal, walls, start):
  seen, queue = {start: 0}, collections.deque([start])
  while queue:
    at = queue.popleft()
    for move in MOVES:
      to = go(at, move, walls)
      if to not in seen:
        seen[to] = seen[at] + 1
        queue.append(to)
  return seen[goal]


def walk(prompt, moves, limit=6):
  """The conversation, what it earned, and the cells before each move."""
  goal, walls, at = read(prompt)
  text, cells = '', []
  for turn, move in enumerate(moves):
    cells.append(at)
    at = go(at, move, walls)
    text += move
    if at == goal or turn == limit - 1:
      return text, float(at == goal), cells
    text += f'@{at[0]}{at[1]}'
  return text[:-3], 0., cells


@pytest.mark.slow
def test_reference_walks_are_what_plain_python_says(grid):
  prompts, answers = texts(grid.reset(IDS)), grid.answer(IDS)
  scores = grid.score(IDS, answers)
  heard = turns.replay(grid.turns, IDS, answers)
  revisited = 0
  for i, (prompt, text) in enumerate(zip(prompts, texts(answers))):
    goal, walls, start = read(prompt)
    assert len({goal, start, *walls}) == 6 and distance(goal, walls, start)
    said, earned, cells = walk(prompt, text[::4])
    assert said == text and earned == scores.rewards['accuracy'][i]
    # Chosen are the moves, each with the cell that it was made in.
    chosen = np.zeros(answers.tokens.shape[1], bool)
    chosen[0:len(text):4] = True
    np.testing.assert_array_equal(heard.chosen[i], chosen)
    ids = np.asarray(heard.state_id[i])
    assert ids[chosen].tolist() == [4 * row + column for row, column in cells]
    assert (ids[~chosen] == -1).all()
    assert heard.turn[i][chosen].tolist() == list(range(len(cells)))
    assert np.flatnonzero(heard.rewards['accuracy'][i]).tolist() == (
        [len(text) - 1] if earned else [])
    revisited += len(set(cells)) < len(cells)
  assert .3 < float(scores.rewards['accuracy'].mean()) < .8
  assert revisited > 20


def test_any_moves_lead_where_plain_python_goes(grid):
  rng = np.random.default_rng(0)
  prompts = texts(grid.reset(IDS))
  # Signs that are no moves use up their turn, as does the stop token.
  moves = rng.choice(list('udlr@3'), (len(IDS), 6))
  moves[rng.random(moves.shape) < .1] = '.'
  script = types.Prompts(np.array(
      [[WORDS.eos_id if m == '.' else WORDS.encode(m)[0] for m in row]
       for row in moves], np.int32), np.full(len(IDS), 6, np.int32))
  rows = turns.follow(grid.turns, IDS, script)
  earned = grid.score(IDS, rows).rewards['accuracy']
  for i, prompt in enumerate(prompts):
    said, reward, _ = walk(prompt, ''.join(moves[i]))
    tokens = np.asarray(rows.tokens[i])[:rows.length[i]].tolist()
    shown = ''.join(
        '.' if t == WORDS.eos_id else WORDS.decode([t]) for t in tokens)
    assert shown == said and reward == earned[i]
  assert 0 < float(earned.sum()) < len(IDS)
  # What is written into a reply or after the end changes nothing.
  forged = np.array(rows.tokens)
  forged[:, 1::4] = WORDS.encode('7')[0]
  judged = grid.score(IDS, types.Prompts(forged, rows.length * 0 + 21))
  np.testing.assert_array_equal(judged.rewards['accuracy'], earned)


def test_the_shortest_way_and_its_price():
  env = environment('gridworld', WORDS, 'test', side=4, walls=9, turns=9,
                    wrong=0, cost=.1)
  prompts, answers = texts(env.reset(IDS)), texts(env.answer(IDS))
  steps = np.array([distance(*read(prompt)) for prompt in prompts])
  assert [len(text[::4]) for text in answers] == steps.tolist()
  rewards = env.score(IDS, env.answer(IDS)).rewards
  np.testing.assert_array_equal(rewards['accuracy'], 1)
  np.testing.assert_allclose(rewards['cost'], .1 * (9 - steps), atol=1e-6)
  lost = env.score(IDS, prompts_of([WORDS.encode('@@01')] * len(IDS)))
  np.testing.assert_allclose(lost.rewards['cost'], -.1, atol=1e-6)


def test_splits_share_no_prompt_and_a_program_may_hold_them(grid):
  shown = set(texts(grid.reset(IDS)))
  test = environment('gridworld', WORDS, 'test', side=4, walls=4)
  held_out = set(texts(test.reset(IDS)))
  assert not shown & held_out and len(shown) > 60 and len(held_out) > 60
  assert grid.pure and not grid.answer_ids and grid.max_prompt == 18
  tokens = jax.jit(lambda ids: grid.answer(ids).tokens)(IDS)
  np.testing.assert_array_equal(tokens, grid.answer(IDS).tokens)


@pytest.mark.parametrize('kwargs, message', [
    (dict(side=2), 'side is 2'), (dict(side=11), 'side is 11'),
    (dict(side=3, walls=5), 'walls is 5; it must be 0 to 4'),
    (dict(turns=0), 'turns is 0'), (dict(wrong=1.5), 'wrong is 1.5'),
    (dict(cost=-1), 'cost is -1'), (dict(size=0), 'size is 0'),
    (dict(turn=3), 'did you mean')])
def test_bad_arguments_are_named(kwargs, message):
  with pytest.raises(ValueError, match=message):
    environment('gridworld', WORDS, **kwargs)
