"""The shape and the numerics of a decoder, in one hashable record."""

from __future__ import annotations

import dataclasses

from policyopt.names import check_name

REMAT = ('none', 'full', 'dots', 'names', 'offload')
DTYPES = ('float32', 'bfloat16', 'float16', 'float64')
CACHE_DTYPES = (None, *DTYPES, 'int8', 'float8_e4m3fn')
ACTIVATIONS = ('silu', 'gelu_tanh')
DISPATCH = ('dropless', 'capacity')
ATTENTION = ('auto', 'xla', 'cudnn', 'splash')
DECODE_ATTENTION = ('auto', 'xla', 'ragged')
LOSS_HEAD = ('auto', 'xla', 'pallas')
ATTENTION_TARGETS = ('query', 'key', 'value', 'out')
MLP_TARGETS = ('gate', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder-only transformer: GQA, RoPE, RMSNorm, gated MLP or experts.

  Hashable, so it can be a static argument of `jax.jit`. The defaults are those
  of Llama; the fields after `logit_chunk` say what other families add.

  Attributes:
    vocab_size: V, rows of the embedding.
    width: D, of the residual stream.
    num_layers: L.
    num_heads: H, query heads.
    num_kv_heads: KV, key and value heads; divides `num_heads`.
    head_dim: DH, even; `num_heads * head_dim` need not equal `width`.
    mlp_width: F, hidden width of the gated MLP; unused with experts.
    max_length: context in tokens that the model is meant for.
    rope_theta: base of the rotary frequencies.
    rope_scaling: (factor, low_freq_factor, high_freq_factor,
      original_max_length) of Llama 3's stretched frequencies, (factor,) to
      divide every frequency (Gemma 3), or None.
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
    activation: of the gate: 'silu', or 'gelu_tanh' (Gemma).
    norm_offset: norms multiply by 1 + w, not by w (Gemma).
    qk_norm_whole: with `qk_norm`, the norm is over all the heads of a
      projection together (OLMoE).
    post_norms: norms after attention and MLP too (Gemma 2 and 3).
    scale_embeddings: embeddings times √D, rounded in `dtype` (Gemma).
    attention_scale: what query·key is multiplied by; None: 1 / √DH.
    attention_softcap: c of the attention scores, s -> c tanh(s / c); or None.
    logit_softcap: the same of the logits; or None.
    window: the keys that a windowed layer sees, its own included; or None.
    windowed_layers: which layers are windowed, one bool per layer; () means
      all of them when `window` is set.
    local_rope_theta: base of the frequencies of windowed layers, which are
      then not scaled (Gemma 3); None: as the other layers.
    num_experts: E, experts in place of the MLP of every layer; 0: none.
    experts_per_token: k, experts that each token is sent to.
    expert_width: F of one expert.
    normalize_experts: the k probabilities are divided by their sum.
    expert_dispatch: 'dropless', or 'capacity': an expert takes no more than
      ⌈`expert_capacity` S k / E⌉ of a row's S tokens, the first ones, and the
      others pass by on the residual stream.
    expert_capacity: factor of 'capacity'.
    attention: implementation of training and scoring: 'auto' takes what the
      platform has, 'xla', 'cudnn' (GPU) or 'splash' (TPU).
    decode_attention: implementation of one new token in each row of a cache:
      'auto', 'xla' or 'ragged' (TPU).
    loss_head: implementation of log-probabilities, entropy and Σ p² in training
      and scoring: 'xla', in pieces of `logit_chunk`, or 'pallas' (TPU), whose
      logits never reach memory; 'auto' is 'xla' until a TPU has been timed.
    cache_dtype: of cached keys and values; None: `dtype`. Runs set it for the
      sampler alone (`rollout.cache`).
    lora_rank: r of the low-rank adapters; 0: none.
    lora_alpha: α; adapters are multiplied by α / r.
    lora_targets: the projections that have adapters.

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
  rope_scaling: tuple[float, ...] | None = None
  norm_eps: float = 1e-6
  qk_norm: bool = False
  qkv_bias: bool = False
  tied_embeddings: bool = True
  value_head: bool = False
  dtype: str = 'float32'
  param_dtype: str = 'float32'
  remat: str = 'none'
  logit_chunk: int = 256
  activation: str = 'silu'
  norm_offset: bool = False
  qk_norm_whole: bool = False
  post_norms: bool = False
  scale_embeddings: bool = False
  attention_scale: float | None = None
  attention_softcap: float | None = None
  logit_softcap: float | None = None
  window: int | None = None
  windowed_layers: tuple[bool, ...] = ()
  local_rope_theta: float | None = None
  num_experts: int = 0
  experts_per_token: int = 0
  expert_width: int = 0
  normalize_experts: bool = True
  expert_dispatch: str = 'dropless'
  expert_capacity: float = 1.25
  attention: str = 'auto'
  decode_attention: str = 'auto'
  loss_head: str = 'auto'
  cache_dtype: str | None = None
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_targets: tuple[str, ...] = ATTENTION_TARGETS + MLP_TARGETS

  def validate(self) -> ModelConfig:
    """Returns itself.

    Raises:
      ValueError: naming the field, its value and what would be right.
    """
    for name in ('vocab_size', 'width', 'num_layers', 'num_heads',
                 'num_kv_heads', 'head_dim', 'mlp_width', 'max_length',
                 'logit_chunk'):
      _integer(name, getattr(self, name), 1)
    for name in ('rope_theta', 'norm_eps', 'expert_capacity', 'lora_alpha'):
      _positive(name, getattr(self, name))
    for name in ('attention_scale', 'attention_softcap', 'logit_softcap',
                 'local_rope_theta'):
      if getattr(self, name) is not None:
        _positive(name, getattr(self, name), 'None or positive')
    if self.num_heads % self.num_kv_heads:
      raise ValueError(f'num_heads = {self.num_heads} must be a multiple of '
                       f'num_kv_heads = {self.num_kv_heads}')
    if self.head_dim % 2:
      raise ValueError(f'head_dim = {self.head_dim} must be even: rotary '
                       'embeddings turn pairs of features')
    scaling = self.rope_scaling
    if scaling is not None and (
        not isinstance(scaling, tuple) or len(scaling) not in (1, 4)):
      raise ValueError(
          f'rope_scaling = {scaling!r} must be None, a tuple (factor,), or a '
          'tuple (factor, low_freq_factor, high_freq_factor, '
          'original_max_length)')
    for name, choices in (
        ('remat', REMAT), ('dtype', DTYPES), ('param_dtype', DTYPES),
        ('cache_dtype', CACHE_DTYPES),
        ('activation', ACTIVATIONS), ('attention', ATTENTION),
        ('decode_attention', DECODE_ATTENTION), ('loss_head', LOSS_HEAD),
        ('expert_dispatch', DISPATCH)):
      _one_of(name, getattr(self, name), choices)
    if self.qk_norm_whole and not self.qk_norm:
      raise ValueError('qk_norm_whole = True must go with qk_norm = True')
    _check_windows(self)
    _check_experts(self)
    _check_lora(self)
    return self

  def replace(self, **changes) -> ModelConfig:
    """A validated copy with other values for some fields.

    Raises:
      ValueError: for an unknown field, with the nearest names.
    """
    fields = [field.name for field in dataclasses.fields(self)]
    for name in changes:
      check_name('field of ModelConfig', name, fields)
    # What was a tuple comes back from JSON as a list.
    changes = {name: tuple(value) if isinstance(value, list) else value
               for name, value in changes.items()}
    return dataclasses.replace(self, **changes).validate()


def _check_windows(config):
  layers = config.windowed_layers
  if config.window is not None:
    _integer('window', config.window, 1)
  if not isinstance(layers, tuple) or len(layers) not in (
      0, config.num_layers) or any(not isinstance(x, bool) for x in layers):
    raise ValueError(
        f'windowed_layers = {layers!r} must be () or a tuple of num_layers = '
        f'{config.num_layers} bools')
  for name in 'windowed_layers', 'local_rope_theta':
    if getattr(config, name) and config.window is None:
      raise ValueError(f'{name} = {getattr(config, name)!r} must go with a '
                       'window; window is None')


def _check_experts(config):
  experts = config.num_experts
  _integer('num_experts', experts, 0)
  if not experts:
    return
  _integer('expert_width', config.expert_width, 1)
  _integer('experts_per_token', config.experts_per_token, 1)
  if config.experts_per_token > experts:
    raise ValueError(f'experts_per_token = {config.experts_per_token} must be '
                     f'at most num_experts = {experts}')


def _check_lora(config):
  targets = config.lora_targets
  _integer('lora_rank', config.lora_rank, 0)
  known = ATTENTION_TARGETS + MLP_TARGETS
  if not isinstance(targets, tuple) or set(targets) - set(known) or len(
      set(targets)) != len(targets):
    raise ValueError(f'lora_targets = {targets!r} must be a tuple of different '
                     f'names among {", ".join(known)}')
  if not config.lora_rank:
    return
  if not targets:
    raise ValueError(f'lora_targets = () must not be empty when lora_rank = '
                     f'{config.lora_rank}')
  if config.num_experts and set(targets) & set(MLP_TARGETS):
    raise ValueError(
        f'lora_targets = {targets!r} must be among '
        f'{", ".join(ATTENTION_TARGETS)} when num_experts > 0: the weights of '
        'experts have no adapters')


def _integer(name, value, least):
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    kind = 'a positive' if least else 'a non-negative'
    raise ValueError(f'{name} = {value!r} must be {kind} integer')


def _positive(name, value, kind='positive'):
  if not value > 0:
    raise ValueError(f'{name} = {value!r} must be {kind}')


def _one_of(name, value, choices):
  if value not in choices:
    raise ValueError(f'{name} = {value!r} must be one of '
                     f'{", ".join(map(str, choices))}')
