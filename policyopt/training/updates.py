"""Sums gradients over microbatches and applies them when they are finite."""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp
import optax

from policyopt.models import partitioning
from policyopt.types import Array, Metrics


def microbatch(tree, count: int):
  """Cuts the rows of every leaf: [B, ...] -> [count, B / count, ...].

  Example:
    >>> import jax.numpy as jnp
    >>> microbatch({'x': jnp.arange(6)}, 2)['x'].tolist()
    [[0, 1, 2], [3, 4, 5]]
  """
  def cut(x):
    x = x.reshape(count, x.shape[0] // count, *x.shape[1:])
    # Each piece is spread over the whole mesh, not held by a part of it.
    return partitioning.constrain(x, None, 'batch', *[None] * (x.ndim - 2))
  return jax.tree.map(cut, tree)


def summed_gradient(loss_fn, params, batch, count: int):
  """Loss, metrics and gradient of a weighted sum, over `count` microbatches.

  Args:
    loss_fn: (params, piece) -> (loss f32[], metrics), sums over rows.
    params: to differentiate by.
    batch: pytree whose leaves have B rows.
    count: number of pieces; divides B.

  Returns:
    (loss, metrics, gradient): what one piece of B rows would give.
  """
  # Jitted, it is traced once for its shapes and for the loop together.
  gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True), inline=True)
  if count == 1:
    (loss, metrics), grads = gradient(params, batch)
    return loss, metrics, grads

  def body(total, piece):
    return jax.tree.map(jnp.add, total, gradient(params, piece)), None

  pieces = microbatch(batch, count)
  first = jax.tree.map(lambda x: x[0], pieces)
  shapes = jax.eval_shape(gradient, params, first)
  # Sums of many gradients in bfloat16 would lose the small ones.
  zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, _wide(x.dtype)), shapes)
  total, _ = lax.scan(body, zeros, pieces)
  (loss, metrics), grads = jax.tree.map(
      lambda x, shape: x.astype(shape.dtype), total, shapes)
  return loss, metrics, grads


def orders(key: Array, group: Array, epochs: int, minibatches: int) -> Array:
  """The rows of each minibatch, shuffled anew in every epoch.

  Groups of equal size are never cut; rows that take no part (group -1) go last.

  Args:
    key: consumed.
    group: i32[B].
    epochs: passes over the rows.
    minibatches: of a pass; divides B.

  Returns:
    i32[epochs * minibatches, B / minibatches], indices of rows.
  """
  order = jax.vmap(lambda k: _group_order(k, group))(
      jax.random.split(key, epochs))
  return order.reshape(epochs * minibatches, -1)


def _group_order(key, group):
  """Row indices with groups in random order, the rows of one side by side."""
  rank = jax.random.permutation(key, group.shape[0])
  return jnp.argsort(jnp.where(group < 0, group.shape[0], rank[group]),
                     stable=True)


def apply_if_finite(optimizer: optax.GradientTransformation, loss: Array,
                    grads, params, opt_state) -> tuple:
  """One optimizer update, left out when the loss or gradient is not finite.

  Returns:
    (params, opt_state, ok bool[], metrics): metrics 'loss', 'grad_norm' and
    'skipped_updates' as (sum, weight) pairs.
  """
  grad_norm = optax.tree.norm(
      jax.tree.map(lambda g: g.astype(_wide(g.dtype)), grads))
  updates, new_opt_state = optimizer.update(grads, opt_state, params)
  ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  keep = lambda new, old: jax.tree.map(
      lambda n, o: jnp.where(ok, n, o), new, old)
  one = jnp.ones(())
  metrics: Metrics = {
      'loss': (loss, one), 'grad_norm': (grad_norm, one),
      'skipped_updates': ((~ok).astype(jnp.float32), one)}
  return (keep(optax.apply_updates(params, updates), params),
          keep(new_opt_state, opt_state), ok, metrics)


def _wide(dtype):
  low = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
  return jnp.float32 if low else dtype
