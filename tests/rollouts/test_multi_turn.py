"""Conversations against plain Python, the scorer, and themselves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import rollouts
from policyopt.models import scoring
from policyopt.ops import bits
from policyopt.rollouts import multi_turn
from policyopt.rollouts.sampler import SamplerConfig
from policyopt.types import Environment, Plan, Prompts, Turns

STOPS, ACTION, REPLY, LIMIT, SAMPLES = (3, 9, 20), 3, 2, 4, 5
PLAIN = SamplerConfig(max_tokens=14)
SPECIAL = dataclasses.replace(PLAIN, temperature=0.7, top_k=12)
PROBLEM = np.repeat(np.arange(4, dtype=np.int32), SAMPLES)

draw = jax.jit(multi_turn.sample, static_argnums=(0, 1),
               static_argnames=('samples', 'turns'))
score = jax.jit(scoring.score, static_argnums=0)


def _step(total, actions):
  total = (total + actions.tokens.sum(axis=1) + actions.length) % 11
  return total, {'sum': total / 10, 'ones': total * 0 + 1.}, total == 5


def _observe(total):
  tokens = 30 + total[:, None] % jnp.array([[2, 7]])
  # Replies of none, one and two tokens.
  return Prompts(tokens, total % 3), total


TURNS = Turns(LIMIT, ACTION, REPLY, STOPS,
              lambda problem: 7 * problem % 11, _step, _observe)


def run(config, params, prompts, sampler=PLAIN, limits=0, row_ids=None,
        draw=draw):
  rows = len(PROBLEM)
  row_ids = np.arange(rows) if row_ids is None else row_ids
  return draw(
      config, sampler, params, prompts, jax.random.key(5), samples=SAMPLES,
      row_ids=jnp.asarray(row_ids, jnp.int32), turns=TURNS, problem=PROBLEM,
      max_tokens=jnp.broadcast_to(jnp.asarray(limits, jnp.int32), rows))


def talk(problem, tokens, limit):
  """What plain Python makes of the tokens behind a prompt."""
  total, place, found, over = 7 * problem % 11, 0, [], False
  for turn in range(LIMIT):
    action = []
    while place < limit:
      action.append(tokens[place])
      found.append([True, turn, total, 0., 0.])
      place += 1
      if action[-1] in STOPS or len(action) == ACTION:
        total = (total + sum(action) + len(action)) % 11
        found[-1][3:] = total / 10, 1.
        over = total == 5 or turn == LIMIT - 1
        break
    if over or place == limit:
      return found, over
    for value in (30 + total % 2, 30 + total % 7)[:total % 3]:
      if place == limit:
        return found, over
      assert tokens[place] == value
      found.append([False, -1, -1, 0., 0.])
      place += 1
  raise AssertionError('a conversation ends')


@pytest.mark.parametrize('sampler', [PLAIN, SPECIAL], ids=['plain', 'top_k'])
def test_rows_are_conversations_and_scored_as_they_were_drawn(
    sampler, config, params, prompts):
  limits = np.arange(20) % 15
  out = run(config, params, prompts, sampler, limits)
  spoken = out.spoken
  ends, lengths = set(), set()
  for b, problem in enumerate(PROBLEM.tolist()):
    start = int(prompts.length[problem])
    tokens = np.asarray(out.tokens)[b]
    found, over = talk(problem, tokens[start:].tolist(), limits[b] or 14)
    stop = start + len(found)
    assert out.length[b] == len(found) and out.truncated[b] == (not over)
    np.testing.assert_array_equal(
        tokens[:start], prompts.tokens[problem, :start])
    assert (tokens[stop:] == 0).all()
    wanted = np.array(found)
    for array, column, other in (
        (out.mask, 0, 0), (spoken.turn, 1, -1), (spoken.state_id, 2, -1),
        (spoken.rewards['sum'], 3, 0), (spoken.rewards['ones'], 4, 0)):
      row = np.full(len(tokens), float(other))
      row[start:stop] = wanted[:, column]
      np.testing.assert_allclose(array[b], row, atol=1e-6)
    ends.add(over)
    lengths.add(len(found))
  assert ends == {True, False} and len(lengths) > 5
  again = score(config, params, out.tokens, kept=out.kept,
                temperature=sampler.temperature)
  mask = np.asarray(out.mask)
  np.testing.assert_allclose(
      out.log_probs, np.where(mask, again.log_probs, 0), atol=1e-5)
  assert np.abs(out.log_probs).max() > 1
  if sampler.truncates:
    kept = np.asarray(bits.unpack_kept(out.kept, config.vocab_size))
    assert (kept.sum(axis=2)[mask] == 12).all() and not kept[~mask].any()


def test_a_row_does_not_depend_on_its_batch(config, params, prompts):
  order = np.concatenate([
      5 * n + np.random.default_rng(n).permutation(5) for n in range(4)])
  one = run(config, params, prompts)
  two = run(config, params, prompts, row_ids=order)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
    if a.ndim:
      np.testing.assert_allclose(a[order], b, atol=1e-6)
  assert len({row.tobytes() for row in np.asarray(one.tokens)}) > 10


def test_slots_are_refused(config, params, prompts):
  with pytest.raises(ValueError, match='sampler.slots is 4; conversations'):
    run(config, params, prompts, dataclasses.replace(PLAIN, slots=4))


def _scheme(config, params, prompts, scheme):
  """(problems, key) -> Rollout of conversations about them."""
  def never(ids, responses):
    raise AssertionError('the task has judged already')

  env = Environment(
      'sums', 4, prompts.tokens.shape[1],
      lambda ids: Prompts(prompts.tokens[ids], prompts.length[ids]), never,
      turns=TURNS, pure=True)

  def apply(sampler, samples, prompts, row_ids, key, max_tokens=None, **other):
    return draw(config, sampler, params, Prompts(*prompts), key,
                samples=samples, row_ids=jnp.asarray(row_ids, jnp.int32),
                max_tokens=max_tokens, **other)

  greedy = dataclasses.replace(PLAIN, temperature=0.)
  generate = rollouts.Generate(
      functools.partial(apply, PLAIN, SAMPLES), SAMPLES,
      functools.partial(apply, greedy, 1))

  def sampled(problems, key):
    zeros = jnp.zeros(len(problems), jnp.int32)
    return scheme(generate, env, Plan(problems, zeros, zeros * 0., zeros), key)
  return sampled


def test_a_program_samples_what_the_host_does(config, params, prompts):
  sampled = _scheme(config, params, prompts,
                    rollouts.with_greedy(rollouts.sample_groups()))
  problems, key = jnp.array([2, 0, 3, 1]), jax.random.key(1)
  host = sampled(problems, jax.random.clone(key))
  there = jax.jit(sampled)(problems, key)
  assert jax.tree.structure(host) == jax.tree.structure(there)
  for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(there)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert {'state_id', 'greedy_reward', 'truncated'} <= set(host.extras)
  assert (np.asarray(host.turn >= 0) == np.asarray(host.mask)).all()
  assert np.asarray(host.turn).max() == LIMIT - 1
  # One reward a turn, and no other.
  turns = np.asarray(host.turn).max(axis=1) + 1
  earned = np.asarray(host.rewards['ones']).sum(axis=1)
  assert set(turns - earned) == {0, 1}  # 1: the last action was cut off.
  assert not np.asarray(host.rewards['ones'])[~np.asarray(host.mask)].any()


def test_a_reward_that_is_not_finite_takes_no_part_in_a_program(
    config, params, prompts, monkeypatch):
  def step(total, actions):
    total, earned, over = _step(total, actions)
    return total, {'sum': jnp.where(total == 6, jnp.nan, total)}, over

  monkeypatch.setitem(globals(), 'TURNS', TURNS._replace(step=step))
  sampled = _scheme(config, params, prompts, rollouts.sample_groups())
  there = jax.jit(sampled)(jnp.arange(4), jax.random.key(1))
  out = np.asarray(there.group) < 0
  assert 0 < out.sum() < 20 and np.isfinite(there.rewards['sum']).all()
  assert not np.asarray(there.mask)[out].any()
  assert (np.asarray(there.turn)[out] == -1).all()
  with pytest.raises(ValueError, match="the reward in channel 'sum' is nan"):
    sampled(jnp.arange(4), jax.random.key(1))
