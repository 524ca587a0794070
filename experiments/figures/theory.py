"""Exact means of estimators on tabular policies, written down from theory.

Nothing here calls the library's estimators: these are what they are compared
with.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.figures import beds
from policyopt.envs import exact

# (right answers k of G, G) -> advantages of (a right one, a wrong one).
Rule = Callable[[int, int], tuple[float, float]]


def by_std(k: int, count: int, ddof: int = 1) -> tuple[float, float]:
  """GRPO: (R − μ) / σ."""
  mean = k / count
  spread = np.sqrt(mean * (1 - mean) * count / (count - ddof))
  return ((1 - mean) / spread, -mean / spread) if 0 < k < count else (0., 0.)


def by_population_std(k: int, count: int) -> tuple[float, float]:
  """GRPO with the population's σ."""
  return by_std(k, count, 0)


def by_mean(k: int, count: int) -> tuple[float, float]:
  """MaxRL: (R − μ) / μ, and 0 where nothing is right."""
  return (count / k - 1, -1.) if k else (0., 0.)


def only_one(k: int, count: int) -> tuple[float, float]:
  """pass@k: the margin of the best over the second best."""
  del count
  return float(k == 1), 0.


def only_one_by_std(k: int, count: int) -> tuple[float, float]:
  """pass@k, over σ, which is 1/√G when one of G is right."""
  return float(k == 1) * np.sqrt(count), 0.


def with_perfect(k: int, count: int) -> tuple[float, float]:
  """NGRPO: (R − μ) / σ of the group and one perfect answer that is not real."""
  return by_std(k + 1, count + 1) if k < count else (0., 0.)


def by_std_of_others(k: int, count: int) -> tuple[float, float]:
  """NeMo RL: (R − μ₋) / σ₋ of the others; no division where σ₋ is 0."""
  def one(reward, others):
    mean = others / (count - 1)
    spread = np.sqrt(mean * (1 - mean) * (count - 1) / (count - 2))
    return (reward - mean) / (spread or 1.)
  return one(1, max(k - 1, 0)), one(0, min(k, count - 1))


def weight(rule: Rule, p: float, count: int) -> float:
  """w of E[g] = w(p)·∇p for advantages that depend on the group's count only.

  E[∇log π | right] = ∇p / p and E[∇log π | wrong] = −∇p / (1 − p), so that
  w = E[right(m + 1) − wrong(m)] over m ~ Binomial(G − 1, p), the right answers
  among the others.

  Args:
    rule: advantages.
    p: success rate.
    count: G.

  Returns:
    w; 1 is the policy gradient.

  Example:
    >>> weight(lambda k, G: (1 - k / G, -k / G), 0.3, 4)  # Dr. GRPO: 1 − 1/G
    0.75
  """
  others = np.arange(count)
  chance = stats.binom.pmf(others, count - 1, p)
  gap = [rule(m + 1, count)[0] - rule(m, count)[1] for m in others]
  return float(round(chance @ np.array(gap), 12))


def policy_gradient(world: beds.World, logits) -> np.ndarray:
  """∇J, f64[Q, prefixes, V]."""
  return np.asarray(jax.grad(lambda x: beds.objective(world, x))(logits),
                    np.float64)


def success(world: beds.World, logits) -> np.ndarray:
  """p of every prompt, f64[Q]."""
  return np.asarray(jax.vmap(exact.expected, (None, 0, 0))(
      world.bed, logits, world.reward), np.float64)


def reweighted(world: beds.World, logits, rule: Rule,
               count: int) -> np.ndarray:
  """w(p)·∇p of every prompt, over Q."""
  weights = [weight(rule, p, count) for p in success(world, logits)]
  return policy_gradient(world, logits) * np.array(weights)[:, None, None]


def log_likelihood(world: beds.World, logits, terms: int) -> np.ndarray:
  """The gradient of Σ_{k ≤ K} pass@k / k, mean over prompts."""
  total = lambda x: sum(
      beds.pass_at_k(world, x, k) / k for k in range(1, terms + 1))
  return np.asarray(jax.grad(total)(logits), np.float64)


def mean_per_row(world: beds.World, logits, count: int) -> np.ndarray:
  """(1 − 1/G)·E[(R − J)·∇log π(y) / |y|]: rows over their own length."""
  fixed = jax.vmap(exact.probs, (None, 0))(world.bed, logits)
  centred = world.reward - (fixed * world.reward).sum(1)[:, None]
  def total(x):
    score = beds.counted(world, jax.vmap(exact.log_probs, (None, 0))(
        world.bed, x)).sum(-1) / world.length
    return (fixed * centred * score).sum(1).mean()
  return (1 - 1 / count) * np.asarray(jax.grad(total)(logits), np.float64)


def generalized(world: beds.World, logits, wrong, lam: float) -> np.ndarray:
  """GAE of trees of two tokens with values Ṽ that are not V.

  The second token's advantage is R − Ṽ, whose mean gradient is right. The
  first one's ascends E[(1 − λ)·Ṽ + λ·R] of what it leads to.
  """
  bed = world.bed
  def first(x, values, reward):
    after = jnp.where(world.length == 1, reward,
                      (1 - lam) * values[bed.prefix[:, 1]] + lam * reward)
    return exact.expected(bed, x, after)
  given = np.array(jax.vmap(jax.grad(first))(logits, wrong, world.reward),
                   np.float64) / len(world.reward)
  right = policy_gradient(world, logits)
  right[:, 0] = given[:, 0]
  return right


def kl_gradients(world: beds.World, logits) -> dict[str, np.ndarray]:
  """Gradients of divergences between one policy and its reference.

  'reverse', 'forward' and 'l1' are sums over prefixes of the divergence of the
  next token, with the chance of the prefix held fixed; 'sequence' is the whole
  gradient of KL(π ‖ π_ref), the chance of prefixes included. For one token
  'reverse' and 'sequence' are the same.
  """
  bed, ref = world.bed, world.reference[0]
  reach = jax.ops.segment_sum(
      jnp.repeat(exact.probs(bed, logits[0]), bed.sequences.shape[1]),
      bed.prefix.reshape(-1), bed.prefixes)
  def local(of):
    def total(x):
      p, q = jax.nn.log_softmax(x[0]), jax.nn.log_softmax(ref)
      return (reach * of(p, q).sum(-1)).sum()
    return np.asarray(jax.grad(total)(logits), np.float64)
  return dict(
      reverse=local(lambda p, q: jnp.exp(p) * (p - q)),
      forward=local(lambda p, q: jnp.exp(q) * (q - p)),
      l1=local(lambda p, q: jnp.abs(jnp.exp(p) - jnp.exp(q))),
      sequence=np.asarray(jax.grad(
          lambda x: exact.kl(bed, x[0], ref))(logits), np.float64))


def in_reward(world: beds.World, logits, cost) -> np.ndarray:
  """E[Σₜ cost(xₜ)·∇log π(y)] of one policy, x = log π − log π_ref."""
  bed = world.bed
  gap = exact.log_probs(bed, logits[0]) - exact.log_probs(
      bed, world.reference[0])
  return np.asarray(jax.grad(lambda x: exact.expected(
      bed, x[0], cost(gap).sum(-1)))(logits), np.float64)
