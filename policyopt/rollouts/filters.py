"""Truncation of a next-token distribution: top-k, top-p and min-p.

Each filter looks at logits f32[..., V] and says which tokens stay, as
bool[..., V]; none of them changes the logits. A filter never removes the most
likely token, so a kept set is never empty. The sets, and their order, are those
of the logits processors of `transformers`: top-k keeps all tokens that tie at
its edge, top-p of those that tie no more than it needs. (Which of them is left
open there; here it is the lower ids.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from policyopt.types import Array


def keep_top_k(logits: Array, k: int) -> Array:
  """The k most likely tokens, and those that tie with the last of them.

  Args:
    logits: f32[..., V].
    k: how many to keep, at least 1; V or more keeps everything.

  Returns:
    bool[..., V], True for the tokens that stay.

  Source: "Hierarchical Neural Story Generation", Fan, Lewis and Dauphin, 2018,
  arXiv 1805.04833.

  Example:
    >>> keep_top_k(jnp.array([0., 3., 2., 3., 2.]), 3).tolist()
    [False, True, True, True, True]
  """
  if k >= logits.shape[-1]:
    return jnp.ones(logits.shape, bool)
  ranks = _sortable(logits)
  return ranks >= _edge(jnp.ones(logits.shape, jnp.int32), ranks, k)


def keep_top_p(logits: Array, p: float) -> Array:
  """The smallest set of most likely tokens whose mass is at least p.

  Args:
    logits: f32[..., V].
    p: probability in (0, 1]; 1 keeps everything.

  Returns:
    bool[..., V], True for the tokens that stay.

  Source: "The Curious Case of Neural Text Degeneration", Holtzman, Buys, Du,
  Forbes and Choi, 2019, arXiv 1904.09751.

  Example:
    >>> logits = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))
    >>> keep_top_p(logits, 0.7).tolist()
    [False, True, False, True]
  """
  if p >= 1:
    return jnp.ones(logits.shape, bool)
  probs, ranks = jax.nn.softmax(logits, axis=-1), _sortable(logits)
  edge = _edge(probs, ranks, p)
  above, tied = ranks > edge, ranks == edge
  # The mass of all that comes before a token among those that tie.
  order = jnp.cumsum(tied, axis=-1) - 1
  before = (probs * above).sum(axis=-1, keepdims=True) + order * probs
  return above | (tied & ((order == 0) | (before < p)))


def keep_min_p(logits: Array, p: float) -> Array:
  """The tokens at least p times as likely as the most likely one.

  Args:
    logits: f32[..., V].
    p: fraction in [0, 1]; 0 keeps everything.

  Returns:
    bool[..., V], True for the tokens that stay.

  Source: "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM
  Outputs", Nguyen et al., 2024, arXiv 2407.01082.

  Example:
    >>> logits = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))
    >>> keep_min_p(logits, 0.4).tolist()
    [False, True, False, True]
  """
  if p <= 0:
    return jnp.ones(logits.shape, bool)
  edge = jnp.log(jnp.asarray(p, logits.dtype))
  return logits >= logits.max(axis=-1, keepdims=True) + edge


def keep(logits: Array, *, top_k: int = 0, top_p: float = 1.0,
         min_p: float = 0.0) -> Array | None:
  """Top-k, then top-p of what is left renormalised, then min-p.

  A filter that is not configured costs nothing.

  Args:
    logits: f32[..., V], already divided by the temperature.
    top_k: 0 switches it off.
    top_p: 1 switches it off.
    min_p: 0 switches it off.

  Returns:
    bool[..., V], True for the tokens that stay, or None when all three are off.

  Example:
    >>> logits = jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25]))
    >>> keep(logits, top_k=2, top_p=0.6).tolist()
    [False, True, False, False]
    >>> keep(logits) is None
    True
  """
  kept = None
  for setting, off, keeps in ((top_k, 0, keep_top_k), (top_p, 1, keep_top_p),
                              (min_p, 0, keep_min_p)):
    if setting == off:
      continue
    left = logits if kept is None else jnp.where(kept, logits, -jnp.inf)
    more = keeps(left, setting)
    kept = more if kept is None else kept & more
  return kept


def _sortable(logits: Array) -> Array:
  """uint32 with the order of the float32 logits."""
  logits = logits.astype(jnp.float32)
  logits = jnp.where(logits == 0, 0., logits)  # -0 equals 0
  raw = jax.lax.bitcast_convert_type(logits, jnp.uint32)
  sign = jnp.uint32(1 << 31)
  return jnp.where(raw < sign, raw | sign, ~raw)


def _edge(weight: Array, ranks: Array, target: float) -> Array:
  """The highest rank down to which the weights add up to the target.

  Found bit by bit: 32 passes are several times faster than a sort (and than
  `lax.top_k`, which becomes one), and unlike it they do not gather a sharded
  vocabulary.

  Args:
    weight: [..., V], at least 0.
    ranks: uint32[..., V].
    target: what the weights of rank edge and above must reach.

  Returns:
    uint32[..., 1], the rank of the last token that is needed.
  """
  def set_bit(index, edge):
    trial = edge | (jnp.uint32(1 << 31) >> index.astype(jnp.uint32))
    reached = (weight * (ranks >= trial)).sum(axis=-1, keepdims=True)
    return jnp.where(reached >= target, trial, edge)

  start = jnp.zeros((*ranks.shape[:-1], 1), jnp.uint32)
  return jax.lax.fori_loop(0, 32, set_bit, start)
