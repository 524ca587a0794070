"""The platforms' attention kernels: when each can run, and how it is called.

Both are libraries' own: cuDNN's flash attention through `jax.nn`, and JAX's
splash attention, a Pallas kernel for TPU. What they are asked for is what
`attention.causal` documents.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from policyopt.models import partitioning

Array = jax.Array
P = jax.sharding.PartitionSpec

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'splash')

# Tokens of a tile of the splash kernel are multiples of this.
_LANES = 128


def choose(implementation: str, query: Array, key: Array, *,
           segments: Array | None = None, softcap: float | None = None) -> str:
  """The implementation that will run.

  The platform is that of the mesh in context (see `jax.set_mesh`), so that a
  program compiled ahead of time for a TPU takes the TPU's kernel; without a
  mesh it is JAX's default backend.

  Args:
    implementation: 'auto' or a name that is to be taken.
    query: [B, S, H, DH].
    key: [B, T, KV, DH].
    segments: i32[B, T] or None.
    softcap: of the scores, or None.

  Returns:
    'xla', 'cudnn' or 'splash'.

  Raises:
    ValueError: for an unknown name, or one that cannot do it, and why.

  Example:
    >>> x = jnp.zeros((1, 8, 2, 16))
    >>> choose('cudnn', x, x)
    Traceback (most recent call last):
    ...
    ValueError: attention = 'cudnn' cannot be used here: the platform is cpu, \
not gpu; 'auto' takes what can
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'attention = {implementation!r} must be one of '
                     f'{", ".join(IMPLEMENTATIONS)}')
  if implementation == 'xla':
    return 'xla'
  reasons = {'cudnn': _not_cudnn(query, segments, softcap),
             'splash': _not_splash(query, key)}
  if implementation != 'auto':
    if reasons[implementation]:
      raise ValueError(
          f'attention = {implementation!r} cannot be used here: '
          f"{reasons[implementation]}; 'auto' takes what can")
    return implementation
  # A tile of the kernels is longer than such rows, which XLA has done by then.
  if query.shape[1] < _LANES:
    return 'xla'
  return next((name for name, reason in reasons.items() if not reason), 'xla')


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh in context, else of JAX itself."""
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  name = jax.default_backend() if device is None else device.platform
  return 'gpu' if name in ('cuda', 'rocm') else name


def cudnn(query: Array, key: Array, value: Array, *, segments: Array | None,
          windowed: Array | bool | None, window: int | None, scale: float,
          softcap: float | None) -> Array:
  """cuDNN's flash attention; see `attention.causal` for the arguments.

  Segments, and queries of the last tokens only, become a bias [B, 1, S, T] in
  the dtype of the query.
  """
  del softcap  # Refused by `choose`.
  length, before = query.shape[1], key.shape[1] - query.shape[1]
  same = None
  if segments is not None:
    same = (segments[:, before:, None] == segments[:, None, :])[:, None]

  def run(window, query, key, value):
    mask = same
    if before:  # cuDNN would take them for the first tokens.
      index = jnp.arange(before + length)
      far = index[before:, None] - index[None, :]
      mask = far >= 0 if window is None else (far >= 0) & (far < window)
      mask = mask[None, None] if same is None else mask[None, None] & same
    # cuDNN wants one dtype, and counts the keys before a token.
    return jax.nn.dot_product_attention(
        query, key.astype(query.dtype), value.astype(query.dtype), mask=mask,
        scale=scale, is_causal=not before, implementation='cudnn',
        local_window_size=None if window is None or before
        else (window - 1, 0))

  return _either(run, windowed, window)(query, key, value)


def splash(query: Array, key: Array, value: Array, *, segments: Array | None,
           windowed: Array | bool | None, window: int | None, scale: float,
           softcap: float | None, interpret: bool = False) -> Array:
  """Splash attention; see `attention.causal` for the arguments.

  Rows are padded to whole tiles. In a mesh every device runs the kernel on its
  rows and heads; keys of too few heads are repeated over 'tensor'.

  Args:
    interpret: runs the kernel step by step on any platform, for tests.
  """
  batch, heads, mesh = shard_axes()
  length, before = query.shape[1], key.shape[1] - query.shape[1]
  # The kernel has no scale of its own.
  query = (query.astype(jnp.promote_types(query.dtype, jnp.float32))
           * scale).astype(query.dtype)
  key, value = (x.astype(query.dtype) for x in (key, value))
  tensor = shard_count(mesh, heads)
  if key.shape[2] % tensor:
    key, value = (jnp.repeat(x, tensor // key.shape[2], axis=2)
                  for x in (key, value))
  inputs = [_whole_tiles(x) for x in (query, key, value)]
  specs = [P(batch, None, heads, None)] * 3
  if segments is not None:
    inputs += [_whole_tiles(segments[:, before:]), _whole_tiles(segments)]
    specs += [P(batch, None)] * 2

  def run(window, *inputs):
    local = functools.partial(
        _splash_local, before=before, window=window, softcap=softcap,
        interpret=interpret)
    if mesh is None:
      return local(*inputs)
    # The kernel knows nothing of which axes its values vary over.
    return jax.shard_map(local, in_specs=tuple(specs), out_specs=specs[0],
                         check_vma=False)(*inputs)

  return _either(run, windowed, window)(*inputs)[:, :length]


def _whole_tiles(x):
  """Pads axis 1 to whole tiles of the splash kernel."""
  length = x.shape[1]
  return jnp.pad(x, [(0, 0), (0, -length % _block(length)),
                     *[(0, 0)] * (x.ndim - 2)])


def _splash_local(query, key, value, *segments, before, window, softcap,
                  interpret):
  """The kernel on one device: [B, S, H, DH] of its own rows and heads."""
  # Here, because Pallas takes half a second to import.
  from jax.experimental.pallas.ops.tpu import splash_attention as lib
  shape, heads = (query.shape[1], key.shape[1]), query.shape[2]
  mask = (lib.CausalMask(shape, before) if window is None else
          lib.LocalMask(shape, (window - 1, 0), before))
  q, kv = map(_block, shape)
  sizes = lib.BlockSizes(
      block_q=q, block_kv=kv, block_kv_compute=kv, block_q_dkv=q,
      block_kv_dkv=kv, block_kv_dkv_compute=kv, block_q_dq=q, block_kv_dq=kv)
  kernel = lib.make_splash_mha(
      lib.MultiHeadMask([mask] * heads), block_sizes=sizes, head_shards=1,
      q_seq_shards=1, attn_logits_soft_cap=softcap, interpret=interpret)
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
  if segments:
    out = jax.vmap(kernel)(query, key, value, lib.SegmentIds(*segments))
  else:
    out = jax.vmap(kernel)(query, key, value)
  return out.swapaxes(1, 2).astype(query.dtype)


def _either(run, windowed, window):
  """run(window or None, ...) by a flag that may be traced."""
  if window is None or windowed is None or windowed is True:
    return functools.partial(run, window)
  # A kernel's mask is static, so there are two of them in the program.
  return lambda *inputs: jax.lax.cond(
      windowed, functools.partial(run, window), functools.partial(run, None),
      *inputs)


def _block(length):
  """Tile of the splash kernel: larger is faster, and pads more."""
  return 512 if length > 1024 else 256 if length > 256 else _LANES


def shard_axes():
  """Mesh axes of rows and of heads, and the mesh, or None for one device."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return None, None, None
  manual = jax.sharding.AxisType.Manual
  if all(kind == manual for kind in mesh.axis_types):
    return None, None, None
  return partitioning.RULES['batch'], partitioning.RULES['heads'], mesh


