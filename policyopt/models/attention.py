"""Attention of grouped queries, and rotary positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

# Finite, so that a query that may attend to nothing gives a finite mean of
# whatever is there (its row is padding) and never NaN.
_MASKED = -1e30


def attend(query: Array, key: Array, value: Array, mask: Array) -> Array:
  """Scaled dot-product attention without repeating keys over query heads.

  out[s, h] = Σ_t softmax_t(query[s, h]·key[t, h // R] / √DH) value[t, h // R]
  with R = H / KV. Softmax in float32 (or wider).

  Args:
    query: [B, S, H, DH].
    key: [B, T, KV, DH], KV divides H.
    value: [B, T, KV, DH].
    mask: bool[B or 1, S, T], True where query s may attend to key t.

  Returns:
    [B, S, H, DH] in the dtype of `query`.

  Source: "GQA: Training Generalized Multi-Query Transformer Models from
    Multi-Head Checkpoints", Ainslie et al., 2023, arXiv 2305.13245.

  Example:
    >>> x = jnp.ones((1, 2, 1, 2))
    >>> value = jnp.array([[[[1., 2.]], [[3., 4.]]]])
    >>> attend(x, x, value, jnp.tril(jnp.ones((1, 2, 2), bool))).tolist()
    [[[[1.0, 2.0]], [[2.0, 3.0]]]]
  """
  batch, length, heads, head_dim = query.shape
  kv_heads = key.shape[2]
  wide = jnp.promote_types(query.dtype, jnp.float32)
  # Batch axes first and one axis of queries, all R heads of a group in it: the
  # plain form of a matrix product. Other orders decode 2-3 times slower on CPU.
  group = heads // kv_heads
  query = query.reshape(batch, length, kv_heads, group, head_dim)
  query = query.transpose(0, 2, 3, 1, 4).reshape(
      batch, kv_heads, group * length, head_dim)
  key, value = (x.astype(query.dtype).swapaxes(1, 2) for x in (key, value))
  scores = jnp.einsum('bkqd,bktd->bkqt', query, key,
                      preferred_element_type=wide)
  scores = scores.reshape(batch, kv_heads, group, length, -1)
  scores = jnp.where(mask[:, None, None], scores * head_dim ** -0.5, _MASKED)
  probs = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
  probs = probs.reshape(batch, kv_heads, group * length, -1)
  out = jnp.einsum('bkqt,bktd->bkqd', probs, value)
  out = out.reshape(batch, kv_heads, group, length, head_dim)
  return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


def rotary_angles(positions: Array, head_dim: int, theta: float,
                  scaling=None) -> tuple[Array, Array]:
  """Cosine and sine of every position's angles.

  angle[s, i] = positions[s] θ^(−2i / DH), i < DH / 2.

  Args:
    positions: i32[B, S].
    head_dim: DH.
    theta: θ.
    scaling: as `ModelConfig.rope_scaling`.

  Returns:
    (cos, sin), each f32[B, S, DH / 2].

  Source: "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    Su et al., 2021, arXiv 2104.09864. Scaling: "The Llama 3 Herd of Models",
    Llama Team, 2024, arXiv 2407.21783, in the form of the released code.
  """
  exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequency = theta ** -exponent
  if scaling is not None:
    frequency = _stretch(frequency, *scaling)
  angle = positions.astype(jnp.float32)[:, :, None] * frequency[None, None]
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
  """Turns the pairs (x[i], x[i + DH / 2]) by their position's angles.

  Args:
    x: [B, S, heads, DH].
    cos: f32[B, S, DH / 2].
    sin: f32[B, S, DH / 2].

  Returns:
    [B, S, heads, DH] in the dtype of x.
  """
  cos, sin = cos[:, :, None], sin[:, :, None]
  wide = jnp.promote_types(x.dtype, jnp.float32)
  first, second = jnp.split(x.astype(wide), 2, axis=-1)
  turned = jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x.dtype)


def _stretch(frequency, factor, low, high, original):
  """Llama 3: divides slow frequencies by `factor`, and blends to the fast."""
  turns = original * frequency / (2 * jnp.pi)  # within the original context
  keep = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
  return frequency * (keep + (1 - keep) / factor)
