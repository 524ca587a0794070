"""The transformer, its cache, its scores, its tokenizer, and where it lives.

`tokenizer` is the module; its function of that name is
`policyopt.models.tokenizer.tokenizer`.
"""

from policyopt.models.attention import attend, causal, rotary_angles, rotate
from policyopt.models.cache import (
    Cache,
    extend,
    init_cache,
    repeat,
    take,
    update_layer,
)
from policyopt.models.config import ModelConfig
from policyopt.models.partitioning import (
    AXES,
    RULES,
    constrain,
    make_mesh,
    param_shardings,
    replicated,
    rows,
)
from policyopt.models.presets import PRESETS, preset
from policyopt.models.scoring import score
from policyopt.models.tokenizer import (
    Tokenizer,
    byte_tokenizer,
    hf_tokenizer,
    sentencepiece_tokenizer,
    train_sentencepiece,
)
from policyopt.models.transformer import (
    abstract_params,
    forward,
    forward_with_router,
    init,
    logical_axes,
    logits,
    values,
)

__all__ = [
    'AXES', 'Cache', 'ModelConfig', 'PRESETS', 'RULES', 'Tokenizer',
    'abstract_params', 'attend', 'byte_tokenizer', 'causal', 'constrain',
    'extend',
    'forward', 'forward_with_router', 'hf_tokenizer', 'init', 'init_cache',
    'logical_axes', 'logits', 'make_mesh', 'param_shardings', 'preset',
    'repeat', 'replicated', 'rotary_angles', 'rotate', 'rows', 'score',
    'sentencepiece_tokenizer', 'take', 'train_sentencepiece', 'update_layer',
    'values',
]
