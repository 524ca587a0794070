"""Published architectures: config.json <-> ModelConfig.

Each family reads the keys that its class in `transformers` knows, with that
class's defaults, and refuses what the decoder here does not compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from policyopt.models.config import ModelConfig
from policyopt.models.convert import keys

# How a run computes and what it adds, which no architecture decides.
_RUN_FIELDS = frozenset({
    'dtype', 'param_dtype', 'remat', 'logit_chunk', 'value_head', 'attention',
    'decode_attention', 'loss_head',
    'expert_dispatch', 'expert_capacity', 'cache_dtype', 'lora_rank',
    'lora_alpha', 'lora_targets'})


class Family(NamedTuple):
  """An architecture.

  Attributes:
    model_type: as in config.json.
    architecture: the class in `transformers`.
    defaults: keys that config.json may leave out.
    read: keys -> those fields of ModelConfig that are its own.
    write: ModelConfig -> those keys that are its own.
  """
  model_type: str
  architecture: str
  defaults: Mapping[str, Any]
  read: Callable[[dict], dict]
  write: Callable[[ModelConfig], dict]


def read_config(raw: Mapping[str, Any], where: str = 'config.json'
                ) -> tuple[Family, ModelConfig]:
  """The family and the shape that a config.json describes.

  Args:
    raw: its content.
    where: its path, for error messages.

  Returns:
    (family, a validated ModelConfig of float32).

  Raises:
    ValueError: naming the key that is missing, or that asks for what the
      decoder does not compute.

  Example:
    >>> read_config({'model_type': 'mamba'})
    Traceback (most recent call last):
    ValueError: config.json: model_type is 'mamba'; supported are \
