"""Which model a config asks for."""

from __future__ import annotations

from policyopt.models import convert
from policyopt.models.config import ModelConfig
from policyopt.models.presets import preset


def folder_of(config) -> str | None:
  """The folder of published weights that a config names, None without one.

  Args:
    config: the 'model' part of a run's config.
  """
  return config.get('folder') or None  # Older runs lack the key.


def model_of(config, **changes) -> ModelConfig:
  """The preset, or the model of the folder, with the config's own changes.

  Args:
    config: the 'model' part of a run's config: `folder`, `preset` and `kw`,
      whose fields of None are left alone.
    **changes: further fields of `ModelConfig`.

  Returns:
    A validated ModelConfig.

  Raises:
    ValueError: for an unknown preset or field, or a folder that holds no
      model that is known here.
  """
  changes = {k: v for k, v in config.kw.items() if v is not None} | changes
  folder = folder_of(config)
  if folder:
    return convert.model_config(folder, **changes)
  return preset(config.preset, **changes)
