"""A rollout in chunks: one is judged while the next is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.rollouts import group
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.types import Environment, Plan, Prompts, Scores

SAMPLES, ROOM = 3, 4


@pytest.fixture(scope='module')
def parts(config, params, prompts):
  """A real sampler, a judge that counts even tokens, and what was called."""
  calls = []
  sampler = SamplerConfig(max_tokens=ROOM, stop_tokens=(3,))
  draw = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')

  def apply(prompts, row_ids, key, max_tokens):
    calls.append(('draw', sorted(set(row_ids // group.MAX_SAMPLES))))
    return draw(
        config, sampler, params, Prompts(*map(jnp.asarray, prompts)), key,
        samples=SAMPLES, row_ids=jnp.asarray(row_ids),
        max_tokens=jnp.asarray(max_tokens))

  def reset(problem):
    return Prompts(*(np.asarray(x)[np.asarray(problem)] for x in prompts))

  def score(problem, responses):
    calls.append(('judge', sorted(set(problem.tolist()))))
    even = (responses.tokens % 2 == 0) & (
        np.arange(ROOM)[None] < responses.length[:, None])
    # One problem cannot be judged, and one is flat.
    return Scores({'even': np.where(problem == 1, 0, even.sum(1))},
                  np.where(problem == 2, 1, 0), np.arange(len(problem)))

  env = Environment('even', 4, prompts.tokens.shape[1], reset, score,
                    answer_ids=True)
  return group.Generate(apply, SAMPLES), env, calls


def run(parts, chunks, scheme, problems):
  generate, env, calls = parts
  calls.clear()
  count = len(problems)
  plan = Plan(np.asarray(problems, np.int32), np.zeros(count, np.int32),
              np.zeros(count), np.zeros(count, np.int32))
  out = scheme(generate._replace(chunks=chunks), env, plan, jax.random.key(0))
  return out, list(calls)


def test_the_next_chunk_is_drawn_before_one_is_judged(parts):
  _, calls = run(parts, 4, group.sample_groups(), [3, 0, 1, 2])
  assert calls == [
      ('draw', [0]), ('draw', [1]), ('judge', [3]), ('draw', [2]),
      ('judge', [0]), ('draw', [3]), ('judge', [1]), ('judge', [2])]
  _, calls = run(parts, 1, group.sample_groups(), [3, 0, 1, 2])
  assert calls == [('draw', [0, 1, 2, 3]), ('judge', [0, 1, 2, 3])]


@pytest.mark.parametrize('rounds', [1, 2])
def test_the_rollout_is_the_same_bit_for_bit(parts, rounds):
  """Products this small are rounded alike, however many rows they have."""
  problems = [3, 0, 1, 2] * rounds
  scheme = group.refill_flat_groups(rounds)
  expected, _ = run(parts, 1, scheme, problems)
  actual, _ = run(parts, 2, scheme, problems)
  assert (np.asarray(expected.group) == -1).any() == (rounds == 1)
  # Answers are told apart within a prompt; the judge numbered all it saw.
  expected.extras.pop('answer_id'), actual.extras.pop('answer_id')
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize('chunks', [0, 3, 4])
def test_chunks_that_do_not_fit_are_refused(chunks):
  with pytest.raises(ValueError, match=f'^rollout.chunks is {chunks}; '):
    group.check_chunks(chunks, prompts=8, samples=2, shards=8)
