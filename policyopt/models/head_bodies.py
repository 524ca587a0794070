"""What the loss head's kernels do with a block of rows and one of tokens.

Each is called once for a pair of blocks; see `head_blocks` for which, and for
what they are given. They keep logits in registers and VMEM.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array

# Numbers that a kernel is told of a row, or tells: a whole tile.
TOLD = 8

_REMOVED = -1e30


class Form(NamedTuple):
  """What the kernels are compiled for.

  Attributes:
    tied: the head is [V, D], else [D, V].
    softcap: of the logits, or None.
    entropy: whether it is wanted, or has a gradient.
    squares: the same of Σ p².
    interpret: runs the kernels step by step on any platform, for tests.
  """
  tied: bool
  softcap: float | None = None
  entropy: bool = False
  squares: bool = False
  interpret: bool = False


def sums(scale, told, hidden, head, out, top, total, picked, mean, square, *,
         form, vocab):
  """A block of rows, and one of the vocabulary: a softmax as it goes."""
  from jax.experimental import pallas as pl
  step = pl.program_id(1)

  @pl.when(step == 0)
  def _():
    top[...] = jnp.full_like(top, _REMOVED)
    for x in (total, picked, mean, square):
      x[...] = jnp.zeros_like(x)

  def add(masked):
    z, _ = _logits(form, scale, hidden[...], head[...])
    index = _index(step, z.shape, 1)
    if masked:
      z = jnp.where(index < vocab, z, _REMOVED)
    target = told[...].T[:, :1].astype(jnp.int32)
    picked[...] += _over(jnp.where(index == target, z, 0))
    before = top[...]
    now = jnp.maximum(before, z.max(axis=1, keepdims=True))
    shift, z = before - now, z - now
    weight, shrink = jnp.exp(z), jnp.exp(shift)
    if form.entropy:
      mean[...] = shrink * (mean[...] + shift * total[...]) + _over(weight * z)
    if form.squares:
      square[...] = shrink * shrink * square[...] + _over(weight * weight)
    total[...] = shrink * total[...] + _over(weight)
    top[...] = now

  _by_tail(step, vocab, columns(form, head), add)

  @pl.when(step == pl.num_programs(1) - 1)
  def _():
    found = [x[...] for x in (top, total, picked, mean, square)]
    found += [jnp.zeros_like(found[0])] * (TOLD - len(found))
    out[...] = jnp.concatenate(found, axis=1).T


def by_hidden(scale, told, hidden, head, out, *wide, form, vocab):
  """The same blocks, for the gradient of the rows."""
  from jax.experimental import pallas as pl
  step, total = pl.program_id(1), wide[0] if wide else out

  @pl.when(step == 0)
  def _():
    total[...] = jnp.zeros_like(total)

  def add(masked):
    w = head[...]
    slope = _slope(form, scale, told[...].T, hidden[...], w, step)
    if masked:
      # Behind the vocabulary there may be anything, and 0 · NaN is NaN.
      slope = jnp.where(_index(step, slope.shape, 1) < vocab, slope, 0)
      axis = 0 if form.tied else 1
      place = step * w.shape[axis] + lax.broadcasted_iota(
          jnp.int32, w.shape, axis)
      w = jnp.where(place < vocab, w, jnp.zeros_like(w))
    total[...] += _dot(slope.astype(w.dtype), w, 1, 0 if form.tied else 1)

  _by_tail(step, vocab, columns(form, head), add)
  _narrow(step, out, wide)


def by_head(scale, told, hidden, head, out, *wide, form):
  """The same, for the gradient of the vocabulary, which is the outer axis."""
  from jax.experimental import pallas as pl
  step, total = pl.program_id(1), wide[0] if wide else out

  @pl.when(step == 0)
  def _():
    total[...] = jnp.zeros_like(total)

  # Behind the vocabulary is what nobody keeps, and it meets nothing else.
  h = hidden[...]
  slope = _slope(form, scale, told[...].T, h, head[...], pl.program_id(0))
  pair = (slope.astype(h.dtype), h)
  total[...] += _dot(*(pair if form.tied else pair[::-1]), 0, 0)
  _narrow(step, out, wide)


def _logits(form, scale, hidden, head):
  """z f32[R, C], and its derivative by the product."""
  z = _dot(hidden, head, 1, 1 if form.tied else 0)
  factor = scale[0, 0]
  if form.softcap is None:
    return z * factor, factor
  z = jnp.tanh(z / form.softcap)
  return z * (form.softcap * factor), (1 - z * z) * factor


def _slope(form, scale, told, hidden, head, step):
  """The gradient of the product, f32[R, C]."""
  target, top, total, g, a, b, c = (told[:, i:i + 1] for i in range(7))
  z, factor = _logits(form, scale, hidden, head)
  # As it is made in `sums`: measured from the largest.
  log_p = z - top - total
  p = jnp.exp(log_p)
  if form.squares:
    a = a + b * p
  if form.entropy:
    a = a - c * log_p
  chosen = _index(step, z.shape, 1) == target.astype(jnp.int32)
  return (p * a + jnp.where(chosen, g, 0)) * factor


def _index(step, shape, axis):
  """Token ids of a block of logits."""
  return step * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis)


def _over(x):
  return x.sum(axis=1, keepdims=True)


def _dot(x, y, x_axis, y_axis):
  return lax.dot_general(x, y, (((x_axis,), (y_axis,)), ((), ())),
                         preferred_element_type=jnp.float32)


def _narrow(step, out, wide):
  """Rounds the sum at the end of it."""
  from jax.experimental import pallas as pl
  if wide:
    @pl.when(step == pl.num_programs(1) - 1)
    def _():
      out[...] = wide[0][...].astype(out.dtype)


def _by_tail(step, vocab, width, add):
  """add(False) for whole blocks, add(True) where the vocabulary ends."""
  from jax.experimental import pallas as pl
  if vocab % width == 0:
    add(False)
    return
  last = step == pl.num_programs(1) - 1
  pl.when(jnp.logical_not(last))(lambda: add(False))
  pl.when(last)(lambda: add(True))


def columns(form, head):
  """Length of the vocabulary's axis, of the head or of a block of it."""
  return head.shape[0 if form.tied else 1]
