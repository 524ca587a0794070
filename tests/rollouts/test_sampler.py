"""The sampler against the scorer, against itself, and against chance."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from policyopt.models import partitioning, scoring
from policyopt.ops import bits
from policyopt.ops.signals.entropy_scale import Heat, heated
from policyopt.rollouts import draw as draw_lib
from policyopt.rollouts.sampler import SamplerConfig, sample
from policyopt.types import Prompts
from tests.compiling import AS_JAX_DOES

draw = jax.jit(sample, static_argnums=(0, 1), static_argnames='samples')
score = jax.jit(scoring.score, static_argnums=0, static_argnames='needs')

PLAIN = SamplerConfig(max_tokens=7)
GRID = [
    PLAIN,
    dataclasses.replace(PLAIN, temperature=0.6, stop_tokens=(3, 9, 20)),
    dataclasses.replace(PLAIN, temperature=1.7, top_k=5),
    dataclasses.replace(PLAIN, top_p=0.8, stop_tokens=(4,)),
    dataclasses.replace(PLAIN, temperature=1.4, min_p=0.1),
    dataclasses.replace(PLAIN, temperature=0.8, top_k=100, top_p=0.9,
                        min_p=0.05),
]


def random_settings(seed):
  """A sampler with everything switched on."""
  rng = np.random.default_rng(seed)
  return dataclasses.replace(
      PLAIN, temperature=float(rng.uniform(0.3, 2)),
      top_k=int(rng.integers(2, 38)), top_p=float(rng.uniform(0.3, 1)),
      min_p=float(rng.uniform(0, 0.3)), stop_tokens=(int(rng.integers(38)),))


def run(config, sampler, params, prompts, seed=0, *, samples=5, row_ids=None,
        limits=0):
  """Draws; tests that share shapes and a sampler share a program."""
  rows = samples * len(prompts.length)
  row_ids = np.arange(rows) if row_ids is None else row_ids
  return draw(config, sampler, params, prompts, jax.random.key(seed),
              samples=samples, row_ids=jnp.asarray(row_ids, jnp.int32),
              max_tokens=jnp.broadcast_to(jnp.asarray(limits, jnp.int32), rows))


def responses(out, prompts, samples=5):
  """The chosen tokens and their log-probabilities, a list of rows."""
  starts = np.repeat(np.asarray(prompts.length), samples)
  return [
      (np.asarray(out.tokens)[b, s:s + n].tolist(),
       np.asarray(out.log_probs)[b, s:s + n])
      for b, (s, n) in enumerate(zip(starts, np.asarray(out.length)))]


@pytest.mark.parametrize(
    'sampler', GRID + [random_settings(0)], ids=str)
def test_log_probs_equal_the_scorer(sampler, config, params, prompts):
  out = run(config, sampler, params, prompts)
  assert (out.kept is not None) == sampler.truncates
  drawn = score(config, params, out.tokens, temperature=sampler.temperature,
                kept=out.kept, needs=frozenset({'entropy'}))
  policy = score(config, params, out.tokens, temperature=1.0,
                 needs=frozenset({'entropy'}))
  for ours, theirs, tolerance in (
      (out.log_probs, drawn.log_probs, 1e-5),
      (out.policy_log_probs, policy.log_probs, 1e-5),
      # A difference of two large numbers where the policy is nearly sure.
      (out.entropy, drawn.entropy, 5e-5)):
    theirs = np.where(out.mask, theirs, 0)
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=1e-5)
  assert np.abs(out.policy_log_probs).max() > 1  # not a trivial comparison
  if sampler.truncates:
    kept = np.asarray(bits.unpack_kept(out.kept, config.vocab_size))
    mask = np.asarray(out.mask)
    chosen = np.take_along_axis(
        kept, np.asarray(out.tokens)[:, :, None], axis=2)[:, :, 0]
    assert chosen[mask].all()
    assert not kept[~mask].any()
    assert kept.sum(axis=2).max() <= (sampler.top_k or 38)


@pytest.mark.slow
@pytest.mark.parametrize('temperature', [0.1, 0.5, 1., 2.])
@pytest.mark.parametrize('top_p', [1., 0.9])
def test_log_probs_of_trained_weights_equal_the_scorer(
    temperature, top_p, config, trained, prompts):
  """A low temperature multiplies every difference in rounding."""
  sampler = SamplerConfig(
      max_tokens=8, temperature=temperature, top_p=top_p)
  rows = 64
  prompts = Prompts(jnp.tile(prompts.tokens, (16, 1)),
                    jnp.tile(prompts.length, 16))
  optimised = functools.partial(jax.jit, compiler_options=AS_JAX_DOES)
  out = optimised(sample, static_argnums=(0, 1), static_argnames='samples')(
      config, sampler, trained, prompts, jax.random.key(0), samples=4,
      row_ids=jnp.arange(4 * rows))
  drawn = optimised(scoring.score, static_argnums=0)(
      config, trained, out.tokens, temperature=temperature, kept=out.kept)
  gap = np.abs(out.log_probs - np.where(out.mask, drawn.log_probs, 0))
  assert gap.max() <= 1e-5
  assert (gap[np.asarray(out.mask)] == 0).mean() > .95


def test_a_row_does_not_depend_on_its_batch(config, params, prompts):
  row_ids = np.random.default_rng(0).permutation(10_000)[:20]

  def rows(prompts, row_ids, samples=5):
    out = run(config, GRID[3], params, prompts, 11, samples=samples,
              row_ids=row_ids)
    return dict(zip(row_ids.tolist(), responses(out, prompts, samples)))

  def same(some):
    for row_id, (tokens, log_probs) in some.items():
      assert tokens == whole[row_id][0]
      np.testing.assert_allclose(log_probs, whole[row_id][1], atol=1e-5)

  whole = rows(prompts, row_ids)
  assert len({tuple(tokens) for tokens, _ in whole.values()}) > 10
  order = np.array([2, 0, 3, 1])
  same(rows(Prompts(prompts.tokens[order], prompts.length[order]),
            row_ids.reshape(4, 5)[order].reshape(-1)))
  same(rows(Prompts(prompts.tokens[1:2], prompts.length[1:2]),
            row_ids[7:8], 1))
  wider = Prompts(jnp.pad(prompts.tokens, ((0, 0), (0, 4)),
                          constant_values=7), prompts.length)
  same(rows(wider, row_ids))


@pytest.mark.parametrize('sampler', [
    SamplerConfig(max_tokens=2),
    SamplerConfig(max_tokens=2, temperature=1.5, top_k=20, top_p=0.95)],
    ids=str)
def test_frequencies_match_the_distribution(sampler, config, params, prompts):
  count = 20_000
  prompts = Prompts(prompts.tokens[1:2], prompts.length[1:2])
  start = int(prompts.length[0])
  out = run(config, sampler, params, prompts, 5, samples=count)
  tokens = np.asarray(out.tokens)[:, start:start + 2]
  commonest = np.bincount(tokens[:, 0]).argmax()
  follows = tokens[:, 0] == commonest
  # The second token is judged after one first token: its noise must be fresh.
  row = int(np.argmax(follows))
  kept = None if out.kept is None else out.kept[row:row + 1]
  logits = score(config, params, out.tokens[row:row + 1], kept=kept,
                 temperature=sampler.temperature, needs=frozenset({'logits'})
                 ).logits[0]
  for place, drawn in ((0, tokens[:, 0]), (1, tokens[follows, 1])):
    probs = np.asarray(jax.nn.softmax(logits[start + place]), np.float64)
    seen = np.bincount(drawn, minlength=38)
    assert seen[probs == 0].sum() == 0
    expected = probs / probs.sum() * len(drawn)
    common = expected > 5
    # What is rare is judged together.
    seen = np.append(seen[common], seen[~common].sum())
    expected = np.append(expected[common], expected[~common].sum() + 1e-9)
    keep = expected > 1
    statistic = ((seen - expected)[keep] ** 2 / expected[keep]).sum()
    assert keep.sum() > 3
    assert scipy.stats.chi2.sf(statistic, keep.sum() - 1) > 1e-4


@pytest.mark.parametrize('row', [
    [1., 3., 3., 2.], [-np.inf, -np.inf, -7., -np.inf], [-np.inf] * 4,
    [np.nan] * 4, [2., 2., 2., 2.]])
def test_the_first_of_the_largest_is_drawn(row):
  row = jnp.array([row])
  assert draw_lib._argmax(row).tolist() == jnp.argmax(row, axis=-1).tolist()


def test_stops_and_limits_cut_the_same_text(config, params, prompts):
  free = [tokens for tokens, _ in responses(
      run(config, PLAIN, params, prompts, 2), prompts)]
  assert all(len(tokens) == 7 for tokens in free)
  stops = (free[0][2], free[8][4], free[12][0])
  limits = np.array(
      [0, 7, 1, 2, 3, 4, 5, 50, 6, 0, 7, 7, 3, 2, 0, 0, 6, 5, 4, 9])
  sampler = dataclasses.replace(PLAIN, stop_tokens=stops, pad_id=37)
  out = run(config, sampler, params, prompts, 2, limits=limits)
  starts = np.repeat(np.asarray(prompts.length), 5)
  ends = []
  for b, whole in enumerate(free):
    limit = min(limits[b] or 7, 7)
    stop = next((t + 1 for t, x in enumerate(whole) if x in stops), 99)
    ends.append(min(stop, limit))
    assert bool(out.truncated[b]) == (stop > limit)
    row = np.asarray(out.tokens[b]).tolist()
    end = starts[b] + ends[b]
    assert row[starts[b]:end] == whole[:ends[b]]
    assert row[end:] == [37] * (6 + 7 - end)
    assert row[:starts[b]] == prompts.tokens[b // 5, :starts[b]].tolist()
    assert np.flatnonzero(out.mask[b]).tolist() == list(range(starts[b], end))
  assert out.length.tolist() == ends
  assert 0 < sum(out.truncated.tolist()) < 20
  assert int(out.steps) == max(ends)
  assert not np.asarray(out.log_probs)[~np.asarray(out.mask)].any()


def test_the_loop_ends_with_its_last_row(config, params, prompts):
  def steps(*limits):
    return int(run(config, PLAIN, params, prompts,
                   limits=np.resize(limits, 20)).steps)

  assert steps(1) == 1
  assert steps(1, 4, 2, 1) == 4
  assert steps(0, 4, 2, 1) == 7


def test_greedy(config, params, prompts):
  sampler = dataclasses.replace(PLAIN, temperature=0.0)
  out, other = (run(config, sampler, params, prompts, seed)
                for seed in (0, 1))
  np.testing.assert_array_equal(out.tokens, other.tokens)
  policy = score(config, params, out.tokens, temperature=1.0,
                 needs=frozenset({'logits'}))
  mask = np.asarray(out.mask)
  best = np.argmax(policy.logits, axis=-1)
  np.testing.assert_array_equal(np.asarray(out.tokens)[mask], best[mask])
  np.testing.assert_allclose(out.log_probs, 0, atol=1e-6)
  np.testing.assert_allclose(out.entropy, 0, atol=1e-6)
  np.testing.assert_allclose(
      np.asarray(out.policy_log_probs)[mask],
      np.asarray(policy.log_probs)[mask], atol=1e-5)
  kept = bits.unpack_kept(out.kept, config.vocab_size)
  np.testing.assert_array_equal(kept.sum(axis=-1), mask)


def test_compiles_once(config, params, prompts):
  traces = []

  @jax.jit
  def compiled(params, prompts, key, row_ids, max_tokens):
    traces.append(row_ids.shape)
    return sample(config, PLAIN, params, prompts, key, samples=2,
                  row_ids=row_ids, max_tokens=max_tokens)

  first, second = (
      compiled(params, Prompts(prompts.tokens, length), jax.random.key(seed),
               jnp.arange(8) + seed, jnp.full(8, seed))
      for seed, length in ((1, prompts.length), (5, prompts.length[::-1])))
  assert len(traces) == 1
  assert int(first.steps) == 1 and int(second.steps) == 5


def test_a_mesh_draws_the_same_tokens(config, params, prompts):
  sampler = GRID[-1]

  single = run(config, sampler, params, prompts)
  mesh = partitioning.make_mesh((2, 2, 2, 1))
  placed = jax.device_put(params, partitioning.param_shardings(config, mesh))
  with jax.set_mesh(mesh):
    out = run(config, sampler, placed,
              jax.device_put(prompts, partitioning.rows(mesh)))
  np.testing.assert_array_equal(out.tokens, single.tokens)
  np.testing.assert_array_equal(out.mask, single.mask)
  np.testing.assert_allclose(out.log_probs, single.log_probs, atol=1e-5)
  np.testing.assert_allclose(
      out.policy_log_probs, single.policy_log_probs, atol=1e-5)
  np.testing.assert_array_equal(out.kept, single.kept)


def test_heat_sets_the_temperature_by_the_entropy(config, params, prompts):
  heat = Heat(*map(jnp.float32, (.5, .6, .7, 1.5, 2.)))

  def run_heated(heat):
    return draw(config, PLAIN, params, prompts, jax.random.key(4), samples=5,
                row_ids=jnp.arange(20), heat=heat)

  out = run_heated(heat)
  mask = np.asarray(out.mask)
  policy = score(config, params, out.tokens, needs=frozenset({'entropy'}))
  # What is recorded is the entropy before it is used.
  np.testing.assert_allclose(
      np.asarray(out.entropy)[mask], np.asarray(policy.entropy)[mask],
      atol=5e-5)
  factor = heated(policy.entropy, heat)
  assert np.asarray(factor)[mask].max() > 1.1
  assert np.asarray(factor)[mask].min() < .9
  drawn = score(config, params, out.tokens, temperature=factor[:, :, None])
  np.testing.assert_allclose(
      np.asarray(out.log_probs)[mask], np.asarray(drawn.log_probs)[mask],
      atol=1e-4)
  # Without strength it is the plain sampler.
  plain = run(config, PLAIN, params, prompts, 4)
  cold = run_heated(heat._replace(strength=jnp.float32(0)))
  np.testing.assert_array_equal(cold.tokens, plain.tokens)
  np.testing.assert_array_equal(cold.log_probs, plain.log_probs)


@pytest.mark.parametrize('name, value', [
    ('temperature', -1.0), ('temperature', float('nan')), ('top_k', -1),
    ('top_k', 2.5), ('top_p', 0.0), ('top_p', 1.1), ('min_p', 1.5),
    ('min_p', -0.1), ('max_tokens', 0), ('pad_id', 38),
    ('stop_tokens', (3, 38)), ('stop_tokens', [3])])
def test_bad_settings_are_named(name, value):
  with pytest.raises(ValueError, match=rf'sampler\.{name} is .*must be'):
    dataclasses.replace(PLAIN, **{name: value}).validate(38)


def test_bad_shapes_are_named(config, params, prompts):
  def attempt(sampler=PLAIN, rows=8, limits=None):
    return draw(config, sampler, params, prompts, jax.random.key(0), samples=2,
                row_ids=jnp.arange(rows), max_tokens=limits)

  with pytest.raises(ValueError, match='make 66; .*max_length.* is 64'):
    attempt(dataclasses.replace(PLAIN, max_tokens=60))
  with pytest.raises(ValueError, match=r'row_ids has the shape \(4,\)'):
    attempt(rows=4)
  with pytest.raises(ValueError, match=r'max_tokens has the shape \(4,\)'):
    attempt(limits=jnp.zeros(4, jnp.int32))
