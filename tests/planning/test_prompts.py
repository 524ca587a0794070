"""Prompt planners: whole epochs, and a state that resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import planning


def _take(planner, state, counts, seed=0):
  prompts = []
  for i, count in enumerate(counts):
    key = jax.random.fold_in(jax.random.key(seed), i)
    plan, state = planner.propose(state, count, key)
    prompts += plan.prompt.tolist()
  return prompts, state


@pytest.mark.parametrize('size, count, steps', [
    (5, 5, 2), (3, 7, 6), (1, 2, 3), (6, 4, 9)])
def test_every_epoch_holds_every_problem_once(size, count, steps):
  planner = planning.uniform_prompts()
  prompts, _ = _take(planner, planner.init(size), [count] * steps)
  whole = len(prompts) // size * size
  epochs = np.reshape(prompts[:whole], (-1, size))
  assert len(epochs) >= 1
  np.testing.assert_array_equal(
      np.sort(epochs, 1), np.tile(np.arange(size), (len(epochs), 1)))


def test_epochs_differ_and_the_first_is_shuffled():
  planner = planning.uniform_prompts()
  prompts, _ = _take(planner, planner.init(50), [25] * 4)
  assert prompts[:50] != sorted(prompts[:50])
  assert prompts[:50] != prompts[50:]
  other, _ = _take(planner, planner.init(50), [25] * 4, seed=1)
  assert prompts != other


def test_problems_without_an_end_come_one_after_the_other():
  planner = planning.uniform_prompts(samples=3)
  prompts, state = _take(planner, planner.init(None), [4, 4])
  assert prompts == list(range(8))
  plan, _ = planner.propose(state, 2, jax.random.key(0))
  assert plan.samples.tolist() == [3, 3]
  assert plan.hint.tolist() == [0, 0]
  assert plan.max_tokens.tolist() == [0, 0]


def test_a_restored_state_goes_on_where_it_stopped():
  planner = planning.uniform_prompts()
  _, state = _take(planner, planner.init(7), [3, 3])
  restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
  one, _ = _take(planner, state, [3, 3, 3], seed=5)
  two, _ = _take(planner, restored, [3, 3, 3], seed=5)
  assert one == two


def test_proposals_compile_once():
  planner = planning.uniform_prompts()
  traces = []

  def propose(state, key):
    traces.append(1)
    return planner.propose(state, 3, key)

  compiled, state, prompts = jax.jit(propose), planner.init(5), []
  for i in range(5):
    plan, state = compiled(state, jax.random.key(i))
    prompts += plan.prompt.tolist()
  assert len(traces) == 1
  assert sorted(prompts) == sorted(list(range(5)) * 3)


def test_oversample_proposes_for_every_round():
  planner = planning.oversample(planning.uniform_prompts(), 3)
  prompts, state = _take(planner, planner.init(8), [2, 2])
  assert len(prompts) == 12
  assert sorted(prompts[:8]) == list(range(8))
  assert planner.update(state, None) is state


def test_impossible_arguments_are_refused():
  with pytest.raises(ValueError, match='rounds is 0'):
    planning.oversample(planning.uniform_prompts(), 0)
  with pytest.raises(ValueError, match='size is 0'):
    planning.uniform_prompts().init(0)
