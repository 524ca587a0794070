"""Statistics over problems: pass@k, majority votes, intervals."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


class Interval(NamedTuple):
  """A mean over problems, with the ends of its confidence interval.

  Attributes:
    mean: f32[].
    low: f32[], lower end.
    high: f32[], upper end.
  """
  mean: Array
  low: Array
  high: Array


def _float(x: Array) -> Array:
  """At least float32; float64 stays, and integers take JAX's own float."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return x.astype(jnp.result_type(float))
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pass_at_k(correct: Array, total: Array, k: int) -> Array:
  """Chance that at least one of k samples is correct, without bias.

  pass@k = 1 − C(n − c, k) / C(n, k) = 1 − ∏ᵢ (1 − c / (n − i)), i in [0, k),
  for c correct samples of n. The product is summed in logarithms, so large
  n and k neither overflow nor cancel.

  Equals the share of correct samples when k = 1.

  Args:
    correct: i32[N], correct samples per problem.
    total: i32[N], samples per problem.
    k: samples that one may try, at least 1.

  Returns:
    f32[N] in [0, 1]; NaN where `total < k`, which cannot be estimated.

  Raises:
    ValueError: if k is not positive.

  Source: "Evaluating Large Language Models Trained on Code", Chen et al.,
  2021, arXiv 2107.03374.

  Example:
    >>> import jax.numpy as jnp
    >>> pass_at_k(jnp.array([0, 1, 4]), jnp.array([4, 4, 4]), k=2).tolist()
    [0.0, 0.5, 1.0]
  """
  if k < 1:
    raise ValueError(f'k is {k}; pass@k needs a k of at least 1')
  correct, total = _float(correct), _float(total)
  chex.assert_rank([correct, total], 1)
  chex.assert_equal_shape([correct, total])
  left = total[:, None] - jnp.arange(k, dtype=total.dtype)[None, :]
  certain = total - correct < k
  # The terms of a certain success would hold log(0) or worse.
  share = jnp.where(certain[:, None], 0., correct[:, None]) / (
      jnp.maximum(left, 1.))
  chance = -jnp.expm1(jnp.log1p(-share).sum(-1))
  chance = jnp.where(certain, 1., jnp.abs(chance))
  return jnp.where(total < k, jnp.nan, chance)


def maj_at_k(answer: Array, correct: Array, k: int | None = None) -> Array:
  """Chance that the most frequent of the first k answers is correct.

  Ties are broken evenly: m tied answers of which one is correct give 1/m.

  Args:
    answer: i32[N, S], id of each sample's final answer; equal answers of a
      problem have equal ids; negative for a sample without an answer, which
      does not vote.
    correct: bool[N, S], whether each sample's answer is correct.
    k: samples that vote; None for all S.

  Returns:
    f32[N] in [0, 1]; 0 where nobody votes.

  Raises:
    ValueError: if k is not in [1, S].

  Source: "Self-Consistency Improves Chain of Thought Reasoning in Language
  Models", Wang et al., 2022, arXiv 2203.11171.

  Example:
    >>> import jax.numpy as jnp
    >>> answer = jnp.array([[7, 7, 9], [3, 5, -1]])
    >>> maj_at_k(answer, answer == jnp.array([[7], [5]])).tolist()
    [1.0, 0.5]
  """
  chex.assert_rank([answer, correct], 2)
  chex.assert_equal_shape([answer, correct])
  samples = answer.shape[1]
  k = samples if k is None else k
  if not 1 <= k <= samples:
    raise ValueError(
        f'k is {k}; with {samples} samples per problem it must be in '
        f'[1, {samples}]')
  answer, correct = answer[:, :k], correct[:, :k].astype(bool)
  votes = answer >= 0
  same = (answer[:, :, None] == answer[:, None, :]) & votes[:, None, :]
  count = jnp.where(votes, same.sum(-1), 0)
  winner = votes & (count == count.max(-1, keepdims=True))
  # 1 / count makes the samples of one answer weigh 1 together.
  weight = jnp.where(winner, 1. / jnp.maximum(count, 1), 0.)
  won = jnp.where(correct, weight, 0.).sum(-1)
  return won / jnp.where(winner.any(-1), weight.sum(-1), 1.)


