"""Random models of `transformers`, both ways; skipped without torch."""

import jax
import numpy as np
import pytest

from policyopt.models import convert
from tests.models import folders

pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

# Shapes that the stored folders do not have.
CASES = [
    ('llama', 1, dict(head_dim=16, tie_word_embeddings=True)),
    ('llama', 2, dict(num_key_value_heads=4, rope_parameters=dict(
        rope_type='linear', factor=3.0, rope_theta=500.0))),
    ('llama', 3, dict(num_key_value_heads=1, rope_parameters=dict(
        rope_type='default', rope_theta=1e4), hidden_size=48)),
    ('qwen2', 1, dict(tie_word_embeddings=False, num_attention_heads=8,
                      num_key_value_heads=2)),
    ('qwen2', 2, dict(use_sliding_window=True, sliding_window=4,
                      max_window_layers=1, num_hidden_layers=3)),
    ('qwen3', 1, dict(vocab_size=80, tie_word_embeddings=True, head_dim=32)),
    ('qwen3', 2, dict(use_sliding_window=True, sliding_window=3,
                      max_window_layers=0)),
    ('gemma2', 1, dict(attn_logit_softcapping=None, query_pre_attn_scalar=16,
                       final_logit_softcapping=None)),
    ('gemma2', 2, dict(attn_logit_softcapping=2.0, hidden_size=64,
                       final_logit_softcapping=3.0, num_hidden_layers=3)),
    ('gemma3_text', 1, dict(num_hidden_layers=7, layer_types=None)),
    ('gemma3_text', 2, dict(final_logit_softcapping=3.0, head_dim=32,
                            tie_word_embeddings=False)),
    ('mixtral', 1, dict(sliding_window=4, num_local_experts=3)),
    ('mixtral', 2, dict(num_experts_per_tok=1, tie_word_embeddings=True)),
    ('qwen3_moe', 1, dict(norm_topk_prob=False, num_experts_per_tok=3)),
    ('qwen3_moe', 2, dict(num_experts=5, moe_intermediate_size=24)),
    ('olmoe', 1, dict(norm_topk_prob=True, num_key_value_heads=4)),
    ('olmoe', 2, dict(num_experts=7, num_experts_per_tok=4)),
]


@pytest.mark.parametrize('family, seed, changes', CASES,
                         ids=[f'{case[0]}-{case[1]}' for case in CASES])
def test_both_ways(family, seed, changes, tmp_path):
  peer = folders.maker()
  model = peer.model_of(family, seed, **changes)
  theirs, ours = tmp_path / 'theirs', tmp_path / 'ours'
  model.save_pretrained(theirs)
  tokens, length = peer.rows(model.config.vocab_size, seed)
  mask = np.arange(tokens.shape[1])[None] < length[:, None]
  wanted = peer.logits_of(model, tokens, length)
  config, params = folders.load(theirs, key=seed)
  for found in (folders.logits(config, params, tokens),
                folders.cached_logits(config, params, tokens, 2)):
    np.testing.assert_allclose(found[mask], wanted[mask], atol=1e-4, rtol=0)

  convert.save(str(ours), config, params, source=str(theirs),
               max_shard_bytes=30_000)
  back, info = transformers.AutoModelForCausalLM.from_pretrained(
      ours, attn_implementation='eager', output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys']
  assert not info['mismatched_keys']
  assert type(back) is type(model)
  first, second = model.state_dict(), back.state_dict()
  assert first.keys() == second.keys()
  for name in first:
    assert (first[name] == second[name]).all(), name
  np.testing.assert_array_equal(
      peer.logits_of(back.eval(), tokens, length), wanted)
  again, read = folders.load(ours)
  assert again == config
  folders.assert_same(params, read)


@pytest.mark.parametrize('family', folders.FAMILIES)
def test_a_model_of_ours_is_the_same_there(family, tmp_path):
  """Fresh weights in bfloat16, written without a folder they came from."""
  import torch
  config = convert.model_config(
      str(folders.FIXTURES / family), param_dtype='bfloat16')
  _, params = folders.load(folders.FIXTURES / family, param_dtype='bfloat16')
  out = tmp_path / 'out'
  convert.save(str(out), config, params, token_ids=dict(
      eos_token_id=[2, 3], pad_token_id=0))
  model = transformers.AutoModelForCausalLM.from_pretrained(
      out, attn_implementation='eager')
  assert model.dtype == torch.bfloat16
  assert model.generation_config.eos_token_id == [2, 3]
  peer = folders.maker()
  tokens, mask, _ = folders.stored(family)
  # Gemma's scale of the embeddings is rounded as the model is made.
  model = transformers.AutoModelForCausalLM.from_pretrained(
      out, attn_implementation='eager', dtype=torch.float32)
  wide = jax.tree.map(lambda x: x.astype('float32'), params)
  np.testing.assert_allclose(
      folders.logits(config.replace(param_dtype='float32'), wide, tokens)[mask],
      peer.logits_of(model.eval(), tokens, mask.sum(1))[mask],
      atol=1e-4, rtol=0)
