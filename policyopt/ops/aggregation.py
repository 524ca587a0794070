"""Token weights that turn a sum over tokens into the mean one wants.

Each function takes weights f32[B, T] and the tokens that count, bool[B, T], and
divides the weights so that Σ weight·loss is that mean over the WHOLE batch.
Rows without a counted token enter no mean, unless `empty_rows` says 'count'; an
empty batch gives weights 0.

Where several sequences are packed into a row, `packed` i32[B, T] tells them
apart: ids in [0, T) that mean something within their row only, and any other
id for what belongs to no sequence and gets weight 0. "Rows" are then sequences.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from policyopt.ops import masking, segments

Array = jax.Array


EMPTY_ROWS = ('skip', 'count')


def _enter(weights: Array, mask: Array) -> tuple[Array, Array, Array]:
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape((weights, mask))
  weights = masking.fill(weights, mask)
  counted = masking.fill(jnp.ones_like(weights), mask)
  return weights, counted, jnp.sum(counted, axis=1)


def _sequences(
    weights: Array,
    mask: Array,
    packed: Array | None,
    rows: float | None,
    empty_rows: str,
) -> tuple[Array, Array, Array | float]:
  """(weights, counted tokens of each token's own sequence, sequences)."""
  if empty_rows not in EMPTY_ROWS:
    raise ValueError(
        f'empty_rows is {empty_rows!r}; it must be one of {EMPTY_ROWS}')
  if packed is None:
    weights, _, per_row = _enter(weights, mask)
    own = jnp.broadcast_to(per_row[:, None], mask.shape)
  else:
    if empty_rows == 'count':
      raise ValueError(
          "empty_rows is 'count' and packed is given; a sequence without a "
          'token cannot be seen in a packed row')
    chex.assert_equal_shape((mask, packed))
    inside = (packed >= 0) & (packed < mask.shape[1])
    mask = (jnp.asarray(mask) != 0) & inside
    weights, counted, _ = _enter(weights, mask)
    # One bin for each token there could be: no bound on segments is needed.
    first = jnp.arange(mask.shape[0])[:, None] * mask.shape[1]
    ids = jnp.where(inside, packed + first, -1)
    per_row = segments.segment_sum(counted.reshape(-1), ids.reshape(-1))
    own = segments.gather(per_row, ids)
  if rows is None:
    rows = jnp.sum((per_row > 0).astype(weights.dtype))
    rows = jnp.maximum(mask.shape[0] if empty_rows == 'count' else rows, 1)
  return weights, own, rows


def token_mean(
    weights: Array, mask: Array, *, tokens: float | None = None) -> Array:
  """w / N with N the number of counted tokens of the batch.

  Args:
    weights: f32[B, T].
    mask: bool[B, T], tokens that count.
    tokens: N, when it is known from elsewhere (a larger batch).

  Returns:
    f32[B, T].

  Source: "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    Yu et al., 2025, arXiv:2503.14476.

  Example:
    >>> mask = jnp.array([[True, True], [True, False]])
    >>> token_mean(mask, mask, tokens=4).tolist()
    [[0.25, 0.25], [0.25, 0.0]]
  """
  weights, _, per_row = _enter(weights, mask)
  total = jnp.maximum(jnp.sum(per_row), 1) if tokens is None else tokens
  return weights / total


def sequence_sum(
    weights: Array,
    mask: Array,
    *,
    rows: float | None = None,
    empty_rows: str = 'skip',
    packed: Array | None = None,
) -> Array:
  """w / R: the mean over rows of their sums; R rows have a counted token.

  Args:
    weights: f32[B, T].
    mask: bool[B, T], tokens that count.
    rows: R, when it is known from elsewhere.
    empty_rows: 'skip', or 'count' for R = B.
    packed: i32[B, T], the sequences packed in a row.

  Returns:
    f32[B, T].

  Raises:
    ValueError: an unknown `empty_rows`, or 'count' of packed sequences.

  Example:
    >>> mask = jnp.array([[True, True], [True, False], [False, False]])
    >>> sequence_sum(mask, mask).tolist()
    [[0.5, 0.5], [0.5, 0.0], [0.0, 0.0]]
  """
  weights, _, rows = _sequences(weights, mask, packed, rows, empty_rows)
  return weights / rows


def sequence_mean(
    weights: Array,
    mask: Array,
    *,
    rows: float | None = None,
    count_eps: float = 0.,
    empty_rows: str = 'skip',
    packed: Array | None = None,
) -> Array:
  """w / (R·n) with n the row's counted tokens: the mean of the rows' means.

  Args:
    weights: f32[B, T].
    mask: bool[B, T], tokens that count.
    rows: R, when it is known from elsewhere.
    count_eps: added to n.
    empty_rows: 'skip', or 'count' for R = B, as TRL has it.
    packed: i32[B, T], the sequences packed in a row.

  Returns:
    f32[B, T].

  Raises:
    ValueError: an unknown `empty_rows`, or 'count' of packed sequences.

  Source: "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
    Language Models", Shao et al., 2024, arXiv:2402.03300.

  Example:
    >>> mask = jnp.array([[True, True], [True, False]])
    >>> sequence_mean(mask, mask).tolist()
    [[0.25, 0.25], [0.5, 0.0]]
    >>> mask = jnp.ones((1, 3), bool)
    >>> sequence_mean(mask, mask, packed=jnp.array([[0, 0, 1]])).tolist()
    [[0.25, 0.25, 0.5]]
  """
  weights, own, rows = _sequences(weights, mask, packed, rows, empty_rows)
  return weights / jnp.where(own > 0, own + count_eps, 1) / rows


def constant_length(
    weights: Array,
    mask: Array,
    length: float,
    *,
    rows: float | None = None,
    empty_rows: str = 'skip',
    packed: Array | None = None,
) -> Array:
  """w / (R·length): rows' sums over one constant, whatever their length.

  Args:
    weights: f32[B, T].
    mask: bool[B, T], tokens that count.
    length: the constant, in tokens.
    rows: R, when it is known from elsewhere.
    empty_rows: 'skip', or 'count' for R = B.
    packed: i32[B, T], the sequences packed in a row.

  Returns:
    f32[B, T].

  Raises:
    ValueError: an unknown `empty_rows`, or 'count' of packed sequences.

  Source: "Understanding R1-Zero-Like Training: A Critical Perspective", Liu et
    al., 2025, arXiv:2503.20783.

  Example:
    >>> mask = jnp.array([[True, True], [True, False]])
    >>> constant_length(mask, mask, 4).tolist()
    [[0.125, 0.125], [0.125, 0.0]]
  """
  return sequence_sum(
      weights, mask, rows=rows, empty_rows=empty_rows, packed=packed) / length


def prompt_mean(weights: Array, mask: Array, group: Array) -> Array:
  """w / (P·n) with n the counted tokens of the row's prompt, P the prompts.

  Each prompt weighs the same, whatever its number of rows and their lengths.

  Args:
    weights: f32[B, T].
    mask: bool[B, T], tokens that count.
    group: i32[B] in [0, B); rows of no group get weight 0.

  Returns:
    f32[B, T].

  Example:
    >>> mask = jnp.array([[True, True], [True, True], [True, False]])
    >>> prompt_mean(mask, mask, jnp.array([0, 0, 1])).tolist()
    [[0.125, 0.125], [0.125, 0.125], [0.5, 0.0]]
  """
  mask = (jnp.asarray(mask) != 0) & (group >= 0)[:, None]
  weights, _, per_row = _enter(weights, mask)
  per_prompt = segments.segment_sum(per_row, group)
  prompts = jnp.maximum(jnp.sum((per_prompt > 0).astype(weights.dtype)), 1)
  tokens = jnp.maximum(segments.gather(per_prompt, group), 1)
  return weights / tokens[:, None] / prompts