def mean_interval(x: Array, confidence: float = 0.95) -> Interval:
  """Normal confidence interval of a mean over problems.

  x̄ ± z s / √N, where s² has N − 1 in its denominator.

  Args:
    x: [N], one number per problem, such as its pass@1.
    confidence: share of such intervals that hold the true mean, in (0, 1).

  Returns:
    An Interval; infinitely wide when N = 1.

  Raises:
    ValueError: if there is no problem or the confidence is out of range.

  Source: "Adding Error Bars to Evals: A Statistical Approach to Language
  Model Evaluations", Miller, 2024, arXiv 2411.00640.

  Example:
    >>> import jax.numpy as jnp
    >>> interval = mean_interval(jnp.array([0., 1., 1., 0.]))
    >>> [round(float(end), 3) for end in interval]
    [0.5, -0.066, 1.066]
  """
  _check(x, confidence)
  x = _float(x)
  mean = x.mean()
  if x.shape[0] == 1:
    return Interval(mean, jnp.full_like(mean, -jnp.inf),
                    jnp.full_like(mean, jnp.inf))
  z = jax.scipy.special.ndtri(jnp.asarray((1. + confidence) / 2., x.dtype))
  half = z * x.std(ddof=1) / jnp.sqrt(jnp.asarray(x.shape[0], x.dtype))
  return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    x: Array, key: Array, resamples: int = 1000, confidence: float = 0.95
) -> Interval:
  """Percentile bootstrap interval of a mean over problems.

  Unlike the normal interval it stays within the range of x, which matters
  for few problems and for means near 0 or 1.

  Args:
    x: [N], one number per problem.
    key: random key; consumes the key.
    resamples: how often N problems are drawn with replacement.
    confidence: share of such intervals that hold the true mean, in (0, 1).

  Returns:
    An Interval around the mean of x.

  Raises:
    ValueError: if there is no problem or the confidence is out of range.

  Source: "Bootstrap Methods: Another Look at the Jackknife", Efron, 1979.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> interval = bootstrap_interval(jnp.ones(5), jax.random.key(0))
    >>> [float(end) for end in interval]
    [1.0, 1.0, 1.0]
  """
  _check(x, confidence)
  x = _float(x)
  size = x.shape[0]
  rows = jax.random.randint(key, (resamples, size), 0, size)
  tail = (1. - confidence) / 2.
  low, high = jnp.quantile(
      x[rows].mean(-1), jnp.asarray([tail, 1. - tail], x.dtype))
  return Interval(x.mean(), low, high)


def paired_gain_interval(
    before: Array, after: Array, confidence: float = 0.95
) -> Interval:
  """Normal confidence interval of the mean gain on the same problems.

  Reduces to `mean_interval(after - before)`: pairing removes the spread of
  the problems' difficulty, which two separate intervals would contain.

  Args:
    before: [N], one number per problem.
    after: [N], the same problems in the same order.
    confidence: share of such intervals that hold the true gain, in (0, 1).

  Returns:
    An Interval of the gain; a gain is plain when `low > 0`.

  Raises:
    ValueError: if there is no problem or the confidence is out of range.

  Source: "Adding Error Bars to Evals: A Statistical Approach to Language
  Model Evaluations", Miller, 2024, arXiv 2411.00640.

  Example:
    >>> import jax.numpy as jnp
    >>> before = jnp.array([0.1, 0.5, 0.9])
    >>> gain = paired_gain_interval(before, before + 0.05)
    >>> [round(float(end), 3) for end in gain]
    [0.05, 0.05, 0.05]
  """
  chex.assert_equal_shape([before, after])
  return mean_interval(_float(after) - _float(before), confidence)


def _check(x: Array, confidence: float):
  """Refuses what has no interval."""
  chex.assert_rank(x, 1)
  if x.shape[0] == 0:
    raise ValueError('x has no problems; an interval needs at least 1')
  if not 0. < confidence < 1.:
    raise ValueError(f'confidence is {confidence}; it must be in (0, 1)')
