"""Test beds where everything about a policy is computed exactly.

A tabular policy holds logits for every prefix of a sequence of at most a few
tokens, so all V^T sequences can be listed: the policy gradient, the divergence
from a reference and its gradient, pass@k, values and advantages are sums, not
estimates. Against them an estimator's bias and variance are measured.

A bandit is T = 1, and a tree of depth T with V branches is the general case.
Prefixes are numbered breadth first: 0 is the empty one, and prefix y₁…yₜ has
the number Σ over the levels above it plus its digits read in base V.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_MOST = 2**16


class Bed(NamedTuple):
  """All sequences of T tokens out of V, Y = V^T of them.

  Attributes:
    sequences: i32[Y, T].
    prefix: i32[Y, T], number of the prefix that token t follows.
    vocab: V.
    prefixes: (V^T − 1) / (V − 1), rows of the logits.
  """
  sequences: Array
  prefix: Array
  vocab: int
  prefixes: int


def make_bed(vocab: int, length: int) -> Bed:
  """Lists all sequences.

  Args:
    vocab: V, at least 2.
    length: T, at least 1.

  Returns:
    Bed.

  Raises:
    ValueError: for smaller numbers, or more than 65,536 sequences.

  Example:
    >>> bed = make_bed(2, 2)
    >>> bed.sequences.tolist(), bed.prefix.tolist()
    ([[0, 0], [0, 1], [1, 0], [1, 1]], [[0, 1], [0, 1], [0, 2], [0, 2]])
  """
  if vocab < 2 or length < 1:
    raise ValueError(
        f'vocab is {vocab} and length is {length}; they must be at least 2 '
        'and 1')
  count = vocab ** length
  if count > _MOST:
    raise ValueError(
        f'vocab = {vocab} and length = {length} make {count} sequences; at '
        f'most {_MOST} can be listed')
  index = np.arange(count)
  tokens, prefix, first = [], [], 0
  for t in range(length):
    prefix.append(first + index // vocab ** (length - t))
    tokens.append(index // vocab ** (length - t - 1) % vocab)
    first += vocab ** t
  stack = lambda rows: jnp.asarray(np.stack(rows, axis=1), jnp.int32)
  return Bed(stack(tokens), stack(prefix), vocab, first)


def log_probs(bed: Bed, logits: Array) -> Array:
  """log π of every token of every sequence.

  Args:
    bed: of Y sequences.
    logits: f32[prefixes, V].

  Returns:
    f32[Y, T].
  """
  table = jax.nn.log_softmax(logits, axis=-1)
  return table[bed.prefix, bed.sequences]


def probs(bed: Bed, logits: Array) -> Array:
  """π of every sequence, f32[Y]."""
  return jnp.exp(log_probs(bed, logits).sum(axis=1))


def expected(bed: Bed, logits: Array, reward: Array) -> Array:
  """J = Σ_y π(y)·r(y); differentiable by the logits.

  Args:
    bed: of Y sequences.
    logits: f32[prefixes, V].
    reward: f32[Y].

  Returns:
    f32[].

  Example:
    >>> bandit = make_bed(2, 1)
    >>> float(expected(bandit, jnp.zeros((1, 2)), jnp.array([0., 1.])))
    0.5
  """
  return (probs(bed, logits) * reward).sum()


def kl(bed: Bed, logits: Array, reference: Array) -> Array:
  """KL(π ‖ π_ref) of sequences in nats, f32[]; differentiable by the logits.
  """
  gap = log_probs(bed, logits) - log_probs(bed, reference)
  return (probs(bed, logits) * gap.sum(axis=1)).sum()


def pass_at_k(bed: Bed, logits: Array, correct: Array, k: int) -> Array:
  """1 − (1 − p)^k for p the probability of a correct sequence, f32[].

  Args:
    bed: of Y sequences.
    logits: f32[prefixes, V].
    correct: bool[Y].
    k: samples.

  Returns:
    f32[].
  """
  return 1 - (1 - (probs(bed, logits) * correct).sum()) ** k


def values(bed: Bed, logits: Array, reward: Array) -> Array:
  """V of every prefix: the expected reward from there on, f32[prefixes].

  V(s) = Σ_{y through s} π(y)·r(y) / Σ_{y through s} π(y)
  """
  weight = jnp.broadcast_to(probs(bed, logits)[:, None], bed.prefix.shape)

  def total(x):
    return jax.ops.segment_sum(
        x.reshape(-1), bed.prefix.reshape(-1), bed.prefixes)

  return total(weight * reward[:, None]) / jnp.maximum(total(weight), 1e-30)


def advantages(bed: Bed, logits: Array, reward: Array) -> Array:
  """A of every token: V after it minus V before it, f32[Y, T].

  After the last token the value is the reward.
  """
  before = values(bed, logits, reward)[bed.prefix]
  after = jnp.concatenate([before[:, 1:], reward[:, None]], axis=1)
  return after - before

