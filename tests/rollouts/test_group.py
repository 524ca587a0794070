"""The group schemes with a sampler and an environment that are scripted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.models import scoring
from policyopt.rollouts import group
from policyopt.rollouts.sampler import SamplerConfig, Samples, sample
from policyopt.types import Environment, Plan, Prompts, Scores

WIDTH, ROOM, SAMPLES = 4, 3, 3


def fake_generate(calls, kept=False):
  """Row `id` answers with 1 + id % 3 tokens of value 100 + id % 100."""
  def apply(prompts, row_ids, key, max_tokens):
    calls.append(dict(prompts=prompts, row_ids=row_ids, max_tokens=max_tokens,
                      key=jax.random.key_data(key)))
    rows, total = len(row_ids), WIDTH + ROOM
    start = np.repeat(prompts.length, SAMPLES)[:, None]
    length = (1 + row_ids % ROOM).astype(np.int32)
    place = np.arange(total)[None, :]
    mask = (place >= start) & (place < start + length[:, None])
    tokens = np.pad(np.repeat(prompts.tokens, SAMPLES, axis=0),
                    ((0, 0), (0, ROOM)))
    tokens = np.where(mask, 100 + row_ids[:, None] % 100, tokens)
    numbers = np.where(mask, -1. - row_ids[:, None] % 7, 0).astype(np.float32)
    return Samples(*jax.tree.map(jnp.asarray, (
        tokens.astype(np.int32), mask, numbers, 2 * numbers, -numbers,
        mask[:, :, None] * np.uint32(5) if kept else None,
        length, np.arange(rows) % 2 == 0, length.max())))
  return group.Generate(apply, SAMPLES)


def fake_env(reward, verdict=None, scored=None):
  """Problem p has the prompt [p] * (1 + p % 4).

  reward(problem, member) and verdict(problem, member) are called per row.
  """
  def reset(problem):
    length = 1 + problem % WIDTH
    width = int(length.max())  # narrower than WIDTH at times
    tokens = np.where(np.arange(width)[None, :] < length[:, None],
                      problem[:, None], 99)
    return Prompts(tokens, length)

  def score(problem, responses):
    if scored is not None:
      scored.append((problem, responses))
    member = np.arange(len(problem)) % SAMPLES
    pairs = list(zip(problem.tolist(), member.tolist()))
    codes = [verdict(*pair) if verdict else 0 for pair in pairs]
    return Scores(
        dict(answer=np.array([reward(*pair) for pair in pairs]),
             form=np.full(len(pairs), 0.25)), np.array(codes))

  return Environment('fake', None, WIDTH, reset, score)


def plan(prompt, **changes):
  """A plan for the given problems, with nothing special about it."""
  prompt = np.asarray(prompt, np.int32)
  zeros = np.zeros(len(prompt))
  return Plan(prompt, zeros.astype(np.int32), zeros.astype(np.float32),
              zeros.astype(np.int32))._replace(**changes)


def run(scheme, env, some_plan, calls=None, **kw):
  """One call of a scheme with the scripted sampler."""
  calls = [] if calls is None else calls
  return scheme(fake_generate(calls, **kw), env, some_plan, jax.random.key(3))


def member_reward(problem, member):
  """No group is flat."""
  return float(member == problem % SAMPLES)


def test_rows_and_extras_are_in_plan_order():
  calls, scored = [], []
  rollout = run(
      group.sample_groups(), fake_env(member_reward, scored=scored),
      plan([7, 4, 6], max_tokens=np.array([0, 2, 5], np.int32),
           samples=np.array([0, 3, 0], np.int32)), calls, kept=True)
  (call,), ((problem, responses),) = calls, scored
  assert call['prompts'].tokens.shape == (3, WIDTH)
  assert call['row_ids'].tolist() == [
      0, 1, 2, 4096, 4097, 4098, 8192, 8193, 8194]
  assert call['max_tokens'].tolist() == [0, 0, 0, 2, 2, 2, 5, 5, 5]
  assert rollout.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  assert problem.tolist() == [7, 7, 7, 4, 4, 4, 6, 6, 6]
  extras = rollout.extras
  assert extras['prompt'].tolist() == problem.tolist()
  assert extras['plan_index'].tolist() == rollout.group.tolist()
  assert extras['verdict'].tolist() == [0] * 9
  assert extras['rounds'].tolist() == [1] * 9
  assert extras['kept'].shape == (9, WIDTH + ROOM, 1)
  assert extras['truncated'].dtype == bool
  np.testing.assert_array_equal(
      extras['policy_log_probs'], 2 * rollout.log_probs)
  np.testing.assert_array_equal(extras['entropy'], -rollout.log_probs)
  lengths = 1 + call['row_ids'] % ROOM
  assert extras['length'].tolist() == lengths.tolist()
  assert rollout.mask.sum(axis=1).tolist() == lengths.tolist()
  # The environment reads the chosen tokens, at the left, zeros behind them.
  assert responses.length.tolist() == lengths.tolist()
  for row, (tokens, length) in enumerate(zip(*responses)):
    value = 100 + call['row_ids'][row] % 100
    assert tokens.tolist() == [value] * length + [0] * (ROOM - length)


def test_rewards_sit_on_the_last_chosen_token():
  rollout = run(group.sample_groups(), fake_env(member_reward), plan([1, 2]))
  for name, value in (('answer', [0, 1, 0, 0, 0, 1]), ('form', [0.25] * 6)):
    reward, mask = np.asarray(rollout.rewards[name]), np.asarray(rollout.mask)
    assert reward.sum(axis=1).tolist() == value
    last = [np.flatnonzero(row)[-1] for row in mask]
    assert reward[np.arange(6), last].tolist() == value


def test_rows_without_a_verdict_take_no_part():
  def broken(problem, member):
    return {(5, 1): 1, (6, 0): 2}.get((problem, member), 0)

  def reward(problem, member):
    return float('nan') if broken(problem, member) else 1. + member

  rollout = run(group.sample_groups(), fake_env(reward, broken), plan([5, 6]))
  assert rollout.group.tolist() == [0, -1, 0, -1, 1, 1]
  assert rollout.extras['verdict'].tolist() == [0, 1, 0, 2, 0, 0]
  assert rollout.mask.any(axis=1).tolist() == [1, 0, 1, 0, 1, 1]
  for x in (rollout.log_probs, rollout.extras['policy_log_probs'],
            rollout.extras['entropy'], *rollout.rewards.values()):
    assert np.isfinite(x).all()
    assert not np.asarray(x)[[1, 3]].any()


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
def test_reward_that_is_not_finite(value):
  def reward(problem, member):
    return float(value) if (problem, member) == (8, 2) else 0.

  with pytest.raises(ValueError, match=(
      f"fake: .*channel 'answer' is {value} in row 5, problem 8")):
    run(group.sample_groups(), fake_env(reward), plan([3, 8]))


@pytest.mark.parametrize('changes, message', [
    (dict(samples=np.array([3, 4])), r'plan\.samples\[1\] is 4.* 0 or 3'),
    (dict(hint=np.array([0.5, 0.])), r'plan\.hint\[0\] is 0\.5'),
    (dict(max_tokens=np.array([0, -2])), r'plan\.max_tokens\[1\] is -2')])
def test_a_plan_that_cannot_be_followed(changes, message):
  with pytest.raises(ValueError, match=message):
    run(group.sample_groups(), fake_env(member_reward), plan([1, 2], **changes))


def test_wrong_sizes():
  with pytest.raises(ValueError, match='rounds is 0'):
    group.refill_flat_groups(0)
  with pytest.raises(ValueError, match='has 3 entries; 2 rounds'):
    run(group.refill_flat_groups(2), fake_env(member_reward), plan([1, 2, 3]))
  with pytest.raises(ValueError, match='has 0 entries'):
    run(group.sample_groups(), fake_env(member_reward), plan([]))


def test_an_environment_that_breaks_its_word():
  env = fake_env(member_reward)
  with pytest.raises(ValueError, match='problem 3 has 9 tokens.*1 to 4'):
    run(group.sample_groups(), env._replace(reset=lambda problem: Prompts(
        np.ones((len(problem), 9)), np.full(len(problem), 9))), plan([3]))
  with pytest.raises(ValueError, match='problem 3 has 0 tokens'):
    run(group.sample_groups(), env._replace(reset=lambda problem: Prompts(
        np.ones((len(problem), 2)), np.zeros(len(problem)))), plan([3]))
  with pytest.raises(ValueError, match='fake: .*no reward channel'):
    run(group.sample_groups(), env._replace(
        score=lambda problem, _: Scores({}, np.zeros(3))), plan([3]))
  with pytest.raises(ValueError, match=r'returned x of the shape \(2,\)'):
    run(group.sample_groups(), env._replace(
        score=lambda problem, _: Scores({'x': np.zeros(2)}, np.zeros(3))),
        plan([3]))


def only_even_teach(problem, member):
  """Groups of odd problems are flat."""
  return float(problem % 2 == 0 and member == 0)


@pytest.mark.parametrize('prompt, rounds, used, chosen', [
    ([2, 4, 6, 8], 2, 1, [0, 1]),             # the first round is enough
    ([1, 4, 6, 8], 2, 2, [1, 2]),             # one more; 8 is not needed
    ([1, 4, 3, 5, 7, 6, 8, 9], 4, 3, [1, 5]),   # third round ends it
    ([1, 3, 5, 4], 2, 2, [0, 3]),             # filled up with the first flat
    ([1, 3, 5, 7, 9, 11], 3, 3, [0, 1])])     # all flat
def test_flat_groups_are_refilled(prompt, rounds, used, chosen):
  calls = []
  rollout = run(group.refill_flat_groups(rounds), fake_env(only_even_teach),
                plan(prompt), calls)
  assert len(calls) == used
  assert rollout.extras['rounds'].tolist() == [used] * 6
  assert rollout.group.tolist() == [0, 0, 0, 1, 1, 1]
  rows = np.repeat(chosen, SAMPLES)
  assert rollout.extras['plan_index'].tolist() == rows.tolist()
  assert rollout.extras['prompt'].tolist() == np.array(prompt)[rows].tolist()
  assert rollout.rewards['answer'].sum() == sum(
      prompt[entry] % 2 == 0 for entry in chosen)
  # Whole rows move: their tokens tell which ids they were drawn with.
  ids = rows * 4096 + np.tile(np.arange(SAMPLES), 2)
  last = np.asarray(rollout.tokens * rollout.mask).max(axis=1)
  assert last.tolist() == (100 + ids % 100).tolist()
  # No round repeats another's randomness, and shapes never change.
  assert len({call['key'].tobytes() for call in calls}) == used
  assert len({row for call in calls for row in call['row_ids'].tolist()}
             ) == 6 * used
  assert all(call['prompts'].tokens.shape == (2, WIDTH) for call in calls)
  out = group.feedback(rollout, jnp.zeros(rollout.mask.shape), plan(prompt))
  assert np.flatnonzero(out.count).tolist() == chosen


def test_refilling_once_is_plain_sampling():
  env = fake_env(only_even_teach)
  plain = run(group.sample_groups(), env, plan([1, 2, 3]))
  refilled = run(group.refill_flat_groups(1), env, plan([1, 2, 3]))
  jax.tree.map(np.testing.assert_array_equal, plain, refilled)


def test_rows_that_were_not_scored_make_no_difference():
  """A group is flat when its scored rows are equal, or fewer than two."""
  verdict = {(1, 0): 1, (2, 0): 1, (2, 1): 2, (4, 2): 2}
  calls = []
  rollout = run(
      group.refill_flat_groups(2),
      fake_env(lambda problem, member: float(member == 0),
               lambda *pair: verdict.get(pair, 0)), plan([1, 2, 4, 6]), calls)
  # 1 and 2 are flat without their broken rows; 4 still is not.
  assert len(calls) == 2
  assert rollout.extras['prompt'].tolist() == [4, 4, 4, 6, 6, 6]
  assert rollout.group.tolist() == [0, 0, -1, 1, 1, 1]


def test_feedback_numbers():
  some_plan = plan([5, 6, 9, 9])
  verdict = {(5, 1): 1, (9, 0): 2, (9, 1): 2, (9, 2): 1}
  rollout = run(
      group.sample_groups(), fake_env(
          lambda problem, member: float(problem + member),
          lambda *pair: verdict.get(pair, 0)), some_plan)
  advantages = jnp.where(rollout.mask, -2.0, 50.0)
  out = jax.jit(group.feedback)(rollout, advantages, some_plan)
  assert out.prompt.tolist() == [5, 6, 9, 9]
  assert out.count.tolist() == [2, 3, 0, 0]
  assert out.success.tolist() == [6.25, 7.25, 0, 0]
  assert out.abs_advantage.tolist() == [2, 2, 0, 0]
  lengths = 1 + np.arange(3) % ROOM
  second = 1 + (4096 + np.arange(3)) % ROOM
  np.testing.assert_allclose(
      out.length, [lengths[[0, 2]].mean(), second.mean(), 0, 0])


def test_with_the_real_sampler(config, params):
  sampler = SamplerConfig(max_tokens=ROOM, stop_tokens=(3,))
  traces = []

  @functools.partial(
      jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  def compiled(params, prompts, key, row_ids, max_tokens):
    traces.append(row_ids.shape)
    return sample(config, sampler, params, prompts, key, samples=SAMPLES,
                  row_ids=row_ids, max_tokens=max_tokens)

  def apply(prompts, row_ids, key, max_tokens):
    return compiled(params, prompts, key, row_ids, max_tokens)

  def draw(scheme, problems):
    return scheme(group.Generate(apply, SAMPLES), fake_env(only_even_teach),
                  plan(problems), jax.random.key(8))

  rollout = draw(group.refill_flat_groups(2), [1, 2, 3, 4])
  assert len(traces) == 1
  assert rollout.extras['prompt'].tolist() == [2, 2, 2, 4, 4, 4]
  again = draw(group.sample_groups(), [1, 2])
  # The second prompt of the first round, whatever became of the others.
  np.testing.assert_array_equal(rollout.tokens[:3], again.tokens[3:])
  theirs = jax.jit(scoring.score, static_argnums=0)(
      config, params, rollout.tokens).log_probs
  np.testing.assert_allclose(
      rollout.log_probs, np.where(rollout.mask, theirs, 0), atol=1e-5)
