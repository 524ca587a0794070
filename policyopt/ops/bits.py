"""Sets of tokens as bit masks: one bit per entry of the vocabulary."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def pack_kept(kept: Array) -> Array:
  """Packs a set of tokens into 32-bit words.

  Token v is bit v mod 32 of word ⌊v / 32⌋; bits beyond V are 0.

  Args:
    kept: bool[..., V].

  Returns:
    uint32[..., ⌈V / 32⌉].

  Example:
    >>> pack_kept(jnp.arange(34) % 32 == 1).tolist()
    [2, 2]
  """
  vocab_size = kept.shape[-1]
  words = num_words(vocab_size)
  pad = [(0, 0)] * (kept.ndim - 1) + [(0, 32 * words - vocab_size)]
  bits = jnp.pad(kept.astype(jnp.uint32), pad)
  bits = bits.reshape(*kept.shape[:-1], words, 32)
  return jnp.sum(bits << _shifts(bits.ndim), axis=-1, dtype=jnp.uint32)


def unpack_kept(words: Array, vocab_size: int) -> Array:
  """The inverse of `pack_kept`.

  Args:
    words: uint32[..., W].
    vocab_size: V <= 32 W.

  Returns:
    bool[..., V].

  Example:
    >>> unpack_kept(jnp.array([5], jnp.uint32), 4).tolist()
    [True, False, True, False]
  """
  bits = (words[..., None] >> _shifts(words.ndim + 1)) & jnp.uint32(1)
  bits = bits.reshape(*words.shape[:-1], 32 * words.shape[-1])
  return bits[..., :vocab_size].astype(bool)


def num_words(vocab_size: int) -> int:
  """Words that a set of `vocab_size` tokens takes.

  Example:
    >>> num_words(260)
    9
  """
  return -(-vocab_size // 32)


def _shifts(ndim):
  return jnp.arange(32, dtype=jnp.uint32).reshape((1,) * (ndim - 1) + (32,))
