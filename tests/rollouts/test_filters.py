"""Top-k, top-p and min-p against a plain numpy reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.rollouts import filters

# Compiled without optimisation, which is where the time would go.
keep = jax.jit(
    filters.keep, static_argnames=('top_k', 'top_p', 'min_p'),
    compiler_options={'xla_backend_optimization_level': 0})

SETTINGS = [
    dict(top_k=1), dict(top_k=5), dict(top_k=40), dict(top_p=0.9),
    dict(top_p=1e-6), dict(top_p=0.999), dict(min_p=0.1), dict(min_p=1.0),
    dict(top_k=7, top_p=0.6), dict(top_k=12, min_p=0.2),
    dict(top_p=0.8, min_p=0.05), dict(top_k=20, top_p=0.9, min_p=0.02),
]


def reference_row(logits, top_k=0, top_p=1.0, min_p=0.0):
  """One row in float64, straight from the definitions."""
  logits = np.asarray(logits, np.float64)
  # Descending, the lower id first among equals.
  order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
  if top_k:
    last = logits[order[min(top_k, len(order)) - 1]]
    order = [v for v in order if logits[v] >= last]
  probs = np.exp(logits - logits.max())
  probs /= probs[order].sum()
  if top_p < 1:
    size, mass = 0, 0.0
    while size < len(order) and mass < top_p:
      mass += probs[order[size]]
      size += 1
    order = order[:size]
  order = [v for v in order if probs[v] >= min_p * probs.max() * (1 - 1e-12)]
  kept = np.zeros(len(logits), bool)
  kept[order] = True
  return kept


def reference(logits, **settings):
  """Every row of [B, V]."""
  return np.stack([reference_row(row, **settings) for row in logits])


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_random_logits_match_reference(settings, rng):
  logits = rng.normal(size=(64, 31)).astype(np.float32) * 2
  kept = keep(jnp.asarray(logits), **settings)
  np.testing.assert_array_equal(kept, reference(logits, **settings))


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_ties_match_reference(settings, rng):
  # Few distinct values: nearly every edge of a set is a tie. The values are
  # such that no sum of probabilities falls exactly on a threshold.
  logits = rng.integers(-2, 3, size=(64, 31)).astype(np.float32) * 0.7
  kept = keep(jnp.asarray(logits), **settings)
  np.testing.assert_array_equal(kept, reference(logits, **settings))


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_a_set_is_never_empty_and_holds_the_best(settings):
  logits = jnp.array([
      [0., 0., 0., 0.], [-0., 0., -0., 0.], [1e30, -1e30, 0., 1.],
      [-1e30, -1e30, -1e30, -1e30], [-jnp.inf, -3., -jnp.inf, -4.],
      [80., 79.9999, -80., 0.]])
  kept = np.asarray(keep(logits, **settings))
  assert kept.any(axis=1).all()
  assert kept[np.arange(len(kept)), np.argmax(logits, axis=1)].all()


@pytest.mark.parametrize('name, value, size', [
    ('top_k', 3, 10), ('top_p', 0.5, 5), ('min_p', 0.5, 10)])
def test_equal_logits(name, value, size):
  # All tie for the third place, and are equally likely. 0.5 of ten equal
  # tokens is five of them, up to rounding of the sum.
  kept = keep(jnp.zeros((2, 10)), **{name: value})
  assert abs(int(kept[0].sum()) - size) <= (name == 'top_p')
  assert kept[0].tolist() == sorted(kept[0].tolist(), reverse=True)


def test_nothing_configured_is_none():
  assert filters.keep(jnp.zeros((2, 4))) is None


@pytest.mark.parametrize('keeps', [
    functools.partial(filters.keep_top_k, k=4),
    functools.partial(filters.keep_top_k, k=9),
    functools.partial(filters.keep_top_p, p=1.0),
    functools.partial(filters.keep_min_p, p=0.0)])
def test_settings_that_keep_everything(keeps):
  assert keeps(jnp.array([[0., 5., -9., 2.]])).all()


def test_leading_dimensions(rng):
  logits = jnp.asarray(rng.normal(size=(2, 3, 17)), jnp.float32)
  settings = dict(top_k=9, top_p=0.8, min_p=0.05)
  whole = keep(logits, **settings)
  rows = keep(logits.reshape(6, 17), **settings)
  np.testing.assert_array_equal(whole.reshape(6, 17), rows)


def test_low_precision_logits(rng):
  logits = jnp.asarray(rng.normal(size=(8, 31)), jnp.bfloat16)
  kept = filters.keep_top_k(logits, 6)
  np.testing.assert_array_equal(
      kept, reference(np.asarray(logits, np.float32), top_k=6))