llama, qwen2, qwen3, gemma2, gemma3_text, mixtral, qwen3_moe, olmoe, gemma3
  """
  raw = dict(raw)
  kind = raw.get('model_type')
  if kind == 'gemma3':  # The text half of a model that sees images too.
    text = raw.get('text_config') or {}
    raw = {'quantization_config': raw.get('quantization_config'), **text,
           'model_type': 'gemma3_text'}
    kind = 'gemma3_text'
  if kind not in FAMILIES:
    raise ValueError(
        f'{where}: model_type is {kind!r}; supported are '
        f'{", ".join((*FAMILIES, "gemma3"))}')
  family = FAMILIES[kind]
  try:
    raw = {**family.defaults, **raw}
    keys.check_absent(raw)
    config = ModelConfig(**keys.common_fields(raw), **family.read(raw))
    return family, config.validate()
  except KeyError as error:
    raise ValueError(f'{where}: {error.args[0]} is missing') from None
  except (TypeError, ValueError) as error:
    raise ValueError(f'{where}: {error}') from error


def write_config(config: ModelConfig, prefer: str | None = None
                 ) -> tuple[Family, dict[str, Any]]:
  """The published architecture that computes what a config says.

  Whatever is written is read again: a config that would come back as another
  one is of no published architecture.

  Args:
    config: of the model; how it is computed, a value head and adapters are
      left out.
    prefer: a model_type to try first.

  Returns:
    (family, the content of config.json without token ids).

  Raises:
    ValueError: naming the fields that stand in the way.
  """
  wanted = architecture_fields(config)
  closest = None
  for family in sorted(
      FAMILIES.values(), key=lambda family: family.model_type != prefer):
    raw = {'architectures': [family.architecture],
           'model_type': family.model_type,
           **keys.common_keys(config), **family.write(config)}
    try:
      _, back = read_config(raw)
    except ValueError:
      continue
    back = architecture_fields(back)
    differing = [name for name in wanted if wanted[name] != back[name]]
    if not differing:
      return family, raw
    if closest is None or len(differing) < len(closest[1]):
      closest = family, differing
  family, differing = closest
  raise ValueError(
      'no published architecture computes this model: '
      + ', '.join(f'{name} = {wanted[name]!r}' for name in differing)
      + f' is not {family.model_type}, which is the closest')


def architecture_fields(config: ModelConfig) -> dict[str, Any]:
  """The fields that decide what is computed, in one of their equal forms."""
  fields = {field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name not in _RUN_FIELDS}
  if fields['window'] is None or (
      fields['windowed_layers'] and not any(fields['windowed_layers'])):
    fields |= dict(window=None, windowed_layers=(), local_rope_theta=None)
  elif all(fields['windowed_layers']):
    fields['windowed_layers'] = ()
  if fields['attention_scale'] == config.head_dim ** -0.5:
    fields['attention_scale'] = None
  if config.num_experts:
    fields['mlp_width'] = None  # No layer has it.
  else:
    fields |= dict(experts_per_token=0, expert_width=0, normalize_experts=True)
  return fields


# --- each family -----------------------------------------------------------


def _qwen_window_keys(config):
  return dict(
      use_sliding_window=config.window is not None,
      sliding_window=config.window, layer_types=keys.layer_types(config))


def _gemma_fields(raw):
  scalar = raw['query_pre_attn_scalar']
  return dict(
      norm_offset=True, post_norms=True, scale_embeddings=True,
      attention_scale=None if scalar == raw['head_dim'] else scalar ** -0.5,
      logit_softcap=raw['final_logit_softcapping'])


def _gemma_keys(config):
  scale = config.attention_scale
  return dict(
      hidden_activation=keys.published_activation(config),
      query_pre_attn_scalar=(
          config.head_dim if scale is None else round(scale ** -2)),
      final_logit_softcapping=config.logit_softcap,
      attn_logit_softcapping=config.attention_softcap,
      sliding_window=config.window or config.max_length,
      layer_types=keys.layer_types(config))


def _gemma3_fields(raw):
  if raw.get('attn_logit_softcapping') is not None:
    # The published code reads the key and then does without it.
    raise ValueError('attn_logit_softcapping is '
                     f'{raw["attn_logit_softcapping"]!r}, which is not '
                     'supported in gemma3')
  return dict(_gemma_fields(raw), qk_norm=True)


def _moe_fields(raw, width):
  # Which of the two names a file has depends on the version that wrote it.
  names = 'num_experts', 'num_local_experts', 'usual_experts'
  return dict(
      num_experts=next(raw[n] for n in names if raw.get(n) is not None),
      experts_per_token=raw['num_experts_per_tok'], expert_width=raw[width])


_DENSE = dict(
    hidden_act='silu', rms_norm_eps=1e-6, tie_word_embeddings=False,
    rope_theta=1e4)
_QWEN = dict(_DENSE, max_position_embeddings=32768, num_key_value_heads=32,
             use_sliding_window=False, sliding_window=4096,
             max_window_layers=28)
_GEMMA = dict(
    num_attention_heads=8, num_key_value_heads=4, head_dim=256,
    hidden_activation='gelu_pytorch_tanh', rms_norm_eps=1e-6,
    tie_word_embeddings=True, query_pre_attn_scalar=256, sliding_window=4096)

FAMILIES = {family.model_type: family for family in (
    Family('llama', 'LlamaForCausalLM',
           dict(_DENSE, max_position_embeddings=2048),
           lambda raw: {}, lambda config: dict(mlp_bias=False)),
    Family('qwen2', 'Qwen2ForCausalLM', _QWEN,
           lambda raw: dict(qkv_bias=True), _qwen_window_keys),
    Family('qwen3', 'Qwen3ForCausalLM', dict(_QWEN, head_dim=128),
           lambda raw: dict(qk_norm=True), _qwen_window_keys),
    Family('gemma2', 'Gemma2ForCausalLM',
           dict(_GEMMA, max_position_embeddings=8192, rope_theta=1e4,
                vocab_size=256000, sliding_window_pattern=2,
                final_logit_softcapping=30.0, attn_logit_softcapping=50.0),
           lambda raw: dict(_gemma_fields(raw), attention_softcap=raw[
               'attn_logit_softcapping']),
           _gemma_keys),
    Family('gemma3_text', 'Gemma3ForCausalLM',
           dict(_GEMMA, max_position_embeddings=131072, rope_theta=1e6,
                rope_local_base_freq=1e4, vocab_size=262208,
                sliding_window_pattern=6, final_logit_softcapping=None),
           _gemma3_fields,
           lambda config: dict(
               _gemma_keys(config),
               rope_local_base_freq=config.local_rope_theta or 1e4)),
    Family('mixtral', 'MixtralForCausalLM',
           dict(_DENSE, rms_norm_eps=1e-5, rope_theta=1e6,
                max_position_embeddings=131072, num_key_value_heads=8,
                num_experts_per_tok=2, usual_experts=8),
           lambda raw: _moe_fields(raw, 'intermediate_size'),
           lambda config: dict(
               num_local_experts=config.num_experts,
               num_experts_per_tok=config.experts_per_token,
               intermediate_size=config.expert_width,
               sliding_window=config.window, output_router_logits=False)),
    Family('qwen3_moe', 'Qwen3MoeForCausalLM',
           dict(_QWEN, num_key_value_heads=4, max_window_layers=0,
                usual_experts=128, num_experts_per_tok=8,
                moe_intermediate_size=768, norm_topk_prob=False),
           lambda raw: dict(
               _moe_fields(raw, 'moe_intermediate_size'),
               qk_norm=True, normalize_experts=raw['norm_topk_prob']),
           lambda config: dict(
               num_experts=config.num_experts,
               num_experts_per_tok=config.experts_per_token,
               moe_intermediate_size=config.expert_width,
               norm_topk_prob=config.normalize_experts,
               use_sliding_window=config.window is not None,
               sliding_window=config.window, mlp_only_layers=[],
               decoder_sparse_step=1, output_router_logits=False)),
    Family('olmoe', 'OlmoeForCausalLM',
           dict(_DENSE, rms_norm_eps=1e-5, max_position_embeddings=4096,
                usual_experts=64, num_experts_per_tok=8,
                norm_topk_prob=False),
           lambda raw: dict(
               _moe_fields(raw, 'intermediate_size'),
               qk_norm=True, qk_norm_whole=True,
               normalize_experts=raw['norm_topk_prob']),
           lambda config: dict(
               num_experts=config.num_experts,
               num_experts_per_tok=config.experts_per_token,
               intermediate_size=config.expert_width, clip_qkv=None,
               norm_topk_prob=config.normalize_experts,
               output_router_logits=False)),
)}
