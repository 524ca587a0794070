"""Attention in rows of one prompt and several responses to it.

A row holds [prompt | response 1 | ... | response G]. The prompt has P places
and ends in the last of them, so that its last token is right before every
response; its first places are padding when it is shorter. A response sees the
prompt and itself, never another response. The prompt's keys and values are
computed, and read, once; `decode` does the same for one token in each row.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from policyopt.models import attention, cache_layers, pieces
from policyopt.models import attention_kernels as kernels

Array = jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=['length'],
                   meta_fields=['prompt', 'samples'])
@dataclasses.dataclass(frozen=True)
class SharedPrompts:
  """Where the prompts and the responses of N rows lie.

  Attributes:
    length: i32[N], tokens of each prompt, at most P.
    prompt: P, places of a prompt.
    samples: G, responses of a row; each has (S − P) / G places.
  """
  length: Array
  prompt: int
  samples: int


def causal(query: Array, key: Array, value: Array, shared: SharedPrompts, *,
           windowed: Array | bool | None = None, window: int | None = None,
           scale: float | None = None, softcap: float | None = None,
           implementation: str = 'auto') -> Array:
  """`attention.causal` of a prompt followed by each of its responses.

  Args:
    query: [N, S, H, DH], S = P + G·M.
    key: [N, S, KV, DH].
    value: [N, S, KV, DH].
    shared: where prompts and responses lie.
    windowed: as in `attention.causal`, as are all that follow.
    window: counted along the prompt and one response.
    scale: of the scores.
    softcap: of the scores.
    implementation: of the attention.

  Returns:
    [N, S, H, DH] in the dtype of `query`.

  Raises:
    ValueError: as `attention.causal`.

  Example:
    >>> x = jnp.ones((1, 3, 1, 2))
    >>> value = jnp.array([[[[1., 2.]], [[3., 4.]], [[5., 6.]]]])
    >>> two = SharedPrompts(jnp.array([1]), prompt=1, samples=2)
    >>> causal(x, x, value, two).tolist()
    [[[[1.0, 2.0]], [[2.0, 3.0]], [[3.0, 4.0]]]]
  """
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  window = None if windowed is False else window
  windowed = None if window is None else windowed
  options = dict(windowed=windowed, window=window, scale=scale,
                 softcap=softcap)
  rows, places = query.shape[:2]
  width, samples = shared.prompt, shared.samples
  parts = (query, key, value)
  real = jnp.arange(width)[None, :] >= width - shared.length[:, None]
  prompt = attention.causal(
      *(x[:, :width] for x in parts), segments=real.astype(jnp.int32),
      implementation=implementation, **options)
  # Every response as a row of its own.
  own = [x[:, width:].reshape(rows * samples, -1, *x.shape[2:]) for x in parts]
  chosen = kernels.choose(
      implementation, own[0], own[1], segments=None, softcap=softcap)
  if chosen == 'xla':
    response = _responses(
        *own, key[:, :width], value[:, :width], real, **options)
  else:
    # A kernel reads the keys of a row side by side.
    key, value = (
        jnp.concatenate([jnp.repeat(x[:, :width], samples, axis=0), y], axis=1)
        for x, y in zip((key, value), own[1:]))
    seen = jnp.pad(jnp.repeat(real, samples, axis=0).astype(jnp.int32),
                   [(0, 0), (0, own[0].shape[1])], constant_values=1)
    response = attention.causal(
        own[0], key, value, segments=seen, implementation=chosen, **options)
  return jnp.concatenate(
      [prompt, response.reshape(rows, places - width, *query.shape[2:])],
      axis=1)


def decode(query: Array, cache: cache_layers.LayerCache, layer: int,
           slot: Array, *, windowed: bool, window: int | None = None,
           scale: float | None = None, softcap: float | None = None) -> Array:
  """`attention.decode` of one token in each row.

  Args:
    query: [N·G, 1, H, DH].
    cache: that has been written up to these tokens.
    layer: of the cache.
    slot: i32[N·G], place of the tokens in their rows, prompts included.
    windowed: whether the window applies.
    window: as in `causal`, as are all that follow.
    scale: of the scores.
    softcap: of the scores.

  Returns:
    [N·G, 1, H, DH] in the dtype of `query`.
  """
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  window = window if windowed else None
  last = cache_layers.own_slot(cache, slot).reshape(-1, 1)
  keys = cache.keys[layer]
  if keys.ndim > 3:  # In tiles.
    keys = keys[:, None]
  sets = [_seen(keys, cache.values[layer], last, window)]
  if (prompts := cache.prompts) is not None:
    ends = prompts.length[:, None]
    keys = prompts.keys[layer].swapaxes(2, 3)
    keys, values, mask = _seen(
        keys, prompts.values[layer], ends + last, window)
    real = jnp.arange(mask.shape[-1])[None] < ends
    sets.insert(0, (keys, values, mask & real[:, None]))
  rows = len(query) if prompts is None else len(prompts.length)
  return _attend(query, sets, (rows, cache.heads), scale, softcap)


def _seen(keys, values, last, window):
  """With the mask, bool[N or 1, 1, T], of queries at the places `last`."""
  far = last - jnp.arange(values.shape[-2])[None]
  mask = far >= 0 if window is None else (far >= 0) & (far < window)
  return keys, values, mask[:, None]


def _responses(query, key, value, prompt_key, prompt_value, real, *, windowed,
               window, scale, softcap):
  """[N·G, M, H, DH]; in blocks of queries when responses are long."""
  (batch, length, _, dim), (rows, width) = query.shape, real.shape

  def heads_first(prompt, own):
    own = own.reshape(rows, batch // rows, length, -1, dim)
    return (jnp.swapaxes(prompt, 1, 2),
            own.transpose(0, 3, 1, 2, 4).reshape(-1, length, dim))

  keys, values = heads_first(prompt_key, key), heads_first(prompt_value, value)

  def run(end, index, query):
    # Distances to the keys of the prompt, and to those of the response.
    far = index[:, None] + width - jnp.arange(width)[None, :]
    near = index[:, None] - jnp.arange(end)[None, :]
    before, own = real[:, None, :], (near >= 0)[None]
    if window is not None:
      inside = [x < window for x in (far, near)]
      if windowed is not None and windowed is not True:
        inside = [x | ~jnp.asarray(windowed, bool) for x in inside]
      before, own = before & inside[0][None], own & inside[1][None]
    sets = [
        (keys[0].swapaxes(-1, -2), values[0], before),
        (keys[1][:, :end].swapaxes(-1, -2), values[1][:, :end], own)]
    return _attend(query, sets, (rows, keys[0].shape[1]), scale, softcap)

  return pieces.of_queries(run, query, block=attention.block_size())


def _attend(query, sets, size, scale, softcap):
  """One softmax over sets of keys, such as a prompt's and a response's own.

  Args:
    query: [N·G, S, H, DH].
    sets: (keys, values, mask) each: of the prompts [N, KV, DH, P], [N, KV, P,
      DH] and bool[N, 1 or S, P]; of the responses [N·KV·G, DH, M] or, in tiles,
      [N·KV·G, 1, M / W, DH, W], [N·KV·G, M, DH] and bool[N or 1, S, M]. A mask
      says where s may see a key.
    size: (N, KV).
    scale: of the scores.
    softcap: of the scores, or None.

  Returns:
    [N·G, S, H, DH].
  """
  (batch, length, heads, dim), (rows, kv_heads) = query.shape, size
  samples, group = batch // rows, heads // kv_heads
  dtype, wide = query.dtype, jnp.promote_types(query.dtype, jnp.float32)
  # As [N, KV, G, R, S, DH] the queries are the rows of one plain product with
  # the prompt's keys, and of one for each response with its own.
  query = query.reshape(rows, samples, length, kv_heads, group, dim)
  query = query.transpose(0, 3, 1, 4, 2, 5)
  shape = (*query.shape[:-1], -1)

  def product(x, y):
    x = x.astype(dtype).reshape(*y.shape[:-2], -1, x.shape[-1])
    # What has been rounded already may be held in a wider dtype.
    x, y = (z.astype(wide if y.dtype == wide else dtype) for z in (x, y))
    return jnp.matmul(x, y, preferred_element_type=wide).reshape(shape)

  def against(keys):
    if keys.ndim < 5:
      return product(query, keys)
    # As a product XLA would first put all tiles side by side.
    x = query.reshape(len(keys), -1, 1, dim, 1).astype(keys.dtype)
    return jnp.sum(x * keys, axis=-2).reshape(shape)

  def masked(keys, mask):
    scores = against(keys) * scale
    if softcap is not None:
      scores = softcap * jnp.tanh(scores / softcap)
    return jnp.where(mask[:, None, None, None], scores, attention._MASKED)

  scores = [masked(keys, mask) for keys, _, mask in sets]
  top = functools.reduce(jnp.maximum, (
      jnp.max(x, axis=-1, keepdims=True) for x in scores))
  top = jax.lax.stop_gradient(top)
  probs = [jnp.exp(x - top) for x in scores]
  total = sum(jnp.sum(x, axis=-1, keepdims=True) for x in probs)
  if len(sets) == 1:  # As `attention.attend` rounds it.
    probs, total = [probs[0] / total], 1
  out = sum(product(x, values) for x, (_, values, _) in zip(probs, sets))
  out = (out / total).astype(dtype)
  return out.transpose(0, 2, 4, 1, 3, 5).reshape(batch, length, heads, dim)
