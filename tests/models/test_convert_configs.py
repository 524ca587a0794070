"""config.json of published models, as their folders have it."""

import pytest

from policyopt.models import convert, presets

_QWEN3 = dict(
    model_type='qwen3', attention_bias=False, head_dim=128, hidden_act='silu',
    max_position_embeddings=40960, num_key_value_heads=8, rms_norm_eps=1e-6,
    rope_scaling=None, rope_theta=1000000, sliding_window=None,
    use_sliding_window=False, max_window_layers=28, vocab_size=151936,
    tie_word_embeddings=True)
# What the decoder reads of the published files.
PUBLISHED = {
    'llama3.1-8b': dict(
        model_type='llama', attention_bias=False, hidden_act='silu',
        hidden_size=4096, intermediate_size=14336, mlp_bias=False,
        max_position_embeddings=131072, num_attention_heads=32,
        num_hidden_layers=32, num_key_value_heads=8, pretraining_tp=1,
        rms_norm_eps=1e-5, rope_theta=500000.0, vocab_size=128256,
        tie_word_embeddings=False, rope_scaling=dict(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=8192, rope_type='llama3')),
    'qwen2.5-0.5b': dict(
        model_type='qwen2', hidden_act='silu', hidden_size=896,
        intermediate_size=4864, max_position_embeddings=32768,
        max_window_layers=24, num_attention_heads=14, num_hidden_layers=24,
        num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0,
        sliding_window=32768, tie_word_embeddings=True,
        use_sliding_window=False, vocab_size=151936),
    'qwen3-0.6b': dict(
        _QWEN3, hidden_size=1024, intermediate_size=3072,
        num_attention_heads=16, num_hidden_layers=28),
    'qwen3-8b': dict(
        _QWEN3, hidden_size=4096, intermediate_size=12288,
        num_attention_heads=32, num_hidden_layers=36,
        tie_word_embeddings=False),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_configs_are_the_presets(name):
  _, config = convert.read_config(PUBLISHED[name])
  assert config == presets.preset(name)


def test_gemma_2():
  _, config = convert.read_config(dict(
      model_type='gemma2', attention_bias=False, attn_logit_softcapping=50.0,
      final_logit_softcapping=30.0, head_dim=128,
      hidden_act='gelu_pytorch_tanh',
      hidden_activation='gelu_pytorch_tanh', hidden_size=4608,
      intermediate_size=36864, max_position_embeddings=8192,
      num_attention_heads=32, num_hidden_layers=46, num_key_value_heads=16,
      query_pre_attn_scalar=144, rms_norm_eps=1e-6, rope_theta=10000.0,
      sliding_window=4096, vocab_size=256000))
  assert config.attention_scale == pytest.approx(1 / 12)
  assert (config.attention_softcap, config.logit_softcap) == (50., 30.)
  assert config.windowed_layers == (True, False) * 23
  assert (config.window, config.local_rope_theta) == (4096, None)
  assert config.norm_offset and config.post_norms and config.scale_embeddings
  assert config.activation == 'gelu_tanh' and config.tied_embeddings


def test_gemma_3_with_images():
  """Of the text half the file says only what differs from its defaults."""
  _, config = convert.read_config(dict(
      model_type='gemma3', vision_config=dict(hidden_size=1152),
      text_config=dict(
          hidden_size=2560, intermediate_size=10240, num_hidden_layers=34,
          model_type='gemma3_text', sliding_window=1024,
          rope_scaling=dict(factor=8.0, rope_type='linear'))))
  assert (config.num_heads, config.num_kv_heads, config.head_dim) == (8, 4, 256)
  assert config.vocab_size == 262208 and config.qk_norm
  assert config.windowed_layers == ((True,) * 5 + (False,)) * 5 + (True,) * 4
  assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)
  assert config.rope_scaling == (8.0,) and config.window == 1024
  assert config.logit_softcap is None and config.attention_scale is None


def test_qwen_3_moe():
  _, config = convert.read_config(dict(
      _QWEN3, model_type='qwen3_moe', hidden_size=2048, intermediate_size=6144,
      num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
      num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
      norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
      tie_word_embeddings=False))
  assert (config.num_experts, config.experts_per_token, config.expert_width
          ) == (128, 8, 768)
  assert config.normalize_experts and not config.tied_embeddings


def test_mixtral():
  _, config = convert.read_config(dict(
      model_type='mixtral', hidden_act='silu', hidden_size=4096,
      intermediate_size=14336, max_position_embeddings=32768,
      num_attention_heads=32, num_experts_per_tok=2, num_hidden_layers=32,
      num_key_value_heads=8, num_local_experts=8, rms_norm_eps=1e-5,
      rope_theta=1e6, sliding_window=None, tie_word_embeddings=False,
      vocab_size=32000))
  assert (config.num_experts, config.experts_per_token, config.expert_width
          ) == (8, 2, 14336)
  assert config.normalize_experts and config.head_dim == 128
  assert config.window is None and not config.qk_norm


@pytest.mark.parametrize('keys, window, layers', [
    (dict(use_sliding_window=True, sliding_window=64, max_window_layers=1), 64,
     (False, True)),
    (dict(use_sliding_window=True, sliding_window=64, max_window_layers=0), 64,
     ()),
    (dict(use_sliding_window=False, sliding_window=64), None, ()),
    (dict(use_sliding_window=True, sliding_window=64), None, ())])
def test_windows_of_qwen(keys, window, layers):
  raw = dict(_QWEN3, hidden_size=64, intermediate_size=64,
             num_attention_heads=8, num_hidden_layers=2) | keys
  _, config = convert.read_config(raw)
  assert (config.window, config.windowed_layers) == (window, layers)
  _, back = convert.read_config(convert.write_config(config)[1])
  assert back == config
