"""Walking to a goal on a grid, one move a turn.

What it isolates: CREDIT over turns. The policy writes one move, reads where it
stands, writes the next. All that is rewarded is being at the goal before the
turns are used up, so a detour earns as much as the step that leads there; but
cells are visited again and again, by a row that goes in circles and by the
other rows of the same problem, and each visit has the same state id: what
actions from the same cell lead to can be compared. Reference walks take a
random step with probability `wrong`, so the policy of the warm start knows how
to walk and gets there sometimes. Difficulty: side, walls, turns.

The prompt is the goal, the walls and the start, such as '*03#12@30' for a goal
in row 0 and column 3; replies are the new cell, such as '@20'.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.envs import symbols
from policyopt.envs.symbols import Task, Text, World

ALPHABET = '0123456789udlr*#@'
_UP, _GOAL, _WALL, _HERE = 10, 14, 15, 16
_ROWS, _COLUMNS = (-1, 1, 0, 0), (0, 0, -1, 1)
_NAME = 3  # A sign, a row and a column.


def task(*, side: int = 4, walls: int = 1, turns: int = 8,
         wrong: float = 0.8, cost: float = 0.0) -> Task:
  """The task: walk from the start to the goal with u, d, l and r.

  A move against the edge or a wall, or any other token, uses up its turn and
  leads nowhere.

  Args:
    side: rows and columns of the grid, 3 to 10.
    walls: cells that cannot be entered, 0 to (side - 1)²; they never cut the
      goal off.
    turns: most moves, 1 to 64.
    wrong: fraction of random moves in reference walks.
    cost: of a move, 0 to 1; whoever gets to the goal is refunded what all
      turns would have cost, so a total of 1 or more is a success.

  Returns:
    A Task with the channel 'accuracy', 1 at the move that reaches the goal,
    and, with a cost, 'cost' at each move.

  Raises:
    ValueError: for a number that is out of range.
  """
  symbols.check_range('side', side, 3, 10)
  for name, value, low, high in (
      ('walls', walls, 0, (side - 1) ** 2), ('turns', turns, 1, 64),
      ('wrong', wrong, 0, 1), ('cost', cost, 0, 1)):
    symbols.check_range(name, value, low, high)

  def prompt(problem):
    parts = [_named(_GOAL, problem['goal'], side),
             *(_named(_WALL, cell, side) for cell in problem['walls']),
             _named(_HERE, problem['start'], side)]
    return Text(jnp.concatenate(parts), jnp.int32(_NAME * (walls + 2)))

  def begin(problem):
    return problem['start']

  def step(problem, at, action):
    move = jnp.where(action.length > 0, action.symbols[0], -1) - _UP
    to = moved(problem['walls'], at, move, side)
    there = to == problem['goal']
    earned = {'accuracy': there}
    if cost:
      earned['cost'] = jnp.where(there, cost * turns, 0.) - cost
    return to, earned, there

  def observe(problem, at):
    del problem
    return Text(_named(_HERE, at, side), jnp.int32(_NAME)), at

  def answer(problem):
    return _walk(problem, side, turns, wrong)

  return Task(
      'gridworld', ALPHABET, _NAME * (walls + 2),
      lambda key: _draw(key, side, walls), prompt, answer,
      world=World(turns, 1, _NAME, begin, step, observe))


def moved(walls, at, move, side):
  """The cell that a move leads to: i32[].

  Args:
    walls: i32[W], cells, counted row by row.
    at: i32[], the cell that is left.
    move: i32[], 0 to 3 for u, d, l and r; others lead nowhere.
    side: of the grid.

  Returns:
    The new cell, or the old one if the way is blocked.
  """
  known = (move >= 0) & (move < 4)
  move = jnp.clip(move, 0, 3)
  row = at // side + jnp.asarray(_ROWS)[move]
  column = at % side + jnp.asarray(_COLUMNS)[move]
  to = row * side + column
  inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
  free = known & inside & ~(walls == to).any()
  return jnp.where(free, to, at).astype(jnp.int32)


def _draw(key, side, walls):
  place, apart, turn, block, luck = jax.random.split(key, 5)
  cells = side * side
  goal = jax.random.randint(place, (), 0, cells)
  start = (goal + jax.random.randint(apart, (), 1, cells)) % cells
  # Walls leave one way with a single corner open.
  a, b = jnp.where(
      jax.random.bernoulli(turn), jnp.stack([start, goal]),
      jnp.stack([goal, start]))
  row, column = jnp.arange(cells) // side, jnp.arange(cells) % side
  between = lambda x, a, b: (x >= jnp.minimum(a, b)) & (x <= jnp.maximum(a, b))
  way = ((row == a // side) & between(column, a % side, b % side)
         | (column == b % side) & between(row, a // side, b // side))
  order = jnp.argsort(jnp.where(way, 2., jax.random.uniform(block, (cells,))))
  return dict(
      goal=goal.astype(jnp.int32), start=start.astype(jnp.int32),
      walls=jnp.sort(order[:walls]).astype(jnp.int32),
      luck=jax.random.key_data(luck))


def _walk(problem, side, turns, wrong):
  """A way to the goal, as short as random moves let it be."""
  cells = side * side
  to = jax.vmap(lambda at: jax.vmap(
      lambda move: moved(problem['walls'], at, move, side))(jnp.arange(4)))(
          jnp.arange(cells))
  # Moves that are left: every round the goal is known one cell further away.
  far = jnp.full(cells, cells).at[problem['goal']].set(0)
  far = jax.lax.fori_loop(
      0, cells, lambda _, far: jnp.minimum(far, 1 + far[to].min(axis=1)), far)

  def step(carry, luck):
    at, used = carry
    slip, liking = luck
    # Ties are broken at random.
    move = jnp.argmin(liking + jnp.where(slip < wrong, 0, far[to[at]]))
    walking = at != problem['goal']
    return (to[at, move], used + walking), move

  slips, likes = jax.random.split(jax.random.wrap_key_data(problem['luck']))
  luck = (jax.random.uniform(slips, (turns,)),
          jax.random.uniform(likes, (turns, 4)))
  (_, used), moves = jax.lax.scan(
      step, (problem['start'], jnp.int32(0)), luck)
  return Text(_UP + moves, used)


def _named(sign, cell, side):
  return jnp.stack([jnp.asarray(sign, jnp.int32), cell // side, cell % side])


def environment(
    tokenizer, split: str = 'train', *, side: int = 4, walls: int = 1,
    turns: int = 8, wrong: float = 0.8, cost: float = 0.0, seed: int = 0,
    size: int | None = None) -> types.Environment:
  """The task as an environment; see `task` and `symbols.environment`.

  Args:
    tokenizer: with one token per character of `ALPHABET`.
    split: 'train' or 'test'.
    side: of the grid.
    walls: as in `task`.
    turns: as in `task`.
    wrong: as in `task`.
    cost: as in `task`.
    seed: chooses the stream of problems.
    size: number of problems; None for an endless stream.

  Returns:
    A `types.Environment` with turns.
  """
  return symbols.environment(
      task(side=side, walls=walls, turns=turns, wrong=wrong, cost=cost),
      tokenizer, split, seed=seed, size=size)
