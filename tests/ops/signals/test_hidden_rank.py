"""The effective rank of hidden states against numpy."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt import ops

B, T, D = 3, 9, 4
few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**16)
lengths_of = st.lists(
    st.integers(0, T), min_size=B, max_size=B).map(np.array)
masks_of = st.lists(st.booleans(), min_size=B * T, max_size=B * T).map(
    lambda x: np.array(x).reshape(B, T))
_rank = jax.jit(ops.effective_rank)
_front = jax.jit(ops.chosen_first, static_argnums=2)


def _hidden(seed):
  return np.random.default_rng(seed).normal(size=(B, T, D)).astype(np.float32)


def _plain(rows):
  """The effective rank of a matrix."""
  if len(rows) < 2:
    return 0.
  rows = rows.astype(np.float64)
  values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
  p = values / (values.sum() + 1e-8)
  return np.exp(-(p * np.log(p + 1e-8)).sum())


@few
@given(seeds, lengths_of)
def test_equals_a_plain_computation(seed, lengths):
  hidden = _hidden(seed)
  dirty = np.where(
      (np.arange(T)[None] < lengths[:, None])[..., None], hidden, np.nan)
  expected = [_plain(hidden[b, :n]) for b, n in enumerate(lengths)]
  np.testing.assert_allclose(_rank(dirty, lengths), expected, rtol=1e-4)


@few
@given(seeds, lengths_of)
def test_what_the_rank_does_not_see(seed, lengths):
  hidden = _hidden(seed)
  turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, D)))
  moved = (3 * hidden @ turn.astype(np.float32) + 10).astype(np.float32)
  plain = _rank(hidden, lengths)
  np.testing.assert_allclose(_rank(moved, lengths), plain, rtol=1e-3)
  most = np.minimum(lengths - 1, D)
  enough = lengths >= 2
  assert (np.asarray(plain)[enough] >= 1 - 1e-5).all()
  assert (np.asarray(plain) <= np.maximum(most, 0) + 1e-3).all()
  assert (np.asarray(plain)[~enough] == 0).all()


def test_rows_of_a_low_rank():
  rng = np.random.default_rng(0)
  flat = rng.normal(size=(B, T, 2)) @ rng.normal(size=(2, D))
  ranks = np.asarray(_rank(flat.astype(np.float32), np.full(B, T)))
  assert (ranks > 1).all() and (ranks < 2.01).all()
  same = np.broadcast_to(rng.normal(size=D), (B, T, D)).astype(np.float32)
  assert (np.asarray(_rank(same, np.array([9, 5, 1]))) == [1, 1, 0]).all()


@few
@given(seeds, masks_of, st.sampled_from([1, 4, T + 1]))
def test_chosen_tokens_move_to_the_front(seed, mask, last):
  hidden = _hidden(seed)
  kept, length = _front(hidden, mask, last)
  assert kept.shape == (B, min(T, last), D)
  for b in range(B):
    own = hidden[b, mask[b]][-last:]
    assert length[b] == len(own)
    np.testing.assert_array_equal(kept[b, :len(own)], own)
    assert (np.asarray(kept)[b, len(own):] == 0).all()


@functools.cache
def _compiled(last, rank_of_all):
  return jax.jit(functools.partial(
      ops.rank_dynamics, stride=2, last=last, rank_of_all=rank_of_all))


@few
@given(seeds, masks_of, st.sampled_from([(5, True), (7, False), (99, False)]))
def test_growth_equals_a_loop(seed, mask, setting):
  hidden = _hidden(seed)
  out = _compiled(*setting)(hidden, mask)
  for b in range(B):
    every = hidden[b, mask[b]]
    own = every[-setting[0]:]
    ranks = [_plain(own[:t + 1]) for t in range(2, len(own), 2)]
    steps = [ranks[j] - np.mean(ranks[:j]) for j in range(1, len(ranks))]
    jumps = np.diff(steps)
    expected = (np.mean(jumps) if len(jumps) else 0.,
                np.mean(steps) if len(steps) else 0.,
                _plain(every if setting[1] else own))
    np.testing.assert_allclose(
        [x[b] for x in out], expected, rtol=1e-3, atol=1e-3)


def test_padding_changes_nothing():
  hidden, mask = _hidden(0), np.ones((B, T), bool)
  mask[0, 4:] = mask[1, 7:] = False
  more = np.pad(hidden, ((0, 0), (0, 3), (0, 0)), constant_values=9.)
  padded = np.pad(mask, ((0, 0), (0, 3)))
  run = _compiled(99, False)
  for a, b in zip(run(hidden, mask), run(more, padded)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_hidden_states_are_constants():
  mask = np.ones((B, T), bool)
  gradient = jax.grad(lambda hidden: sum(map(
      jnp.sum, _compiled(99, False)(hidden, mask))))(jnp.zeros((B, T, D)))
  assert (gradient == 0).all()


def test_wrong_windows_are_refused():
  for name in ('stride', 'last'):
    with pytest.raises(ValueError, match=f'{name} is 0'):
      ops.rank_dynamics(
          np.zeros((1, 2, 2)), np.ones((1, 2), bool), **{name: 0})


# The controller that turns dynamics into a bonus.


@few
@given(st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4),
       st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4),
       st.sampled_from([1.5, 2., 10.]))
def test_a_bonus_is_bounded(signal, advantages, kappa):
  signal, advantages = (
      np.array(x, np.float32) for x in (signal, advantages))
  added = np.asarray(ops.bounded_bonus(signal, advantages, kappa=kappa))
  shaped = advantages + added
  assert (added >= 0).all() and (added[signal <= 0] == 0).all()
  assert (shaped * advantages >= 0).all() and (added[advantages == 0] == 0
                                               ).all()
  assert (np.abs(shaped) <= (1 + 1 / kappa) * np.abs(advantages) + 1e-5).all()


def test_what_the_signal_is_made_of():
  mean = jnp.array([1., 2., 4.])
  up = jnp.array([[99., 2., 8.], [-99., 2., 8.], [99., 4., 4.],
                  [-99., 4., 4.]])
  tendency = np.asarray(ops.rank_signal(up, mean, gain=100.))
  one = np.tanh(1.)
  # An accelerating rank is rewarded for ER, a slowing one for ERV.
  np.testing.assert_allclose(tendency, [one, 0, 0, one], atol=1e-6)
  np.testing.assert_allclose(
      ops.rank_signal(up, mean, mix='even'), [one / 2] * 4, rtol=1e-5)
  np.testing.assert_allclose(
      ops.rank_signal(up, mean, mix='sum'), [one] * 4, rtol=1e-5)
  # A baseline of 0 saturates and divides by nothing.
  far = ops.rank_signal(up, jnp.zeros(3), mix='sum')
  np.testing.assert_allclose(far, 2 * np.tanh(5.), rtol=1e-5)


def test_the_baseline_lags_two_batches():
  baseline, seen = ops.empty_baseline(), []
  for i in range(4):
    batch = jnp.full(3, float(10 ** i))
    mean, ready = ops.current_mean(baseline, batch, start='zero')
    seen.append((float(mean[0]), bool(ready)))
    baseline = ops.next_baseline(baseline, mean, batch, 0., rate=.5)
  # Batches of means 1, 10, 100, 1000; theirs starts at 0.
  assert seen == [(0., False), (0., True), (.5, True), (5.25, True)]
  baseline, seen = ops.empty_baseline(), []
  for i in range(4):
    batch = jnp.full(3, float(10 ** i))
    mean, ready = ops.current_mean(baseline, batch)
    seen.append((float(mean[0]), bool(ready)))
    baseline = ops.next_baseline(baseline, mean, batch, 0., rate=.5)
  assert seen == [(1., True), (1., True), (1., True), (5.5, True)]


@pytest.mark.parametrize('kw, match', [
    (dict(start='one'), "start is 'one'"), (dict(mix='both'), "mix is 'both'"),
    (dict(explore=(1., 0.)), r'explore is \(1.0, 0.0\)'),
    (dict(exploit=()), r'exploit is \(\)')])
def test_wrong_controllers_are_refused(kw, match):
  with pytest.raises(ValueError, match=match):
    ops.check_controller(**kw)
