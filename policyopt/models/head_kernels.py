"""The loss head in kernels that never write logits to memory, for TPUs.

The numbers are those that `scoring.head` makes from logits in pieces. Products
have the precision that JAX has for all of them (`jax_default_matmul_precision`:
on TPUs one pass of bfloat16, of float32 operands too), and are summed in
float32. Forward makes each logit once; backward makes it twice, once for the
gradient of the hidden states and once for that of the head, which is summed
over all tokens before it is written.

A device holds its rows, and its part of the vocabulary where 'tensor' splits
it; what it finds there is put together over 'tensor'.
"""

from __future__ import annotations

from collections.abc import Collection
import functools
from typing import Any

import jax
import jax.numpy as jnp

from policyopt.models import attention_kernels as kernels
from policyopt.models import config as config_lib
from policyopt.models import head_blocks, partitioning, quantized
from policyopt.models.head_bodies import Form, columns

Array = jax.Array
P = jax.sharding.PartitionSpec

# What is made of logits as they go by.
_MADE = frozenset({'entropy', 'sum_squared_probs'})
# What is not made of logits.
_OTHERS = frozenset({'values', 'hidden', 'router'})
_LANES = 128
_MOST_IDS = 2**24  # Whole numbers of float32.
# Of `jax_default_matmul_precision`, those that Pallas knows on TPUs.
_PRECISIONS = (None, 'default', 'fastest', 'bfloat16', 'float32', 'highest')


def choose(config: config_lib.ModelConfig, params: Any, hidden: Array, *,
           temperature: float | Array = 1.0, kept: Array | None = None,
           needs: Collection[str] = frozenset()) -> str:
  """What `config.loss_head` comes to; see `attention_kernels.choose`.

  'auto' takes what was measured to be faster. On TPUs nothing has been measured
  yet, so it is 'xla' everywhere.

  Args:
    config: of the model.
    params: its parameters.
    hidden: [B, T, D].
    temperature: as in `scoring.score`.
    kept: as in `scoring.score`.
    needs: as in `scoring.score`.

  Returns:
    'xla' or 'pallas'.

  Raises:
    ValueError: for 'pallas' where it cannot do it, and why.

  Example:
    >>> config = config_lib.ModelConfig(
    ...     vocab_size=8, width=128, num_layers=1, num_heads=2, num_kv_heads=1,
    ...     head_dim=2, mlp_width=8, loss_head='pallas')
    >>> choose(config, {}, jnp.zeros((1, 8, 128)))
    Traceback (most recent call last):
    ...
    ValueError: loss_head = 'pallas' cannot be used here: the platform is cpu, \
not tpu; 'auto' takes what can
  """
  if config.loss_head != 'pallas':
    return 'xla'
  reason = _not_pallas(config, params, hidden, temperature, kept, needs)
  if reason:
    raise ValueError(f"loss_head = 'pallas' cannot be used here: {reason}; "
                     "'auto' takes what can")
  return 'pallas'


def head(config: config_lib.ModelConfig, params: Any, hidden: Array,
         tokens: Array, *, temperature: float | Array = 1.0,
         needs: Collection[str] = frozenset(), interpret: bool = False
         ) -> dict[str, Array]:
  """What logits say of tokens; see `scoring.head` for the arguments.

  The temperature has no gradient: nothing is learnt through it.

  Args:
    config: of the model.
    params: its parameters.
    hidden: [B, T, D] that predict the tokens.
    tokens: i32[B, T].
    temperature: a number or a scalar.
    needs: 'entropy' and 'sum_squared_probs' are made; others are not.
    interpret: runs the kernels step by step on any platform, for tests.

  Returns:
    'log_probs' and what `needs` names -> f32[B, T].
  """
  form = Form(config.tied_embeddings, config.logit_softcap, 'entropy' in needs,
              'sum_squared_probs' in needs, interpret)
  scale = jax.lax.stop_gradient(1 / jnp.asarray(temperature, jnp.float32))
  out = _scores(form, hidden.astype(config.dtype), _weights(config, params),
                tokens, scale)
  names = ('log_probs', 'entropy', 'sum_squared_probs')
  return {name: x for name, x in zip(names, out)
          if name == 'log_probs' or name in needs}


# --- the derivative, around the mesh ---------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(form, hidden, weights, targets, scale):
  """(log p of the targets, entropy, Σ p²), f32[B, T] each."""
  return _forward(form, hidden, weights, targets, scale)[0]


def _forward(form, hidden, weights, targets, scale):
  batch, tensor, mesh = kernels.shard_axes()
  run = functools.partial(_local_sums, form, tensor)
  if mesh is not None:
    rows = P(batch, None)
    run = jax.shard_map(
        run, in_specs=(P(batch, None, None), _spec(form, tensor), rows,
                       P()), out_specs=(rows,) * 5, check_vma=False)
  top, total, picked, mean, square = run(
      hidden, weights.astype(hidden.dtype), targets, scale)
  log = jnp.log(total)
  out = ((picked - top) - log, log - mean / total, square / (total * total))
  return out, (hidden, weights, targets, scale, top, log, *out[1:])


