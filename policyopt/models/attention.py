"""Attention of grouped queries behind one function, and rotary positions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from policyopt.models import attention_decode, pieces
from policyopt.models import attention_kernels as kernels
from policyopt.models import cache as cache_lib

Array = jax.Array

# Finite, so that a query that may attend to nothing gives a finite mean of
# whatever is there (its row is padding) and never NaN.
_MASKED = -1e30

# Of queries, where rows are long; a CPU's cache has room for the scores of few.
_BLOCK, _CPU_BLOCK = 512, 64


def causal(query: Array, key: Array, value: Array, *,
           segments: Array | None = None, windowed: Array | bool | None = None,
           window: int | None = None, scale: float | None = None,
           softcap: float | None = None, implementation: str = 'auto'
           ) -> Array:
  """Every token attends to itself and to what is before it in its row.

  out[s] = Σ_{t ∈ seen(s)} softmax_t(cap(scale · query[s]·key[t])) value[t],
  seen(s) = {t ≤ s: segments[t] = segments[s], t > s − window}.

  With fewer queries than keys they are those of the last tokens.

  All implementations give the same numbers up to rounding. On padding
  (segment 0) they may differ: nothing reads it.

  Args:
    query: [B, S, H, DH].
    key: [B, T, KV, DH], T ≥ S and KV divides H; query heads h use key head
      h // (H/KV).
    value: [B, T, KV, DH].
    segments: i32[B, T], attention stays inside equal segments; 0 is padding.
    windowed: whether the window applies, also as a traced scalar; None is
      True.
    window: keys that a token sees, itself included; None for all.
    scale: of the scores; None for 1/√DH.
    softcap: cap(x) = softcap · tanh(x / softcap); None leaves x.
    implementation: 'xla' (any platform), 'cudnn' (NVIDIA), 'splash' (TPU, a
      Pallas kernel), or 'auto', the fastest that can do it.

  Returns:
    [B, S, H, DH] in the dtype of `query`.

  Raises:
    ValueError: the named implementation cannot do what is asked, and why.

  Example:
    >>> x = jnp.ones((1, 2, 1, 2))
    >>> causal(x, x, jnp.array([[[[1., 2.]], [[3., 4.]]]])).tolist()
    [[[[1.0, 2.0]], [[2.0, 3.0]]]]
  """
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  if windowed is False:
    window = None
  if window is None:
    windowed = None
  chosen = kernels.choose(
      implementation, query, key, segments=segments, softcap=softcap)
  run = {'xla': _causal_xla, 'cudnn': kernels.cudnn,
         'splash': kernels.splash}[chosen]
  return run(query, key, value, segments=segments, windowed=windowed,
             window=window, scale=scale, softcap=softcap)


def _causal_xla(query, key, value, *, segments, windowed, window, scale,
                softcap):
  """The mask written out; in blocks of queries when the rows are long."""
  before = key.shape[1] - query.shape[1]

  def run(end, index, query, own=None):
    index, every = before + index, jnp.arange(before + end)
    mask = (index[:, None] >= every[None, :])[None]
    if own is not None:
      mask = mask & (own[:, :, None] == segments[:, None, :before + end])
    if window is not None:
      near = (index[:, None] - every[None, :] < window)[None]
      if windowed is not None and windowed is not True:
        near = near | ~jnp.asarray(windowed, bool)
      mask = mask & near
    return attend(query, key[:, :before + end], value[:, :before + end], mask,
                  scale=scale, softcap=softcap)

  own = () if segments is None else (segments[:, before:],)
  return pieces.of_queries(run, query, *own, block=block_size())


def block_size() -> int:
  """Queries of a block of long rows: `block` of `pieces.of_queries`."""
  return _CPU_BLOCK if kernels.platform() == 'cpu' else _BLOCK


def attend(query: Array, key: Array, value: Array, mask: Array, *,
           scale: float | None = None, softcap: float | None = None,
           key_scale: Array | None = None, value_scale: Array | None = None
           ) -> Array:
  """Dot-product attention with a mask of one's own, as a cache needs it.

  out[s, h] = Σ_t softmax_t(cap(scale · query[s, h]·key[t, h // R]))
  value[t, h // R] with R = H / KV: keys are not repeated over query heads.
  Softmax in float32 (or wider).

  Args:
    query: [B, S, H, DH].
    key: [B, T, KV, DH], KV divides H.
    value: [B, T, KV, DH].
    mask: bool[B or 1, S, T], True where query s may attend to key t.
    scale: of the scores; None for 1/√DH.
    softcap: cap(x) = softcap · tanh(x / softcap); None leaves x.
    key_scale: f32[B, T, KV], the keys are multiplied by; None for 1.
    value_scale: the same of the values.

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
  if key_scale is not None:
    scores = scores * key_scale.swapaxes(1, 2)[:, :, None]
  scores = scores.reshape(batch, kv_heads, group, length, -1)
  scores = scores * (head_dim ** -0.5 if scale is None else scale)
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  scores = jnp.where(mask[:, None, None], scores, _MASKED)
  probs = jax.nn.softmax(scores, axis=-1)
  if value_scale is not None:
    probs = probs * value_scale.swapaxes(1, 2)[:, :, None, None]
  probs = probs.astype(query.dtype)
  probs = probs.reshape(batch, kv_heads, group * length, -1)
  out = jnp.einsum('bkqt,bktd->bkqd', probs, value)
  out = out.reshape(batch, kv_heads, group, length, head_dim)
  return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim)


def decode(query: Array, cache: cache_lib.Cache, layer: Array, slot: Array, *,
           windowed: Array | bool | None = None, window: int | None = None,
           scale: float | None = None, softcap: float | None = None,
           implementation: str = 'auto') -> Array:
  """New tokens attend to what the cache holds of their rows, themselves too.

  As `causal`, with the token at `slot` + s of a row for its query s, and what
  the cache holds of one layer for keys and values.

  Args:
    query: [B, S, H, DH].
    cache: that has been written up to these tokens.
    layer: i32[], of the cache.
    slot: of the first query: i32[], or i32[B] when each row has its own.
    windowed: as in `causal`.
    window: as in `causal`.
    scale: as in `causal`.
    softcap: as in `causal`.
    implementation: 'xla' (any platform), 'ragged' (TPU, one query in each row:
      a Pallas kernel that reads the filled slots alone), or 'auto'.

  Returns:
    [B, S, H, DH] in the dtype of `query`.

  Raises:
    ValueError: the named implementation cannot do what is asked, and why.
  """
  batch, length, _, head_dim = query.shape
  scale = head_dim ** -0.5 if scale is None else scale
  last = slot.reshape(-1, 1) + jnp.arange(length)[None]
  first = jnp.zeros_like(last)
  if window is not None and windowed is not False:
    first = jnp.maximum(last + (1 - window), 0)
    if windowed is not None and windowed is not True:
      first = jnp.where(windowed, first, 0)
  if attention_decode.choose(implementation, query, cache) == 'ragged':
    first, last = (jnp.broadcast_to(x[:, 0], (batch,)) for x in (first, last))
    return attention_decode.ragged(
        query, cache, layer, first, last, scale=scale, softcap=softcap)
  # Also on GPUs: cuDNN's attention to rows of several lengths wants rows before
  # slots, in a copy of each layer, and could not be tried.
  place = jnp.arange(cache.slots)[None, None, :]
  mask = (place <= last[:, :, None]) & (place >= first[:, :, None])
  return attend(query, *cache_lib.read(cache, layer), mask, scale=scale,
                softcap=softcap, **cache_lib.read_scales(cache, layer))


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
    frequency = (frequency / scaling[0] if len(scaling) == 1
                 else _stretch(frequency, *scaling))
  angle = positions.astype(jnp.float32)[:, :, None] * frequency[None, None]
  turn = lambda angle: (jnp.cos(angle), jnp.sin(angle))
  return jax.lax.platform_dependent(angle, cpu=functools.partial(_once, turn),
                                    default=turn)


def _once(function, x):
  """function(x) behind a branch that is always taken.

  XLA's CPU backend fuses what it can into whoever reads it, and would compute
  cosine and sine again for every head of every layer.
  """
  taken = jnp.isfinite(x).any()
  nothing = lambda x: jax.tree.map(jnp.zeros_like, jax.eval_shape(function, x))
  return jax.lax.cond(taken, function, nothing, x)


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
