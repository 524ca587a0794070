"""Named model sizes: small ones for a laptop, and published ones."""

from __future__ import annotations

from policyopt.models.config import ModelConfig
from policyopt.names import check_name


def _qwen2(layers, width, heads, kv_heads, head_dim, mlp_width, **other):
  """Source: "Qwen2.5 Technical Report", Qwen Team, 2024, arXiv 2412.15115."""
  config = dict(vocab_size=151936, rope_theta=1e6, norm_eps=1e-6,
                qkv_bias=True, max_length=32768)
  return ModelConfig(
      num_layers=layers, width=width, num_heads=heads, num_kv_heads=kv_heads,
      head_dim=head_dim, mlp_width=mlp_width, **(config | other))


def _qwen3(layers, width, heads, mlp_width, num_kv_heads=8, **other):
  """Source: "Qwen3 Technical Report", Qwen Team, 2025, arXiv 2505.09388."""
  return ModelConfig(
      vocab_size=151936, num_layers=layers, width=width, num_heads=heads,
      num_kv_heads=num_kv_heads, head_dim=128, mlp_width=mlp_width,
      rope_theta=1e6, norm_eps=1e-6, qk_norm=True, max_length=40960, **other)


def _llama3(layers, width, heads, head_dim, mlp_width, stretch, **other):
  """Source: "The Llama 3 Herd of Models", 2024, arXiv 2407.21783."""
  return ModelConfig(
      vocab_size=128256, num_layers=layers, width=width, num_heads=heads,
      num_kv_heads=8, head_dim=head_dim, mlp_width=mlp_width, rope_theta=5e5,
      rope_scaling=(stretch, 1.0, 4.0, 8192.0), norm_eps=1e-5,
      max_length=131072, **other)


def _mixtral(layers, width, heads, mlp_width, **other):
  """Source: "Mixtral of Experts", Jiang et al., 2024, arXiv 2401.04088."""
  return ModelConfig(
      vocab_size=32000, num_layers=layers, width=width, num_heads=heads,
      num_kv_heads=8, head_dim=128, mlp_width=mlp_width, rope_theta=1e6,
      norm_eps=1e-5, tied_embeddings=False, max_length=32768,
      expert_width=mlp_width, **other)


def _olmoe(layers, width, heads, mlp_width, **other):
  """Source: "OLMoE: Open Mixture-of-Experts Language Models", Muennighoff et
  al., 2024, arXiv 2409.02060."""
  return ModelConfig(
      vocab_size=50304, num_layers=layers, width=width, num_heads=heads,
      num_kv_heads=heads, head_dim=width // heads, mlp_width=mlp_width,
      rope_theta=1e4, norm_eps=1e-5, qk_norm=True, qk_norm_whole=True,
      tied_embeddings=False, max_length=4096, expert_width=mlp_width,
      normalize_experts=False, **other)


# What Gemma 2 and 3 have in common.
_GEMMA = dict(norm_eps=1e-6, activation='gelu_tanh', norm_offset=True,
              post_norms=True, scale_embeddings=True)


def _gemma2(layers, width, heads, kv_heads, head_dim, mlp_width, scale):
  """Source: "Gemma 2: Improving Open Language Models at a Practical Size",
  Gemma Team, 2024, arXiv 2408.00118."""
  return ModelConfig(
      vocab_size=256000, num_layers=layers, width=width, num_heads=heads,
      num_kv_heads=kv_heads, head_dim=head_dim, mlp_width=mlp_width,
      max_length=8192, attention_scale=scale ** -0.5, attention_softcap=50.0,
      logit_softcap=30.0, window=4096,
      windowed_layers=tuple(i % 2 == 0 for i in range(layers)), **_GEMMA)


