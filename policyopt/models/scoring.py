"""What the policy says of given tokens, without all the logits at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from policyopt import types
from policyopt.models import config as config_lib
from policyopt.models import head_kernels, partitioning, pieces, transformer
from policyopt.ops import bits

Array = jax.Array

NEEDS = frozenset({'entropy', 'values', 'hidden', 'logits', 'top_probs',
                   'top_ids', 'sum_squared_probs', 'router'})

# As many candidates as samplers usually leave.
TOP = 50

# Finite, so that 0 · _REMOVED stays 0 in whatever is done with the logits.
_REMOVED = -1e30


def score(config: config_lib.ModelConfig, params: Any, tokens: Array, *,
          positions: Array | None = None, segments: Array | None = None,
          temperature: float | Array = 1.0, kept: Array | None = None,
          counted: Array | None = None,
          needs: Collection[str] = frozenset()) -> types.PolicyOutput:
  """Log-probabilities of tokens under the distribution they were drawn from.

  log π(a_t) = z_t[a_t] / τ − log Σ_{v ∈ kept_t} exp(z_t[v] / τ)

  Logits exist for `config.logit_chunk` tokens of T at a time, in the backward
  pass too (they are recomputed there).

  Args:
    config: of the model.
    params: its parameters.
    tokens: i32[B, T], padded on the right.
    positions: i32[B, T] for the rotary embedding; None counts from 0 in each
      row, or in each segment.
    segments: i32[B, T] for packed rows; 0 is padding.
    temperature: τ > 0, or 0 for greedy tokens, whose single kept token has
      log-probability 0 at any τ; the latter needs `kept`.
    kept: uint32[B, T, ⌈V / 32⌉], the set of tokens that truncation (top-k,
      top-p, min-p) had left when token t was drawn, as `bits.pack_kept`; an
      empty set means all tokens (positions that were not sampled). None means
      all tokens everywhere.
    counted: bool[B, T], tokens that enter the sums of 'router'; None: all,
      but padding of packed rows.
    needs: fields of PolicyOutput that are wanted; 'logits' materialises
      f32[B, T, V].

  Returns:
    A PolicyOutput with `log_probs` and what `needs` names. The first token of
    a row or segment, and padding of packed rows, has nothing that predicts it
    and gets 0 everywhere. Removed tokens have logits of -1e30.

  Raises:
    ValueError: for an unknown need, a temperature that is negative, or 0
      without `kept`, a `kept` of another shape, or values of a model without
      a value head.
  """
  needs = frozenset(needs)
  check(config, tokens, temperature, kept, needs)
  if positions is None:
    positions = _positions(tokens, segments)
  router = None
  if 'router' in needs:
    hidden, router = _with_router(
        config, params, tokens, positions, segments, counted)
  else:
    hidden, _ = transformer.forward(
        config, params, tokens, positions, segments=segments)
  # From here on, index t holds what predicts token t.
  hidden = jnp.pad(hidden[:, :-1], [(0, 0), (1, 0), (0, 0)])
  first = _first(tokens, segments)
  hidden = jnp.where(first[:, :, None], 0, hidden)
  out = head(config, params, hidden, tokens, temperature=temperature,
             kept=kept, first=first, needs=needs)
  if router is not None:
    # Of what predicts token t, as everything per token.
    z = jnp.pad(router.pop('z')[:, :-1], [(0, 0), (1, 0)])
    out['router'] = router | {'z': jnp.where(first, 0, z)}
  return types.PolicyOutput(**out)


def head(config: config_lib.ModelConfig, params: Any, hidden: Array,
         tokens: Array, *, temperature: float | Array = 1.0,
         kept: Array | None = None, first: Array | None = None,
         needs: Collection[str] = frozenset()) -> dict[str, Array]:
  """The fields of a PolicyOutput that hidden states give.

  Args:
    config: of the model.
    params: its parameters.
    hidden: [B, T, D] that predict the tokens.
    tokens: i32[B, T].
    temperature: as in `score`.
    kept: as in `score`.
    first: bool[B, T], tokens that nothing predicts; they get 0.
    needs: as in `score`; 'router' is not found here.

  Returns:
    name -> [B, T, ...].
  """
  needs = frozenset(needs)
  if isinstance(temperature, (int, float)) and temperature == 0:
    temperature = 1.0

  def chunk(inputs):
    return _chunk(config, params, temperature, needs, *inputs)

  if head_kernels.choose(config, params, hidden, temperature=temperature,
                         kept=kept, needs=needs) == 'pallas':
    out = head_kernels.head(
        config, params, hidden, tokens, temperature=temperature, needs=needs)
  else:
    out = _map_chunks(chunk, (hidden, tokens, kept), config.logit_chunk)
  if 'values' in needs:
    out['values'] = transformer.values(config, params, hidden)
  if first is not None:
    out = {name: _zero_first(x, first) for name, x in out.items()}
  if 'hidden' in needs:
    out['hidden'] = hidden
  return out


def _with_router(config, params, tokens, positions, segments, counted):
  """Hidden states, and the routers' statistics as a dict."""
  if counted is None:
    counted = (jnp.ones(tokens.shape, bool) if segments is None
               else segments != 0)
  hidden, found = transformer.forward_with_router(
      config, params, tokens, positions, segments=segments, counted=counted)
  return hidden, {'assigned': found.assigned, 'probs': found.probs,
                  'tokens': found.tokens[0], 'z': jnp.mean(found.z, axis=0)}


