"""Mixtures of experts: a router, and two ways to bring tokens to experts.

'dropless' sorts the tokens by expert and multiplies the groups in one grouped
matrix product; no token's output depends on another's. TPUs have such a
product; on CPUs XLA makes one copy of the rows per expert instead.

'capacity' gives every expert a fixed number of places in each row, in the order
of the tokens, so that a token's output depends on those before it in its row
and on nothing else.
The number of places grows with the length of the row: one token read alone, as
a sampler reads it, is never dropped, and packed rows share their places.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from policyopt.models import partitioning, quantized
from policyopt.models.config import ModelConfig

Array = jax.Array
P = jax.sharding.PartitionSpec


class Statistics(NamedTuple):
  """What a router did with the tokens that are counted.

  Attributes:
    assigned: f32[E], Σₜ 1[expert e is among the k of token t], whether or not
      it has a place for the token.
    probs: f32[E], Σₜ pₜ(e), with a gradient.
    z: f32[B, S], (log Σₑ exp zₜ(e))², with a gradient; 0 where not counted.
    tokens: f32[], how many are counted.
  """
  assigned: Array
  probs: Array
  z: Array
  tokens: Array


def mlp(config: ModelConfig, params: Any, x: Array,
        counted: Array | None = None) -> tuple[Array, Statistics | None]:
  """Σ over the k experts e of each token: pₜ(e) · expert_e(xₜ).

  Args:
    config: of a model with experts.
    params: of the layer: 'router' [D, E], 'expert_gate' and 'expert_up'
      [E, D, F], 'expert_down' [E, F, D].
    x: [B, S, D].
    counted: bool[B, S], tokens that enter the statistics; None: no statistics.

  Returns:
    ([B, S, D] in the dtype of x, Statistics or None).

  Source: "Outrageously Large Neural Networks: The Sparsely-Gated
    Mixture-of-Experts Layer", Shazeer et al., 2017, arXiv 1701.06538;
    dropless: "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts",
    Gale et al., 2022, arXiv 2211.15841; capacity: "GShard: Scaling Giant
    Models with Conditional Computation and Automatic Sharding", Lepikhin et
    al., 2020, arXiv 2006.16668.
  """
  logits, probs, weights, experts = _route(config, params['router'], x)
  statistics = None
  if counted is not None:
    statistics = _statistics(config, logits, probs, experts, counted)
  kernels = [quantized.cast(params[f'expert_{name}'], x.dtype)
             for name in ('gate', 'up', 'down')]
  dispatch = {'dropless': _dropless, 'capacity': _capacity}
  out = dispatch[config.expert_dispatch](config, x, weights, experts, *kernels)
  return out, statistics


def activate(config: ModelConfig, x: Array) -> Array:
  """The nonlinearity of the gate.

  Args:
    config: of the model.
    x: any shape.

  Returns:
    The same shape and dtype.
  """
  if config.activation == 'gelu_tanh':
    return jax.nn.gelu(x, approximate=True)
  return jax.nn.silu(x)


def _route(config, router, x):
  """Logits and probabilities [B, S, E]; weights and experts [B, S, k]."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  # A rounded logit sends the token elsewhere: no bfloat16 passes here.
  logits = jnp.einsum('bsd,de->bse', x.astype(wide), router.astype(wide),
                      precision=jax.lax.Precision.HIGHEST)
  probs = jax.nn.softmax(logits, axis=-1)
  weights, experts = jax.lax.top_k(probs, config.experts_per_token)
  if config.normalize_experts:
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
  return logits, probs, weights, experts


def _statistics(config, logits, probs, experts, counted):
  every = jnp.arange(config.num_experts)
  assigned = jnp.sum(
      (experts[..., None] == every[None, None, None])
      & counted[:, :, None, None], axis=(0, 1, 2)).astype(probs.dtype)
  total = jnp.sum(jnp.where(counted[:, :, None], probs, 0), axis=(0, 1))
  z = jnp.where(counted, jax.nn.logsumexp(logits, axis=-1) ** 2, 0)
  return Statistics(assigned, total, z, jnp.sum(counted).astype(probs.dtype))