def shard_count(mesh, axes) -> int:
  """Shards that mesh axes make; 1 without a mesh."""
  if mesh is None or axes is None:
    return 1
  axes = (axes,) if isinstance(axes, str) else axes
  return math.prod(mesh.shape[axis] for axis in axes)


def _not_cudnn(query, segments, softcap):
  """Why cuDNN cannot do it, or None."""
  length, dim = query.shape[1], query.shape[3]
  if platform() != 'gpu':
    return f'the platform is {platform()}, not gpu'
  if query.dtype not in (jnp.bfloat16, jnp.float16):
    return f'the dtype is {query.dtype}, not bfloat16 or float16'
  if softcap is not None:
    return 'it has no soft cap of the scores'
  if dim % 8 or dim > _widest_head():
    return f'head_dim is {dim}, not a multiple of 8 of at most {_widest_head()}'
  if segments is not None and (length % 2 or segments.shape[1] % 2):
    odd = segments.shape[1] if segments.shape[1] % 2 else length
    return f'rows with segments have {odd} tokens, an odd number'
  return None


def _widest_head():
  """The largest head_dim of cuDNN's kernel on this machine's GPU."""
  try:
    capability = jax.local_devices(backend='gpu')[0].compute_capability
  except RuntimeError:  # Compiled for a GPU that is not attached.
    return 128
  return 256 if float(capability) >= 9 else 128


def _not_splash(query, key):
  """Why the splash kernel cannot do it, or None."""
  rows, _, heads, _ = query.shape
  if platform() != 'tpu':
    return f'the platform is {platform()}, not tpu'
  if query.dtype not in (jnp.bfloat16, jnp.float32):
    return f'the dtype is {query.dtype}, not bfloat16 or float32'
  batch_axes, head_axes, mesh = shard_axes()
  shards = shard_count(mesh, batch_axes)
  tensor = shard_count(mesh, head_axes)
  if rows % shards:
    return f'{rows} rows are not a multiple of {shards} shards of the mesh'
  if heads % tensor or (key.shape[2] % tensor and tensor % key.shape[2]):
    return (f'{heads} heads over {key.shape[2]} key heads do not divide into '
            f'{tensor} shards of the mesh')
  return None
