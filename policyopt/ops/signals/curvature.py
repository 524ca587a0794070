"""What one token would do to the policy, modelled in the output layer alone.

A token with last hidden state h, drawn as a from candidates of probabilities
π, has the score v = e_a − π over the candidates and, with the advantage A, the
gradient A·v hᵀ of the head's rows. A step of size η in a direction D changes
the logits by η·u, u = D h.

Source of everything here: "Stabilizing Policy Gradients for Sample-Efficient
Reinforcement Learning in LLM Reasoning", Melo, Abate, Gal, 2025,
arXiv:2510.00819.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking

Array = jax.Array


class HeadMoments(NamedTuple):
  """Adam's moments of the rows of the output layer.

  Attributes:
    mean: f32[V, D], running mean of the rows' gradients.
    square: f32[V, D], running mean of their squares.
    count: i32[], updates done.
    filled: bool[], whether any row has ever had a gradient.
  """
  mean: Array
  square: Array
  count: Array
  filled: Array


def empty_moments(vocab_size: int, width: int) -> HeadMoments:
  """Moments of a head that has not been updated yet.

  Args:
    vocab_size: V.
    width: D.

  Returns:
    HeadMoments of zeros.

  Example:
    >>> empty_moments(3, 2).mean.shape
    (3, 2)
  """
  zeros = jnp.zeros((vocab_size, width), jnp.float32)
  return HeadMoments(
      zeros, zeros, jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def candidate_scores(
    tokens: Array, top_ids: Array, top_probs: Array, k: int
) -> tuple[Array, Array]:
  """Probabilities of the first k candidates, and v = e_a − π.

  Args:
    tokens: i32[...], a; one that is no candidate gives v = −π.
    top_ids: i32[..., K], candidates in descending probability.
    top_probs: f32[..., K], their probabilities.
    k: how many to keep; K or more keeps all.

  Returns:
    (π f32[..., k], which sums to 1, v f32[..., k]).

  Example:
    >>> ids, probs = jnp.array([[7, 4, 9]]), jnp.array([[.5, .3, .1]])
    >>> p, v = candidate_scores(jnp.array([4]), ids, probs, 2)
    >>> p.tolist(), v.tolist()
    ([[0.625, 0.375]], [[-0.625, 0.625]])
  """
  probs = masking.as_float(top_probs)[..., :k]
  total = jnp.sum(probs, axis=-1, keepdims=True)
  probs = masking.safe_divide(probs, jnp.broadcast_to(total, probs.shape))
  chosen = (top_ids[..., :k] == tokens[..., None]).astype(probs.dtype)
  return probs, chosen - probs


def logit_change(
    hidden: Array,
    gradient: Array,
    ids: Array | None = None,
    moments: HeadMoments | None = None,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Array:
  """u = D h: how a step on this token alone would move its logits, per η.

  Without moments D is the gradient (SGD). With them it is Adam's direction
  m̂ / (√v̂ + eps) after this gradient, of which nothing is kept; as long as no
  row has been filled it is the gradient too.

  Args:
    hidden: f32[B, T, D], h.
    gradient: f32[B, T, K], A·v, the gradient by the candidates' logits.
    ids: i32[B, T, K], the candidates' rows; only read with moments.
    moments: of the head, or None.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.

  Returns:
    f32[B, T, K].

  Example:
    >>> h, gradient = jnp.full((1, 1, 2), 2.), jnp.array([[[1., -1.]]])
    >>> logit_change(h, gradient).tolist()
    [[[8.0, -8.0]]]
  """
  chex.assert_rank([hidden, gradient], 3)
  chex.assert_equal_shape_prefix((hidden, gradient), 2)
  plain = gradient * jnp.sum(jnp.square(hidden), axis=-1, keepdims=True)
  if moments is None:
    return plain
  count = (moments.count + 1).astype(hidden.dtype)
  first, second = _unbias(b1, count), _unbias(b2, count)

  def step(inputs):
    h, g, rows = inputs
    # K x D numbers for each token: one place of all rows at a time.
    g = g[:, :, None] * h[:, None, :]
    mean = b1 * moments.mean[rows] + (1 - b1) * g
    square = b2 * moments.square[rows] + (1 - b2) * jnp.square(g)
    direction = mean / first / (jnp.sqrt(square / second) + eps)
    return jnp.einsum('bkd,bd->bk', direction, h)

  by_place = [jnp.moveaxis(x, 1, 0) for x in (hidden, gradient, ids)]
  adam = jnp.moveaxis(jax.lax.map(step, tuple(by_place)), 0, 1)
  return jnp.where(moments.filled, adam, plain)


def _unbias(decay: float, count: Array) -> Array:
  # 1 − decayⁿ without the cancellation that float32 would suffer.
  return -jnp.expm1(count * (math.log(decay) if decay else -math.inf))


def predicted_change(
    change: Array, score: Array, probs: Array, advantages: Array, rate: Array,
) -> tuple[Array, Array]:
  """m_H and m_F: how the objective and the policy would change.

  m_H = η·A·(v·u) + ½η²·A·[(v·u)² − Var_π(u)];  m_F = ½η²·(v·u)²

  Both are 0 where A = 0. Under SGD u = A·|h|²·v, so that
  m_F = ½η²(A·|h|²·|v|²)².

  Args:
    change: f32[..., K], u.
    score: f32[..., K], v.
    probs: f32[..., K], π.
    advantages: f32[...], A.
    rate: f32[...], η, the learning rate of the update to come.

  Returns:
    (m_H f32[...], slope plus curvature of the objective;
    m_F f32[...] in nats, the single-sample KL divergence).

  Example:
    >>> v, p = jnp.array([.5, -.5]), jnp.array([.5, .5])
    >>> [float(m) for m in predicted_change(4 * v, v, p, 2., .5)]
    [2.0, 0.5]
  """
  chex.assert_equal_shape((change, score, probs))
  along = jnp.sum(score * change, axis=-1)
  mean = jnp.sum(probs * change, axis=-1, keepdims=True)
  variance = jnp.sum(probs * jnp.square(change - mean), axis=-1)
  half = 0.5 * jnp.square(rate)
  square = jnp.square(along)
  return (rate * advantages * along + half * advantages * (square - variance),
          half * square)


def within_limits(
    objective: Array,
    divergence: Array,
    objective_limit: float,
    divergence_limit: float,
    *,
    one_sided: bool = False,
) -> Array:
  """|m_H| < τ_H and m_F < τ_F, both strict.

  Args:
    objective: f32[...], m_H.
    divergence: f32[...], m_F.
    objective_limit: τ_H; ∞ accepts everything that is finite.
    divergence_limit: τ_F.
    one_sided: 0 ≤ m_H < τ_H instead of the first.

  Returns:
    bool[...]; False where a number is not finite.

  Example:
    >>> within_limits(jnp.array([-1., 1., 3.]), jnp.zeros(3), 2., 1.).tolist()
    [True, True, False]
  """
  size = objective if one_sided else jnp.abs(objective)
  accepted = (size < objective_limit) & (divergence < divergence_limit)
  return accepted & (objective >= 0) if one_sided else accepted


def update_moments(
    moments: HeadMoments,
    hidden: Array,
    gradient: Array,
    ids: Array,
    accepted: Array,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
) -> HeadMoments:
  """Adam's moments after the accepted tokens of a batch.

  A row that is a candidate of some accepted token moves by the MEAN of its
  gradients A·v·h over those tokens; the other rows stay, without decay.

  Args:
    moments: before the batch.
    hidden: f32[B, T, D], h.
    gradient: f32[B, T, K], A·v.
    ids: i32[B, T, K] in [0, V), the candidates' rows.
    accepted: bool[B, T].
    b1: decay of the first moment.
    b2: decay of the second moment.

  Returns:
    HeadMoments, with one more update counted.

  Example:
    >>> one = jnp.ones((1, 1, 1))
    >>> after = update_moments(
    ...     empty_moments(2, 1), one, 2 * one, jnp.array([[[1]]]),
    ...     jnp.array([[True]]), b1=.5)
    >>> after.mean.tolist(), int(after.count)
    ([[0.0], [1.0]], 1)
  """
  chex.assert_rank([hidden, gradient, ids, accepted], [3, 3, 3, 2])
  chex.assert_equal_shape_prefix((hidden, gradient, ids, accepted), 2)
  here = jnp.broadcast_to(accepted[:, :, None], ids.shape)
  ids = jnp.where(here, ids, 0)
  gradient = jnp.where(here, gradient, 0)
  rows = moments.mean.shape[0]
  seen = jnp.zeros(rows, hidden.dtype).at[ids].add(here.astype(hidden.dtype))

  def add(total, inputs):
    h, g, row = inputs
    return total.at[row].add(g[:, :, None] * h[:, None, :]), None

  total, _ = jax.lax.scan(
      add, jnp.zeros(moments.mean.shape, hidden.dtype),
      tuple(jnp.moveaxis(x, 1, 0) for x in (hidden, gradient, ids)))
  average = total / jnp.maximum(seen, 1)[:, None]
  present = (seen > 0)[:, None]

  def decay(old, new, rate):
    return jnp.where(present, rate * old + (1 - rate) * new, old)

  return HeadMoments(
      decay(moments.mean, average, b1),
      decay(moments.square, jnp.square(average), b2),
      moments.count + 1, moments.filled | jnp.any(accepted))
