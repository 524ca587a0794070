"""Sets of tokens as bit masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policyopt.ops import bits


@pytest.mark.parametrize('vocab_size', [1, 31, 32, 33, 70])
def test_round_trip_and_bit_order(vocab_size):
  rng = np.random.default_rng(vocab_size)
  kept = rng.random((2, 3, vocab_size)) < 0.5
  words = jax.jit(bits.pack_kept)(jnp.asarray(kept))
  assert words.dtype == jnp.uint32
  assert words.shape == (2, 3, bits.num_words(vocab_size))
  for v in range(vocab_size):
    got = np.array(words)[..., v // 32] >> (v % 32) & 1
    np.testing.assert_array_equal(got.astype(bool), kept[..., v])
  back = jax.jit(bits.unpack_kept, static_argnums=1)(words, vocab_size)
  assert back.dtype == bool
  np.testing.assert_array_equal(back, kept)


def test_all_and_none():
  assert bits.pack_kept(jnp.ones(40, bool)).tolist() == [2**32 - 1, 255]
  assert bits.pack_kept(jnp.zeros(40, bool)).tolist() == [0, 0]
