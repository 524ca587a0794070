"""Optimizers of parameters in bfloat16, without losing what is small.

An update far below a parameter's last bit (2⁻⁸ of it) is lost when the sum is
rounded to nearest. Rounded at random, up or down with probabilities that make
the mean right, it is not lost but only noisy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from policyopt.types import Array

ROUNDINGS = ('nearest', 'stochastic')
MOMENTS = ('float32', 'bfloat16')

# Root of the random bits: they depend on the number of updates alone.
_SEED = 20_200


class LowPrecisionState(NamedTuple):
  """State of `low_precision`: updates so far i32[], and the wrapped state."""
  updates: Array
  inner: optax.OptState


def round_stochastically(key: Array, x: Array) -> Array:
  """Rounds to bfloat16, up or down at random, so that the mean is x.

  P(up) = (x − below) / (above − below), its two neighbours in bfloat16.

  Args:
    key: a typed random key; consumed.
    x: f32 of any shape; what is not finite stays as it is.

  Returns:
    bf16 of the same shape.

  Source: "Deep Learning with Limited Numerical Precision", Gupta et al., 2015,
    arXiv 1502.02551.

  Example:
    >>> x = jnp.full(1000, 1 + 2**-9, jnp.float32)  # between 1 and 1 + 2**-7
    >>> rounded = round_stochastically(jax.random.key(0), x)
    >>> sorted(set(rounded.astype(jnp.float32).tolist()))
    [1.0, 1.0078125]
  """
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  # bfloat16 is the upper half of float32: a carry out of the lower half is a
  # step to the neighbour that is further from 0.
  rounded = jax.lax.bitcast_convert_type(
      (bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
  return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def low_precision(
    inner: optax.GradientTransformation, *, rounding: str = 'stochastic',
    moments: str | None = None) -> optax.GradientTransformation:
  """Lets an optimizer compute in float32 whatever is stored in less.

  Gradients, parameters and moments are widened, the wrapped optimizer makes
  its update, and what is stored in bfloat16 is rounded to it. The update comes
  out in float32, and such that `optax.apply_updates` gives the rounded
  parameter. Random bits follow from the number of updates, so that a resumed
  run goes on with the bits of one that was not stopped.

  Args:
    inner: any optax optimizer.
    rounding: 'nearest' or 'stochastic', of parameters and moments.
    moments: 'float32' or 'bfloat16', in which the state is stored that has
      the shape of the parameters; None for the parameters' own dtype.

  Returns:
    An optax.GradientTransformation; its state is sharded as the wrapped one.

  Raises:
    ValueError: for another rounding or dtype.
  """
  for name, value, choices in (('rounding', rounding, ROUNDINGS),
                               ('moments', moments, (None, *MOMENTS))):
    if value not in choices:
      raise ValueError(f'optimizer.{name} = {value!r} must be one of '
                       f'{", ".join(map(str, choices))}')

  def init(params):
    stored = params if moments is None else jax.tree.map(
        lambda p: jnp.asarray(p).astype(moments), params)
    return LowPrecisionState(jnp.zeros((), jnp.int32), inner.init(stored))

  def update(grads, state, params=None):
    if params is None:
      raise ValueError('low_precision needs the parameters: '
                       'update(grads, state, params)')
    key = jax.random.fold_in(jax.random.key(_SEED), state.updates)
    updates, new = inner.update(
        _widen(grads), _widen(state.inner), _widen(params))
    new = _round_like(
        rounding, jax.random.fold_in(key, 1), new, state.inner)
    target = _round_like(
        rounding, jax.random.fold_in(key, 0),
        jax.tree.map(jnp.add, _widen(params), updates), params)
    return (jax.tree.map(_difference, target, params, updates),
            LowPrecisionState(state.updates + 1, new))

  return optax.GradientTransformation(init, update)


def _widen(tree):
  """bfloat16 as float32; everything else as it is."""
  return jax.tree.map(
      lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)


def _difference(target, param, update):
  if param.dtype != jnp.bfloat16:
    return update
  # Exact enough that adding it to the parameter rounds to the target.
  return target.astype(jnp.float32) - param.astype(jnp.float32)


def _round_like(rounding, key, tree, like):
  """The tree in the dtypes of another, bfloat16 by the chosen rounding."""
  leaves, structure = jax.tree.flatten(tree)
  rounded = []
  for index, (x, old) in enumerate(
      zip(leaves, jax.tree.leaves(like), strict=True)):
    if rounding == 'stochastic' and old.dtype == jnp.bfloat16:
      rounded.append(round_stochastically(
          jax.random.fold_in(key, index), x.astype(jnp.float32)))
    else:
      # A random key among them has no other dtype to go to.
      rounded.append(x if x.dtype == old.dtype else x.astype(old.dtype))
  return jax.tree.unflatten(structure, rounded)