def _chunk(config, params, temperature, needs, hidden, tokens, kept):
  """Log-probabilities of [B, C] tokens from hidden [B, C, D]."""
  logits = transformer.logits(config, params, hidden) / temperature
  logits = partitioning.constrain(logits, 'batch', 'length', 'vocab')
  # A comparison instead of a gather: its gradient is no scatter, and a
  # sharded vocabulary stays sharded.
  vocab = jnp.arange(config.vocab_size, dtype=tokens.dtype)
  chosen = tokens[:, :, None] == vocab[None, None]
  picked = jnp.sum(jnp.where(chosen, logits, 0), axis=-1)
  if kept is not None:
    keep = bits.unpack_kept(kept, config.vocab_size)
    keep = keep | ~jnp.any(kept != 0, axis=-1, keepdims=True)
    logits = jnp.where(keep, logits, _REMOVED)
  # Measured from the largest: what is small is rounded less.
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  shifted = logits - top[:, :, None]
  total = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
  out = {'log_probs': (picked - top) - total}
  probs = jnp.exp(shifted - total[:, :, None])
  if 'entropy' in needs:
    out['entropy'] = total - jnp.sum(probs * shifted, axis=-1)
  if 'sum_squared_probs' in needs:
    out['sum_squared_probs'] = jnp.sum(jnp.square(probs), axis=-1)
  if not needs.isdisjoint(('top_probs', 'top_ids')):
    top_probs, top_ids = jax.lax.top_k(probs, min(TOP, config.vocab_size))
    out.update(top_probs=top_probs, top_ids=top_ids.astype(jnp.int32))
  if 'logits' in needs:
    out['logits'] = logits
  return out


def _map_chunks(fn, inputs, size):
  """fn over pieces of axis 1 (T), one after the other, recomputed backward."""
  length = jax.tree.leaves(inputs)[0].shape[1]
  count = -(-length // size)
  if count <= 1:
    return fn(inputs)
  size = -(-length // count)  # even pieces: the least padding
  out = jax.lax.map(
      jax.checkpoint(fn, prevent_cse=False),
      jax.tree.map(lambda x: pieces.split(x, count, size), inputs))
  return jax.tree.map(lambda x: pieces.join(x, length), out)


def _first(tokens, segments):
  """True where nothing predicts the token."""
  if segments is None:
    start = jnp.arange(tokens.shape[1]) == 0
    return jnp.broadcast_to(start[None], tokens.shape)
  # Segment 0 is padding, so the 0 before the row is no segment either.
  before = jnp.pad(segments[:, :-1], [(0, 0), (1, 0)])
  return (segments == 0) | (segments != before)


def _positions(tokens, segments):
  index = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  if segments is None:
    return index
  start = jnp.where(_first(tokens, segments), index, 0)
  return index - jax.lax.cummax(start, axis=1)


def _zero_first(x, first):
  return jnp.where(first.reshape(first.shape + (1,) * (x.ndim - 2)), 0, x)


def check(config: config_lib.ModelConfig, tokens: Array,
          temperature: float | Array, kept: Array | None,
          needs: Collection[str]) -> None:
  """Raises ValueError for bad arguments; those of `score`."""
  unknown = sorted(set(needs) - NEEDS)
  if unknown:
    raise ValueError(f'needs {unknown} must be among {sorted(NEEDS)}')
  if 'values' in needs and not config.value_head:
    raise ValueError('values need a model with a value head: set '
                     'value_head = True')
  if isinstance(temperature, (int, float)):
    if not temperature >= 0 or (temperature == 0 and kept is None):
      raise ValueError(f'temperature = {temperature} must be positive, or 0 '
                       'together with the kept tokens')
  if kept is not None:
    shape = (*tokens.shape, bits.num_words(config.vocab_size))
    if kept.shape != shape:
      raise ValueError(f'kept has shape {kept.shape}, must be {shape}')
