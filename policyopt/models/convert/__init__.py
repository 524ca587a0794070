"""Published weights in and out: Hugging Face folders <-> our parameters.

  config = convert.model_config(folder, dtype='bfloat16')
  params = convert.load(folder, config, mesh, jax.random.key(0))
  convert.save(other_folder, config, params, source=folder)

Llama 3, Qwen 2 and 2.5, Qwen 3 (dense and mixture of experts), Gemma 2 and 3
(text), Mixtral and OLMoE.
"""

from policyopt.models.convert.families import (
    FAMILIES,
    architecture_fields,
    read_config,
    write_config,
)
from policyopt.models.convert.folders import check, model_config
from policyopt.models.convert.load import load
from policyopt.models.convert.save import save

__all__ = [
    'FAMILIES', 'architecture_fields', 'check', 'load', 'model_config',
    'read_config', 'save', 'write_config',
]
