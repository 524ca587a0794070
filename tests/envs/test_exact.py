"""Exact quantities agree with sums written out in plain Python."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.envs import exact

VOCAB, LENGTH = 3, 3


@pytest.fixture(scope='module')
def bed():
  return exact.make_bed(VOCAB, LENGTH)


@pytest.fixture
def tables(bed, rng):
  """(logits, reference, reward), the first two by prefix."""
  shape = (bed.prefixes, VOCAB)
  return (rng.normal(size=shape).astype(np.float32),
          rng.normal(size=shape).astype(np.float32),
          rng.normal(size=VOCAB ** LENGTH).astype(np.float32))


def _token_probs(logits):
  """Sequence -> probabilities of its tokens, by walking down the tree."""
  numbers = {}
  for t in range(LENGTH):
    for prefix in itertools.product(range(VOCAB), repeat=t):
      numbers[prefix] = len(numbers)
  found = {}
  for y in itertools.product(range(VOCAB), repeat=LENGTH):
    found[y] = []
    for t in range(LENGTH):
      row = np.exp(logits[numbers[y[:t]]].astype(np.float64))
      found[y].append(row[y[t]] / row.sum())
  return found


def test_sequences_are_all_of_them(bed):
  wanted = list(itertools.product(range(VOCAB), repeat=LENGTH))
  assert [tuple(y) for y in bed.sequences.tolist()] == wanted
  assert bed.prefixes == 1 + VOCAB + VOCAB ** 2


def test_probabilities_and_what_follows_from_them(bed, tables):
  logits, reference, reward = tables
  found, other = _token_probs(logits), _token_probs(reference)
  p = np.array([math.prod(x) for x in found.values()])
  q = np.array([math.prod(x) for x in other.values()])
  np.testing.assert_allclose(exact.probs(bed, logits), p, rtol=1e-5)
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
  np.testing.assert_allclose(
      exact.expected(bed, logits, reward), p @ reward, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      exact.kl(bed, logits, reference), p @ np.log(p / q), rtol=1e-4)
  right = reward > 0
  np.testing.assert_allclose(
      exact.pass_at_k(bed, logits, right, 4), 1 - p[~right].sum() ** 4,
      rtol=1e-4)


def test_values_are_means_and_advantages_their_steps(bed, tables):
  logits, _, reward = tables
  values = np.asarray(exact.values(bed, logits, reward))
  p = np.asarray(exact.probs(bed, logits))
  np.testing.assert_allclose(values[0], p @ reward, rtol=1e-4, atol=1e-6)
  first = np.asarray(bed.sequences[:, 0]) == 2
  np.testing.assert_allclose(
      values[3], p[first] @ reward[first] / p[first].sum(), rtol=1e-4)
  steps = np.asarray(exact.advantages(bed, logits, reward))
  # They lead from the value of the start to the reward, and are 0 on average.
  np.testing.assert_allclose(values[0] + steps.sum(1), reward, atol=1e-5)
  np.testing.assert_allclose(p @ steps, 0, atol=1e-6)


def test_the_policy_gradient_is_that_of_advantages(bed, tables):
  logits, _, reward = tables
  gradient = jax.grad(lambda x: exact.expected(bed, x, reward))(logits)
  weight = exact.probs(bed, logits)[:, None] * exact.advantages(
      bed, logits, reward)
  other = jax.grad(
      lambda x: (weight * exact.log_probs(bed, x)).sum())(logits)
  np.testing.assert_allclose(gradient, other, atol=1e-6)
  assert float(jnp.abs(gradient).max()) > 1e-3


@pytest.mark.parametrize('vocab, length, message', [
    (1, 2, 'vocab is 1'), (2, 0, 'length is 0'), (10, 6, '1000000 sequences')])
def test_what_cannot_be_listed_is_refused(vocab, length, message):
  with pytest.raises(ValueError, match=message):
    exact.make_bed(vocab, length)
