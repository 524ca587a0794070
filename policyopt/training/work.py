"""How many operations and bytes the phases of a step take, at the least.

Counted from lengths of rows, padding left out, so that what a program does in
vain shows as time. For n tokens that together see c keys, h of which have
logits,

  operations = 2 L N n + 4 L H DH c + 2 D V h
  N = D (H + 2 KV) DH + H DH D + 3 D F

multiplications and additions counted as two; with experts 3 D F is k · 3 D F of
one expert and D E of the router. Windowed layers see no more than their window.
A token at place i of its row sees i + 1 keys. An update is 3 such passes: one
forward, and two products for each of the forward's in the backward pass; 2
where the weights are frozen and only an adapter is trained. What `remat`
computes again is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from policyopt.models.config import ModelConfig


class Work(NamedTuple):
  """What a phase handles, and the least that it takes.

  Attributes:
    tokens: that it reads or draws.
    flops: operations of its matrix products.
    bytes: to and from memory; 0: not counted.
  """
  tokens: int = 0
  flops: float = 0.
  bytes: float = 0.

  def __add__(self, other: Work) -> Work:
    return Work(*(a + b for a, b in zip(self, other)))

  def __mul__(self, times: float) -> Work:
    return Work(self.tokens, self.flops * times, self.bytes * times)


def keys_seen(first: np.ndarray, count: np.ndarray,
              window: int | None = None) -> float:
  """Σ min(i + 1, window) over the places first ≤ i < first + count of rows.

  Args:
    first: i32[B].
    count: i32[B], at least 0.
    window: keys that a token sees, itself included; None for all.

  Returns:
    The sum over all rows.

  Example:
    >>> keys_seen(np.array([0]), np.array([3]))
    6.0
    >>> keys_seen(np.array([0]), np.array([3]), window=2)
    5.0
  """
  first, end = np.asarray(first, np.float64), np.asarray(first) + count

  def below(places):
    """Of all places before these."""
    near = places if window is None else np.minimum(places, window)
    return near * (near + 1) / 2 + (places - near) * (window or 0)

  return float(np.sum(below(end) - below(first)))


def forward(config: ModelConfig, first: np.ndarray, count: np.ndarray,
            logits: int, weights_read: int = 1, dtype: str | None = None
            ) -> Work:
  """A pass over tokens; bytes are those of the weights.

  Args:
    config: of the model.
    first: i32[B], tokens of each row that were read before.
    count: i32[B], tokens that are read now.
    logits: tokens with logits.
    weights_read: how often all weights are read.
    dtype: of the weights; None for that of the parameters.

  Returns:
    Work.
  """
  tokens = int(np.sum(count))
  flops = (2 * config.num_layers * _layer_products(config) * tokens
           + 4 * config.num_heads * config.head_dim * _pairs(
               config, first, count)
           + 2 * config.width * config.vocab_size * logits)
  return Work(tokens, flops, weights_read * weight_bytes(config, dtype))


def decode(config: ModelConfig, prompts: np.ndarray, lengths: np.ndarray,
           steps: int, copies: int = 1, dtype: str | None = None) -> Work:
  """Drawing responses one token at a time, prompts read already.

  A step reads all weights, and of each row the keys and values seen so far:
  bytes = steps · weights + 2 · KV · DH · itemsize · Σ keys seen.

  Args:
    config: of the model.
    prompts: i32[B], lengths.
    lengths: i32[B], of the responses; the last token is not read.
    steps: of the loop, each one token in every row.
    copies: of the weights, each of which is read in a step.
    dtype: of the weights; None for that of the parameters.

  Returns:
    Work; its tokens are those drawn.
  """
  read = np.maximum(lengths - 1, 0)
  drawn = int(np.sum(lengths))
  one = forward(config, prompts, read, drawn, steps * copies, dtype)
  item = jnp.dtype(config.cache_dtype or config.dtype).itemsize
  seen = 2 * config.num_kv_heads * config.head_dim * item * _pairs(
      config, prompts, read)
  return Work(drawn, one.flops, one.bytes + seen)


def update(config: ModelConfig, prompts: np.ndarray, lengths: np.ndarray,
           samples: int, weights_read: int) -> Work:
  """Forward, backward and optimizer, once over all rows.

  Bytes: the weights are read twice and their gradient is written once in each
  microbatch; Adam reads 4 float32 arrays and writes 3.

  Args:
    config: of the model.
    prompts: i32[B], lengths.
    lengths: i32[B], of the responses.
    samples: rows side by side whose prompt is read once; 1: each reads its own.
    weights_read: how often a forward pass over the rows reads all weights:
      microbatches times copies.

  Returns:
    Work.
  """
  work = rows(config, prompts, lengths, samples, weights_read)
  work = work * (2 if config.lora_rank else 3)
  if config.lora_rank:
    return work
  return work + Work(bytes=7 * 4 / jnp.dtype(config.param_dtype).itemsize
                     * weight_bytes(config))


def rows(config: ModelConfig, prompts: np.ndarray, lengths: np.ndarray,
         samples: int, weights_read: int) -> Work:
  """One forward pass over rows of prompts and responses; see `update`."""
  if samples == 1:
    whole = prompts + lengths
    return forward(config, 0 * whole, whole, int(whole.sum()),
                   weights_read)
  once = prompts[::samples]
  return forward(config, 0 * once, once, 0, weights_read) + forward(
      config, prompts, lengths, int(lengths.sum()), 0)


def weight_bytes(config: ModelConfig, dtype: str | None = None) -> float:
  """Of everything that a pass over many tokens multiplies with."""
  layer = _layer_products(config, config.num_experts)
  head = config.width * config.vocab_size
  return float((config.num_layers * layer + head) * jnp.dtype(
      dtype or config.param_dtype).itemsize)


def _layer_products(config, experts=None):
  """N: weights of a layer that a token meets, or with so many experts."""
  heads = config.num_heads * config.head_dim
  both = 2 * config.num_kv_heads * config.head_dim
  attention = config.width * (heads + both) + heads * config.width
  if not config.num_experts:
    return attention + 3 * config.width * config.mlp_width
  experts = config.experts_per_token if experts is None else experts
  return (attention + config.width * config.num_experts
          + experts * 3 * config.width * config.expert_width)


def _pairs(config, first, count):
  """Keys seen, summed over the layers."""
  if config.window is None:
    return config.num_layers * keys_seen(first, count)
  windowed = config.num_layers
  if config.windowed_layers:
    windowed = sum(config.windowed_layers)
  return (windowed * keys_seen(first, count, config.window)
          + (config.num_layers - windowed) * keys_seen(first, count))
