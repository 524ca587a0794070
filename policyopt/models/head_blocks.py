"""The loss head's kernels on one device: logits lie in a block of VMEM alone.

Three Pallas kernels for TPUs make the logits z of a block of rows and a block
of the vocabulary, use them, and forget them:

  sums       Σ e^z and its like over the vocabulary, as they go by
  by_hidden  Σ_v ∂z_v · head_v, summed over the vocabulary
  by_head    Σ_n ∂z_n · hidden_n, summed over the rows

The block that stays while the others go by is as large as VMEM allows: what
goes by is read from HBM once for each of them.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp

from policyopt.models import head_bodies
from policyopt.models.head_bodies import TOLD, Form

Array = jax.Array

_LANES = 128
# Bytes of VMEM: the least that a chip has, and the most that is asked of one.
_LEAST_VMEM = 16 * 2**20
_MOST_VMEM = 64 * 2**20
# Of the block that stays, and of the one that goes by; multiples of a lane.
_STAYS = (1024, 512, 256, 128)
_GOES = (512, 256, 128)


def sums(form: Form, hidden: Array, head: Array, targets: Array,
         scale: Array) -> tuple[Array, Array, Array, Array, Array]:
  """Sums over the vocabulary, from z = scale · cap(hidden · head).

  Args:
    form: of the kernel.
    hidden: [N, D].
    head: [V, D] or [D, V], in the same dtype.
    targets: i32[N]; what is not in [0, V) is never met.
    scale: f32[], 1 / τ.

  Returns:
    f32[N] each: m = max z; Σ e^(z − m); z of the target, or 0;
    Σ e^(z − m) (z − m) and Σ e^(2 (z − m)), or 0 where `form` has no use for
    them.
  """
  # Here, because Pallas takes half a second to import.
  from jax.experimental.pallas import tpu as pltpu
  count, vocab = hidden.shape[0], head_bodies.columns(form, head)
  rows, width = _blocks('sums', hidden, vocab)
  hidden, told = _whole(rows, hidden), _told(rows, targets)
  body = functools.partial(head_bodies.sums, form=form, vocab=vocab)
  call = _call(
      'sums', body, form, hidden, head, (rows, width),
      jax.ShapeDtypeStruct(told.shape, jnp.float32),
      [pltpu.VMEM((rows, 1), jnp.float32)] * 5)
  return tuple(call(scale.reshape(1, 1), told, hidden, head)[:5, :count])


def by_hidden(form: Form, hidden: Array, head: Array, targets: Array,
              scale: Array, told: tuple[Array, ...], dtype) -> Array:
  """The gradient of the hidden states.

  With log p = z − m − log Σ e^(z − m),

    ∂z = g [v = target] + p (a + b p − c log p).

  Args:
    form: of the kernel.
    hidden: as in `sums`.
    head: as in `sums`.
    targets: as in `sums`.
    scale: as in `sums`.
    told: (m, log Σ e^(z − m), g, a, b, c), f32[N] each.
    dtype: of the result.

  Returns:
    [N, D].
  """
  count, vocab = hidden.shape[0], head_bodies.columns(form, head)
  rows, width = _blocks('by_hidden', hidden, vocab, dtype)
  hidden, told = _whole(rows, hidden), _told(rows, targets, *told)
  out = jax.ShapeDtypeStruct(hidden.shape, dtype)
  body = functools.partial(head_bodies.by_hidden, form=form, vocab=vocab)
  call = _call('by_hidden', body, form, hidden, head, (rows, width), out,
               _wide(out, (rows, hidden.shape[1])))
  return call(scale.reshape(1, 1), told, hidden, head)[:count]


def by_head(form: Form, hidden: Array, head: Array, targets: Array,
            scale: Array, told: tuple[Array, ...], dtype) -> Array:
  """The gradient of the head; arguments as those of `by_hidden`.

  Returns:
    An array of the head's shape.
  """
  vocab, dim = head_bodies.columns(form, head), hidden.shape[1]
  rows, width = _blocks('by_head', hidden, vocab, dtype)
  # Rows that fill the last block have gradients of 0.
  hidden, told = _whole(rows, hidden), _told(rows, targets, *told)
  out = jax.ShapeDtypeStruct(head.shape, dtype)
  block = (width, dim) if form.tied else (dim, width)
  body = functools.partial(head_bodies.by_head, form=form)
  call = _call('by_head', body, form, hidden, head, (rows, width), out,
               _wide(out, block))
  return call(scale.reshape(1, 1), told, hidden, head)


def fits(dim: int, dtype) -> bool:
  """Whether VMEM holds the smallest blocks of every kernel.

  Args:
    dim: D.
    dtype: of the hidden states and the head.
  """
  size = jnp.dtype(dtype).itemsize
  return all(_bytes(kind, _LANES, _LANES, dim, size, 4) <= _room()
             for kind in ('sums', 'by_hidden', 'by_head'))


# --- blocks ----------------------------------------------------------------


def _call(kind, kernel, form, hidden, head, block, out, scratch):
  """A call of a kernel over blocks of rows and of the vocabulary."""
  from jax.experimental import pallas as pl
  from jax.experimental.pallas import tpu as pltpu
  (rows, width), (count, dim) = block, hidden.shape
  vocab = head_bodies.columns(form, head)
  steps = (count // rows, pl.cdiv(vocab, width))
  # Programs count first what stays.
  by_rows = kind != 'by_head'

  def spec(shape, index):
    return pl.BlockSpec(
        shape, index if by_rows else lambda j, i: index(i, j))

  of_head = (spec((width, dim), lambda i, j: (j, 0)) if form.tied else
             spec((dim, width), lambda i, j: (0, j)))
  of_told = spec((TOLD, rows), lambda i, j: (0, i))
  of_hidden = spec((rows, dim), lambda i, j: (i, 0))
  reads = (head.nbytes * steps[0] + hidden.nbytes if by_rows else
           hidden.nbytes * steps[1] + head.nbytes)
  return pl.pallas_call(
      kernel,
      grid_spec=pltpu.PrefetchScalarGridSpec(
          num_scalar_prefetch=0, grid=steps if by_rows else steps[::-1],
          in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), of_told, of_hidden,
                    of_head],
          out_specs={'sums': of_told, 'by_hidden': of_hidden,
                     'by_head': of_head}[kind],
          scratch_shapes=scratch),
      out_shape=out,
      compiler_params=pltpu.CompilerParams(
          dimension_semantics=('parallel', 'arbitrary'),
          vmem_limit_bytes=_vmem()),
      cost_estimate=pl.CostEstimate(
          flops=(2 if kind == 'sums' else 4) * count * dim * vocab,
          transcendentals=count * vocab,
          bytes_accessed=reads + out.size * out.dtype.itemsize),
      interpret=form.interpret, name=f'loss_head_{kind}')


def _wide(out, block):
  """Scratch for a sum, which lies in the result where that is float32."""
  from jax.experimental.pallas import tpu as pltpu
  return [] if out.dtype == jnp.float32 else [pltpu.VMEM(block, jnp.float32)]


def _whole(rows, x, axis=0):
  """Pads an axis to whole blocks."""
  pad = [(0, 0)] * x.ndim
  pad[axis] = (0, -x.shape[axis] % rows)
  return jnp.pad(x, pad)


def _told(rows, *columns):
  """f32[8, N]: what a kernel is told of each row, eight numbers at most.

  As columns they would take 128 lanes. Ids are exact in float32 below 2²⁴.
  """
  told = jnp.stack([x.astype(jnp.float32) for x in columns])
  return _whole(rows, _whole(TOLD, told), axis=1)


def _blocks(kind, hidden, vocab, out=None):
  """(rows, width) of the blocks: the largest that stay, then that go by."""
  (count, dim), size = hidden.shape, hidden.dtype.itemsize
  of_out = jnp.dtype(out or hidden.dtype).itemsize

  def block(stays, goes):
    rows, width = (goes, stays) if kind == 'by_head' else (stays, goes)
    # Even pieces: the least padding.
    rows = -(-count // -(-count // rows))
    return tuple(-(-min(x, most) // _LANES) * _LANES
                 for x, most in ((rows, count), (width, vocab)))

  pairs = [block(*pair) for pair in itertools.product(_STAYS, _GOES)]
  return next((pair for pair in pairs
               if _bytes(kind, *pair, dim, size, of_out) <= _room()), pairs[-1])


def _bytes(kind, rows, width, dim, size, out):
  """VMEM of a kernel: two of each block, sums, and logits as they are used."""
  stays = {'sums': 0, 'by_hidden': rows, 'by_head': width}[kind]
  sums = 8 if out == 4 else 4 + 2 * out
  return (2 * (rows + width) * dim * size + stays * dim * sums
          + 6 * rows * width * 4 + 5 * rows * _LANES * 4)


def _room():
  """Bytes of VMEM for the blocks; the compiler needs some of its own."""
  return _vmem() * 3 // 4


def _vmem():
  """Bytes of VMEM that a kernel may use, on the chip of the mesh in context."""
  from jax.experimental.pallas import tpu as pltpu
  try:
    found = pltpu.get_tpu_info().vmem_capacity_bytes
  except ValueError:  # No TPU, or one that this JAX does not know.
    found = _LEAST_VMEM
  return min(found * 3 // 4 if found > _LEAST_VMEM else found, _MOST_VMEM)
