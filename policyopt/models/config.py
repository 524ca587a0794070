"""The shape and the numerics of a decoder, in one hashable record."""

from __future__ import annotations

import dataclasses

from policyopt.names import check_name

REMAT = ('none', 'full', 'dots', 'names', 'offload')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder-only transformer: GQA, RoPE, RMSNorm, SwiGLU.

  Hashable, so it can be a static argument of `jax.jit`.

  Attributes:
    vocab_size: V, rows of the embedding.
    width: D, of the residual stream.
    num_layers: L.
    num_heads: H, query heads.
    num_kv_heads: KV, key and value heads; divides `num_heads`.
    head_dim: DH, even; `num_heads * head_dim` need not equal `width`.
    mlp_width: F, hidden width of SwiGLU.
    max_length: context in tokens that the model is meant for.
    rope_theta: base of the rotary frequencies.
    rope_scaling: (factor, low_freq_factor, high_freq_factor,
      original_max_length) of Llama 3's stretched frequencies, or None.
    norm_eps: inside the root of RMSNorm.
    qk_norm: RMSNorm on queries and keys per head (Qwen3).
    qkv_bias: biases on the query, key and value projections (Qwen2).
    tied_embeddings: the output head is the embedding.
    value_head: adds a scalar head for a value function.
    dtype: of the computation; norms, softmax and logits are float32 at least.
    param_dtype: of the stored parameters.
    remat: what the backward pass recomputes: 'none', 'full' (everything),
      'dots' (everything but matrix products), 'names' (saves each layer's two
      branch outputs), 'offload' (the same two, kept in host memory).
    logit_chunk: tokens of T whose logits exist at a time while scoring.

  Example:
    >>> ModelConfig(vocab_size=8, width=6, num_heads=4, num_kv_heads=3,
    ...             num_layers=1, head_dim=2, mlp_width=8).validate()
    Traceback (most recent call last):
    ...
    ValueError: num_heads = 4 must be a multiple of num_kv_heads = 3
  """
  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  max_length: int = 2048
  rope_theta: float = 1e4
  rope_scaling: tuple[float, float, float, float] | None = None
  norm_eps: float = 1e-6
  qk_norm: bool = False
  qkv_bias: bool = False
  tied_embeddings: bool = True
  value_head: bool = False
  dtype: str = 'float32'
  param_dtype: str = 'float32'
  remat: str = 'none'
  logit_chunk: int = 256

  def validate(self) -> ModelConfig:
    """Returns itself.

    Raises:
      ValueError: naming the field, its value and what would be right.
    """
    for name in ('vocab_size', 'width', 'num_layers', 'num_heads',
                 'num_kv_heads', 'head_dim', 'mlp_width', 'max_length',
                 'logit_chunk'):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} = {value!r} must be a positive integer')
    for name in ('rope_theta', 'norm_eps'):
      if not getattr(self, name) > 0:
        raise ValueError(f'{name} = {getattr(self, name)!r} must be positive')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(f'num_heads = {self.num_heads} must be a multiple of '
                       f'num_kv_heads = {self.num_kv_heads}')
    if self.head_dim % 2:
      raise ValueError(f'head_dim = {self.head_dim} must be even: rotary '
                       'embeddings turn pairs of features')
    scaling = self.rope_scaling
    if scaling is not None and (
        not isinstance(scaling, tuple) or len(scaling) != 4):
      raise ValueError(
          f'rope_scaling = {scaling!r} must be None or a tuple (factor, '
          'low_freq_factor, high_freq_factor, original_max_length)')
    _one_of('remat', self.remat, REMAT)
    _one_of('dtype', self.dtype, DTYPES)
    _one_of('param_dtype', self.param_dtype, DTYPES)
    return self

  def replace(self, **changes) -> ModelConfig:
    """A validated copy with other values for some fields.

    Raises:
      ValueError: for an unknown field, with the nearest names.
    """
    fields = [field.name for field in dataclasses.fields(self)]
    for name in changes:
      check_name('field of ModelConfig', name, fields)
    return dataclasses.replace(self, **changes).validate()


def _one_of(name, value, choices):
  if value not in choices:
    raise ValueError(f'{name} = {value!r} must be one of {", ".join(choices)}')