def _gemma3(layers, width, heads, kv_heads, head_dim, mlp_width, scale=256,
            **other):
  """The text model. Source: "Gemma 3 Technical Report", Gemma Team, 2025,
  arXiv 2503.19786."""
  config = dict(vocab_size=262208, rope_scaling=(8.0,), window=1024,
                max_length=131072)
  return ModelConfig(
      num_layers=layers, width=width, num_heads=heads, num_kv_heads=kv_heads,
      head_dim=head_dim, mlp_width=mlp_width, rope_theta=1e6,
      local_rope_theta=1e4, qk_norm=True, attention_scale=scale ** -0.5,
      windowed_layers=tuple(i % 6 != 5 for i in range(layers)),
      **(_GEMMA | config | other))


# The small ones take the byte tokenizer's vocabulary.
PRESETS = {
    'nano': ModelConfig(
        vocab_size=264, width=64, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=16, mlp_width=160, max_length=128, qk_norm=True),
    'tiny': ModelConfig(
        vocab_size=264, width=128, num_layers=3, num_heads=4, num_kv_heads=2,
        head_dim=32, mlp_width=352, max_length=256, qk_norm=True),
    'qwen2-0.5b': _qwen2(24, 896, 14, 2, 64, 4864),
    'qwen2-1.5b': _qwen2(28, 1536, 12, 2, 128, 8960),
    'qwen2-7b': _qwen2(28, 3584, 28, 4, 128, 18944, vocab_size=152064,
                       tied_embeddings=False),
    'qwen2.5-0.5b': _qwen2(24, 896, 14, 2, 64, 4864),
    'qwen2.5-1.5b': _qwen2(28, 1536, 12, 2, 128, 8960),
    'qwen2.5-3b': _qwen2(36, 2048, 16, 2, 128, 11008),
    'qwen2.5-7b': _qwen2(28, 3584, 28, 4, 128, 18944, vocab_size=152064,
                         tied_embeddings=False, max_length=131072),
    'qwen3-0.6b': _qwen3(28, 1024, 16, 3072),
    'qwen3-1.7b': _qwen3(28, 2048, 16, 6144),
    'qwen3-4b': _qwen3(36, 2560, 32, 9728),
    'qwen3-8b': _qwen3(36, 4096, 32, 12288, tied_embeddings=False),
    'qwen3-30b-a3b': _qwen3(
        48, 2048, 32, 6144, num_kv_heads=4, tied_embeddings=False,
        num_experts=128, experts_per_token=8, expert_width=768),
    'llama3.2-1b': _llama3(16, 2048, 32, 64, 8192, 32.0),
    'llama3.2-3b': _llama3(28, 3072, 24, 128, 8192, 32.0),
    'llama3.1-8b': _llama3(32, 4096, 32, 128, 14336, 8.0,
                           tied_embeddings=False),
    'mixtral-8x7b': _mixtral(32, 4096, 32, 14336, num_experts=8,
                             experts_per_token=2),
    'olmoe-1b-7b': _olmoe(16, 2048, 16, 1024, num_experts=64,
                          experts_per_token=8),
    'gemma2-2b': _gemma2(26, 2304, 8, 4, 256, 9216, 256),
    'gemma2-9b': _gemma2(42, 3584, 16, 8, 256, 14336, 256),
    'gemma2-27b': _gemma2(46, 4608, 32, 16, 128, 36864, 144),
    'gemma3-1b': _gemma3(26, 1152, 4, 1, 256, 6912, vocab_size=262144,
                         rope_scaling=None, window=512, max_length=32768),
    'gemma3-4b': _gemma3(34, 2560, 8, 4, 256, 10240),
    'gemma3-12b': _gemma3(48, 3840, 16, 8, 256, 15360),
    'gemma3-27b': _gemma3(62, 5376, 32, 16, 128, 21504, 168),
}


def preset(name: str, **overrides) -> ModelConfig:
  """A named size, with some fields changed.

  Args:
    name: a key of `PRESETS`.
    **overrides: fields of `ModelConfig`.

  Returns:
    A validated ModelConfig.

  Raises:
    ValueError: for an unknown name or field, with the nearest ones.

  Example:
    >>> preset('qwen3-0.6b', dtype='bfloat16').num_layers
    28
  """
  check_name('model preset', name, PRESETS)
  return PRESETS[name].replace(**overrides)
