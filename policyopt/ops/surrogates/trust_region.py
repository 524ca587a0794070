"""Who may still move the policy: masks and weights from divergences."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, selection

Array = jax.Array

DIVERGENCES = ('tv', 'kl')
_COMPLEMENT_EPS = 1e-8  # added to 1 − p before its logarithm


def binary_kl(log_probs: Array, old_log_probs: Array) -> Array:
  """KL(p_old ‖ p) of the two outcomes "this token" and "another one".

  p_old·log(p_old / p) + (1 − p_old)·log((1 − p_old) / (1 − p))

  Args:
    log_probs: f32[...], log p.
    old_log_probs: f32[...], log p_old.

  Returns:
    f32[...]; infinite where p is no probability.

  Source: "Rethinking the Trust Region in LLM Reinforcement Learning", Qi et
    al., 2026, arXiv:2602.04879.

  Example:
    >>> x = jnp.log(jnp.array([.5, .25]))
    >>> [round(float(kl), 3) for kl in binary_kl(x, x[0])]
    [0.0, 0.144]
  """
  old = jnp.exp(old_log_probs)
  rest = -jnp.expm1(log_probs) + _COMPLEMENT_EPS
  old_rest = -jnp.expm1(old_log_probs) + _COMPLEMENT_EPS
  valid = (rest > 0) & (old_rest > 0)
  rest, old_rest = (jnp.where(valid, x, 1) for x in (rest, old_rest))
  divergence = old * (old_log_probs - log_probs) + (1 - old) * (
      jnp.log(old_rest) - jnp.log(rest))
  return jnp.where(valid, divergence, jnp.inf)


def divergence_mask(
    log_probs: Array,
    old_log_probs: Array,
    advantages: Array,
    max_fall: float,
    max_rise: float,
    *,
    divergence: str = 'tv',
) -> Array:
  """Tokens that have not yet moved too far in the direction A pushes them.

  'tv':  p − p_old ≤ max_rise where A > 0, p − p_old ≥ −max_fall elsewhere;
  'kl':  KL ≤ max_rise or p ≤ p_old where A > 0,
         KL ≤ max_fall or p ≥ p_old elsewhere (see `binary_kl`).

  Args:
    log_probs: f32[B, T], of the policy being trained.
    old_log_probs: f32[B, T], of the policy that sampled.
    advantages: f32[B, T].
    max_fall: bound for tokens that become less likely.
    max_rise: bound for tokens that become more likely.
    divergence: 'tv' or 'kl'.

  Returns:
    bool[B, T], True for tokens that take part.

  Raises:
    ValueError: an unknown `divergence`.

  Source: "Rethinking the Trust Region in LLM Reinforcement Learning", Qi et
    al., 2026, arXiv:2602.04879.

  Example:
    >>> old, new = jnp.log(.5) * jnp.ones(3), jnp.log(jnp.array([.9, .9, .1]))
    >>> divergence_mask(new, old, jnp.array([1., -1., -1.]), .2, .2).tolist()
    [False, True, False]
  """
  if divergence not in DIVERGENCES:
    raise ValueError(
        f'divergence is {divergence!r}; it must be one of {DIVERGENCES}')
  chex.assert_equal_shape((log_probs, old_log_probs, advantages))
  log_probs, old_log_probs = jax.lax.stop_gradient((log_probs, old_log_probs))
  moved = jnp.exp(log_probs) - jnp.exp(old_log_probs)
  if divergence == 'tv':
    return jnp.where(advantages > 0, moved <= max_rise, moved >= -max_fall)
  distance = binary_kl(log_probs, old_log_probs)
  return jnp.where(advantages > 0, (distance <= max_rise) | (moved <= 0),
                   (distance <= max_fall) | (moved >= 0))


def second_moment_mask(
    log_ratios: Array, mask: Array, threshold: float) -> Array:
  """Drops the largest (log ρ)² until the mean of the rest is < threshold.

  Args:
    log_ratios: f32[B, T].
    mask: bool[B, T], tokens that are candidates.
    threshold: bound on the mean square.

  Returns:
    bool[B, T], the tokens that stay. If no set meets the bound the smallest
    stays alone. Of equal entries the first are dropped first.

  Source: "Prosperity before Collapse: How Far Can Off-Policy RL Reach with
    Stale Data on LLMs?", Zheng, Zhao, Chen, 2025, arXiv:2510.01161.

  Example:
    >>> x = jnp.array([[.1, -2., .3, 9.]])
    >>> second_moment_mask(x, x < 9, .1).tolist()
    [[True, False, True, False]]
  """
  chex.assert_equal_shape((log_ratios, mask))
  inside = jnp.asarray(mask) != 0
  square = jax.lax.stop_gradient(
      jnp.square(masking.fill(log_ratios, mask)))
  keys = selection.ordered_bits(square)

  def sums(members):
    return (masking.masked_sum(square, members),
            jnp.sum(members, dtype=square.dtype))

  def below(bits):
    total, number = sums(inside & (keys < bits))
    return total < threshold * jnp.maximum(number, 1)

  # Means of a rising sequence rise, so there is a first value that is too
  # much for all of its ties; some of them may still fit.
  edge = selection.largest_bits(below, (), keys.dtype)
  total, number = sums(inside & (keys < edge))
  tied_total, tied = sums(inside & (keys == edge))
  value = tied_total / jnp.maximum(tied, 1)
  excess = jnp.where(value > threshold, value - threshold, jnp.inf)
  fit = jnp.ceil((threshold * number - total) / excess) - 1
  kept = number + jnp.clip(fit, 0, tied)
  return selection.first_tokens(
      inside, square, jnp.maximum(kept, 1).astype(jnp.int32), ties='last')


def categorical_kl(p_logits: Array, q_logits: Array) -> Array:
  """KL(p ‖ q) = Σ p·(log p − log q), exactly.

  Args:
    p_logits: f32[..., V].
    q_logits: f32[..., V].

  Returns:
    f32[...], in nats.

  Example:
    >>> p, q = jnp.log(jnp.array([[.5, .5], [.25, .75]]))
    >>> round(float(categorical_kl(p, q)), 3)
    0.144
  """
  chex.assert_equal_shape((p_logits, q_logits))
  log_p, log_q = (jax.nn.log_softmax(masking.as_float(x))
                  for x in (p_logits, q_logits))
  p = jnp.exp(log_p)
  # 0·log 0 = 0, also when q removes the same entries with −inf.
  return jnp.sum(jnp.where(p > 0, p * (jnp.where(p > 0, log_p - log_q, 0)), 0),
                 axis=-1)


def vmpo_weights(
    advantages: Array,
    mask: Array,
    temperature: Array | float,
    epsilon: float,
    *,
    top_fraction: float = 0.5,
) -> tuple[Array, Array]:
  """ψ ∝ exp(A / η) over the best tokens, and the loss that adapts η.

  L(η) = η·(ε + log mean of exp(A / η) over the ⌊top_fraction·N⌋ best)

  Args:
    advantages: f32[...]; constants.
    mask: bool[...], candidates.
    temperature: η > 0.
    epsilon: ε, how far (in nats) ψ may be from uniform.
    top_fraction: of the candidates, in (0, 1]; all that tie with the last of
      them take part, and at least one does.

  Returns:
    (f32[...] the weights ψ, which sum to 1 and are constants, f32[] the loss
    of η); zeros for an empty mask.

  Raises:
    ValueError: `top_fraction` is not in (0, 1].

  Source: "V-MPO: On-Policy Maximum a Posteriori Policy Optimization for
    Discrete and Continuous Control", Song et al., 2019, arXiv:1909.12238.

  Example:
    >>> advantages = jnp.array([0., 0., -1., -2.])
    >>> weights, loss = vmpo_weights(
    ...     advantages, advantages < 1, 1., .1, top_fraction=.5)
    >>> weights.tolist(), round(float(loss), 3)
    ([0.5, 0.5, 0.0, 0.0], 0.1)
  """
  if not 0 < top_fraction <= 1:
    raise ValueError(f'top_fraction is {top_fraction}; it must lie in (0, 1]')
  chex.assert_equal_shape((advantages, mask))
  inside = jnp.asarray(mask) != 0
  advantages = jax.lax.stop_gradient(masking.fill(advantages, mask))
  scaled = advantages / temperature
  count = jnp.sum(inside, dtype=jnp.int32)
  number = jnp.floor(top_fraction * count.astype(scaled.dtype))
  number = jnp.clip(number.astype(jnp.int32), 1)
  last = -selection.kth_smallest(-scaled, inside, number)
  chosen = inside & (scaled >= last)
  top = jnp.max(jnp.where(inside, scaled, -jnp.inf), initial=-jnp.inf)
  top = jax.lax.stop_gradient(jnp.where(count > 0, top, 0))
  raw = jnp.where(chosen, jnp.exp(jnp.where(chosen, scaled - top, 0)), 0)
  total = jnp.sum(raw)
  empty = total == 0
  safe = jnp.where(empty, 1, total)
  members = jnp.maximum(jnp.sum(masking.as_float(chosen)), 1)
  log_mean = jnp.log(safe) + top - jnp.log(members.astype(scaled.dtype))
  loss = jnp.where(empty, 0, temperature * (epsilon + log_mean))
  return jax.lax.stop_gradient(raw / safe), loss