def _backward(form, kept, by):
  hidden, weights, targets, scale, top, log, entropy, squares = kept
  by_log_prob, by_entropy, by_squares = by
  # ∂H/∂z = −p (log p + H) and ∂Σp²/∂z = 2 p (p − Σp²).
  a = -by_log_prob
  if form.entropy:
    a -= by_entropy * entropy
  if form.squares:
    a -= 2 * by_squares * squares
  told = (top, log, by_log_prob, a, 2 * by_squares, by_entropy)
  batch, tensor, mesh = kernels.shard_axes()
  split = None if mesh is None else _split(hidden.shape[-1], mesh)
  by_hidden = functools.partial(_local_by_hidden, form, tensor)
  # As it is stored: what is summed over tokens is rounded once at most.
  by_weights = functools.partial(
      _local_by_weights, form, tensor, batch, split, weights.dtype)
  if mesh is not None:
    rows, whole = P(batch, None), P(batch, None, None)
    specs = (whole, _spec(form, tensor), rows, P(), (rows,) * len(told))
    by_hidden, by_weights = (
        jax.shard_map(run, in_specs=specs, out_specs=out, check_vma=False)
        for run, out in ((by_hidden, whole),
                         (by_weights, _spec(form, tensor, split))))
  given = hidden, weights.astype(hidden.dtype), targets, scale, told
  return by_hidden(*given), by_weights(*given), None, None


_scores.defvjp(_forward, _backward)


# --- one device ------------------------------------------------------------


def _local_sums(form, tensor, hidden, weights, targets, scale):
  """The sums of this device's rows, over the whole vocabulary."""
  ids = _local_ids(form, tensor, weights, targets)
  found = head_blocks.sums(form, _flat(hidden), weights, ids, scale)
  top, *sums = (x.reshape(targets.shape) for x in found)
  if tensor is None:
    return top, *sums
  total, picked, mean, square = sums
  now = jax.lax.pmax(top, tensor)
  shift, shrink = top - now, jnp.exp(top - now)
  return now, *jax.lax.psum(
      (shrink * total, picked, shrink * (mean + shift * total),
       shrink * shrink * square), tensor)


def _local_by_hidden(form, tensor, hidden, weights, targets, scale, told):
  """The gradient of this device's hidden states."""
  ids = _local_ids(form, tensor, weights, targets)
  told = [x.reshape(-1) for x in told]
  # What is summed once more is not rounded before.
  dtype = hidden.dtype if tensor is None else jnp.float32
  out = head_blocks.by_hidden(
      form, _flat(hidden), weights, ids, scale, told, dtype)
  if tensor is not None:
    out = jax.lax.psum(out, tensor).astype(hidden.dtype)
  return out.reshape(hidden.shape)


def _local_by_weights(form, tensor, batch, split, dtype, hidden, weights,
                      targets, scale, told):
  """The gradient of the head; over 'fsdp', this device's part of it."""
  ids = _local_ids(form, tensor, weights, targets)
  out = head_blocks.by_head(form, _flat(hidden), weights, ids, scale,
                            [x.reshape(-1) for x in told], dtype)
  if batch is None:
    return out
  if split is not None:
    out = jax.lax.psum_scatter(
        out, split, scatter_dimension=1 if form.tied else 0, tiled=True)
  return jax.lax.psum(out, tuple(axis for axis in batch if axis != split))


def _local_ids(form, tensor, weights, targets):
  """Ids counted from the first of this device's vocabulary, or -1."""
  vocab = columns(form, weights)
  first = 0 if tensor is None else vocab * jax.lax.axis_index(tensor)
  ids = targets.reshape(-1) - first
  return jnp.where((ids >= 0) & (ids < vocab), ids, -1)


def _flat(x):
  return x.reshape(-1, x.shape[-1])


# --- where things lie, and whether they can ---------------------------------


def _weights(config, params):
  """The head: [V, D] where it is the embedding, else [D, V]."""
  return params['embedding' if config.tied_embeddings else 'head']


def _spec(form, tensor, embed=None):
  """Of the head; `embed` None: gathered along the axis of D."""
  return P(tensor, embed) if form.tied else P(embed, tensor)


def _split(dim, mesh):
  """The mesh axis over which a head lies along D, or None."""
  axis = partitioning.RULES['embed']
  return None if dim % mesh.shape[axis] else axis


def _not_pallas(config, params, hidden, temperature, kept, needs):
  """Why the kernels cannot do it, or None."""
  vocab, dim = config.vocab_size, hidden.shape[-1]
  if kernels.platform() != 'tpu':
    return f'the platform is {kernels.platform()}, not tpu'
  others = sorted(set(needs) - _MADE - _OTHERS)
  if others:
    return f'{", ".join(others)} would need logits in memory'
  if kept is not None:
    return 'the kept tokens would be read as a mask of the logits'
  if quantized.is_quantized(_weights(config, params)):
    return 'the head is quantised'
  if config.dtype not in ('bfloat16', 'float32'):
    return f'the dtype is {config.dtype}, not bfloat16 or float32'
  precision = jax.config.jax_default_matmul_precision
  if precision not in _PRECISIONS:
    return f'a product of {precision} precision is none of its own'
  if jnp.size(temperature) != 1:
    return f'the temperature has shape {jnp.shape(temperature)}, not ()'
  if dim % _LANES:
    return f'width is {dim}, not a multiple of {_LANES}'
  if not head_blocks.fits(dim, config.dtype):
    return f'blocks of width {dim} do not fit into VMEM'
  batch, tensor, mesh = kernels.shard_axes()
  shards = kernels.shard_count(mesh, batch)
  parts = kernels.shard_count(mesh, tensor)
  if hidden.shape[0] % shards:
    return (f'{hidden.shape[0]} rows are not a multiple of {shards} shards of '
            'the mesh')
  if vocab % parts:
    return f'{vocab} tokens do not divide into {parts} shards of the mesh'
  if vocab >= _MOST_IDS:
    return f'vocab_size is {vocab}, not below {_MOST_IDS}'
  return None
