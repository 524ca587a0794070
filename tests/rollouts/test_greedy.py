"""The greedy response to each prompt, as a baseline for the others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.rollouts import greedy, group
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.types import Environment, Plan, Prompts, Scores

SAMPLES, ROOM = 3, 4


@pytest.fixture(scope='module')
def parts(config, params, prompts):
  """A sampler of its own for each, and a judge that counts even tokens."""
  draw = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')

  def bind(sampler, samples):
    return lambda prompts, row_ids, key, max_tokens: draw(
        config, sampler, params, Prompts(*map(jnp.asarray, prompts)), key,
        samples=samples, row_ids=jnp.asarray(row_ids),
        max_tokens=jnp.asarray(max_tokens))

  plain = SamplerConfig(max_tokens=ROOM)
  most_likely = bind(dataclasses.replace(plain, temperature=0.), 1)

  def reset(problem):
    return Prompts(*(np.asarray(x)[np.asarray(problem)] for x in prompts))

  def score(problem, responses):
    even = (responses.tokens % 2 == 0) & (
        np.arange(ROOM)[None] < np.asarray(responses.length)[:, None])
    return Scores({'even': even.sum(1).astype(np.float32)},
                  np.where(np.asarray(problem) == 2, 1, 0))

  env = Environment('even', 4, prompts.tokens.shape[1], reset, score)
  return group.Generate(bind(plain, SAMPLES), SAMPLES, most_likely), env


def plan(problem):
  """Those problems, as often as the sampler draws."""
  count = len(problem)
  return Plan(np.asarray(problem, np.int32), np.full(count, SAMPLES),
              np.zeros(count), np.zeros(count, np.int32))


def test_rows_get_the_reward_of_their_prompt(parts):
  generate, env = parts
  problem = [3, 0, 2, 1]
  scheme = greedy.with_greedy(group.sample_groups())
  out = scheme(generate, env, plan(problem), jax.random.key(0))
  drawn = generate.greedy(
      env.reset(problem), np.arange(4), jax.random.key(1), np.zeros(4))
  tokens, mask = np.asarray(drawn.tokens), np.asarray(drawn.mask)
  wanted = ((tokens % 2 == 0) & mask).sum(1).astype(np.float32)
  wanted[2] = 0  # Problem 2 cannot be scored.
  assert len(set(wanted)) > 1
  np.testing.assert_array_equal(
      out.extras['greedy_reward'], np.repeat(wanted, SAMPLES))


def test_a_sampler_that_cannot_is_named(parts):
  generate, env = parts
  scheme = greedy.with_greedy(group.sample_groups())
  with pytest.raises(ValueError, match='generate.greedy is None'):
    scheme(generate._replace(greedy=None), env, plan([0]), jax.random.key(0))