# --- dropless ----------------------------------------------------------------


def _dropless(config, x, weights, experts, gate, up, down):
  """The grouped product, on each device for its own tokens and experts.

  XLA would gather all tokens of all devices to sort them, so inside a mesh
  this is mapped over its shards: a device holds the tokens of its rows and
  multiplies those that go to its experts; the sum over the 'expert' and
  'tensor' axes brings the parts together.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = set(mesh.axis_types)
  if mesh.empty or mesh.size == 1 or kinds != {jax.sharding.AxisType.Auto}:
    return _grouped_mlp(config, x, weights, experts, gate, up, down)
  rows = _axes(mesh, 'batch', x.shape[0])
  split = _axes(mesh, 'experts', gate.shape[0])
  inner = _axes(mesh, 'expert_mlp', gate.shape[2])
  # Weights are gathered over the axes of the tokens only, as their gradient is
  # the sum over those; over any other axis they come whole.
  embed = _axes(mesh, 'embed', gate.shape[1])
  embed = embed if set(embed) <= set(rows) else ()
  run = functools.partial(_shard, config, rows, split, inner, embed)
  tokens = P(rows or None)
  into = P(split or None, embed or None, inner or None)
  back = P(split or None, inner or None, embed or None)
  specs = [quantized.spec(w, spec, (1,)) for w, spec in (
      (gate, into), (up, into), (down, back))]
  return jax.shard_map(
      run, in_specs=(tokens, tokens, tokens, *specs),
      out_specs=tokens)(x, weights, experts, gate, up, down)


def _shard(config, rows, split, inner, embed, x, weights, experts, gate, up,
           down):
  """One device's share: [B', S, D], summed over the axes of the weights."""
  if embed:
    gate, up, down = (
        quantized.gather(w, embed, axis, summed=(1,))
        for w, axis in ((gate, 1), (up, 1), (down, 2)))
  # What differs on one of these axes makes everything differ on it; said here,
  # so that the gradients are summed over the axis at this place.
  parts = split + inner
  x, weights, experts = (_vary(a, parts) for a in (x, weights, experts))
  rest = tuple(axis for axis in rows if axis not in embed)
  gate, up, down = (_vary(a, rest) for a in (gate, up, down))
  first = None
  if split:
    first = jax.lax.axis_index(split) * gate.shape[0]
  out = _grouped_mlp(config, x, weights, experts, gate, up, down, first)
  return jax.lax.psum(out, parts) if parts else out


def _grouped_mlp(config, x, weights, experts, gate, up, down, first=None):
  """The experts first … first + E' − 1, for all tokens; None: all experts."""
  batch, length, width = x.shape
  count = config.experts_per_token
  group = experts.reshape(-1) - (0 if first is None else first)
  if first is not None:
    # What goes to experts of other devices is sorted behind all the groups.
    own = (group >= 0) & (group < gate.shape[0])
    group = jnp.where(own, group, gate.shape[0])
  order = jnp.argsort(group, stable=True)
  inverse = jnp.argsort(order)
  sizes = jnp.sum(group[:, None] == jnp.arange(gate.shape[0])[None],
                  axis=0, dtype=jnp.int32)

  def product(rows, kernel):
    kernel, scale = quantized.split(kernel)
    if scale is None:
      return grouped(rows, kernel)
    # Rows behind the groups are 0, whatever scale they get.
    each = jnp.minimum(group[order], scale.shape[0] - 1)
    out = grouped(rows, kernel.astype(rows.dtype))
    return quantized.rescale(out, scale[each, 0])

  def grouped(rows, kernel):
    if first is None:
      return jax.lax.ragged_dot(rows, kernel, sizes)
    # Behind the groups a grouped product may leave anything, and so may its
    # transpose.
    inside = (jnp.arange(rows.shape[0]) < jnp.sum(sizes))[:, None]
    out = jax.lax.ragged_dot(jnp.where(inside, rows, 0), kernel, sizes)
    return jnp.where(inside, out, 0)

  rows = _to_experts(count, x.reshape(-1, width), order, inverse)
  hidden = activate(config, product(rows, gate)) * product(rows, up)
  out = _from_experts(product(hidden, down), order, inverse)
  return _combine(out.reshape(batch, length, count, -1), weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _to_experts(count, x, order, inverse):
  """Token i's `count` copies, in the order of the experts: [N k, D]."""
  del inverse
  return x[order // count]


def _to_experts_forward(count, x, order, inverse):
  return _to_experts(count, x, order, inverse), inverse


def _to_experts_backward(count, inverse, g):
  # A gather, where the transpose of a gather would be a scatter-add.
  back = g[inverse].reshape(-1, count, g.shape[-1])
  return jnp.sum(back, axis=1), None, None


_to_experts.defvjp(_to_experts_forward, _to_experts_backward)


@jax.custom_vjp
def _from_experts(y, order, inverse):
  """Back to the order of the tokens: [N k, D]."""
  del order
  return y[inverse]


_from_experts.defvjp(
    lambda y, order, inverse: (y[inverse], order),
    lambda order, g: (g[order], None, None))


def _combine(out, weights):
  """Σ over k of [B, S, k, D] by weights, always in the order of the k."""
  wide = jnp.promote_types(out.dtype, weights.dtype)
  total = jnp.sum(out.astype(wide) * weights[..., None], axis=2)
  return total.astype(out.dtype)


def _vary(x, axes):
  return jax.tree.map(
      lambda x: jax.lax.pcast(x, axes, to='varying'), x) if axes else x


def _axes(mesh, logical, size):
  """The mesh axes that split a dimension, () when they do not divide it."""
  rule = partitioning.RULES[logical] or ()
  names = (rule,) if isinstance(rule, str) else rule
  names = tuple(n for n in names if mesh.shape.get(n, 1) > 1)
  return names if size % math.prod(mesh.shape[n] for n in names) == 0 else ()


# --- capacity ----------------------------------------------------------------


def _capacity(config, x, weights, experts, gate, up, down):
  """Each expert takes the first C of a row's tokens that are sent to it."""
  batch, length, width = x.shape
  count, total = config.experts_per_token, config.num_experts
  places = min(length, math.ceil(
      config.expert_capacity * length * count / total))
  flat = experts.reshape(batch, -1)
  # Tokens first, then their k: a later token never displaces an earlier one.
  sent = flat[:, :, None] == jnp.arange(total)[None, None]
  before = jnp.cumsum(sent, axis=1, dtype=jnp.int32) - 1
  place = jnp.sum(jnp.where(sent, before, 0), axis=-1)
  slot = jnp.where(place < places, flat * places + place, total * places)
  token = jnp.broadcast_to(
      (jnp.arange(length * count) // count)[None], flat.shape)
  source = jnp.full((batch, total * places), length).at[
      jnp.arange(batch)[:, None], slot].set(token, mode='drop')

  def gather(rows, index):  # 0 where the index is one past the end
    return jnp.take_along_axis(
        rows, index[:, :, None], axis=1, mode='fill', fill_value=0)

  rows = gather(x, source).reshape(batch, total, places, width)
  rows = partitioning.constrain(rows, 'batch', 'experts', 'length', 'features')

  def product(rows, kernel):
    kernel, scale = quantized.split(kernel)
    out = jnp.einsum('becd,edf->becf', rows, kernel.astype(rows.dtype))
    return out if scale is None else quantized.rescale(out, scale)

  hidden = activate(config, product(rows, gate)) * product(rows, up)
  out = product(hidden, down)
  out = gather(out.reshape(batch, total * places, width), slot)
  return _combine(out.reshape(batch, length, count, width), weights)
