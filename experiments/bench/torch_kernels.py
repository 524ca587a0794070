"""verl and TRL, whose functions ours are timed against."""

from __future__ import annotations

import collections
from collections.abc import Callable
import importlib
import importlib.metadata
import os
import types
import warnings

import numpy as np

INSTALL = "pip install -e '.[bench]'"
_MODULES = {
    'torch': 'torch',
    'verl': 'verl.trainer.ppo.core_algos',
    'functional': 'verl.utils.torch_functional',
    'correction': 'verl.trainer.ppo.rollout_corr_helper',
    'config': 'verl.workers.config',
    'grpo': 'trl.trainer.grpo_trainer',
    'trl_utils': 'trl.trainer.utils',
    'cpo': 'trl.experimental.cpo.cpo_trainer',
    'orpo': 'trl.experimental.orpo.orpo_trainer',
}


class Peers(types.SimpleNamespace):
  """The peers' modules by the names in `_MODULES`, and why some are missing."""

  missing: dict[str, str]

  def versions(self) -> dict[str, str]:
    """Package -> version of what could be imported."""
    packages = {module.split('.')[0] for name, module in _MODULES.items()
                if name not in self.missing}
    return {name: importlib.metadata.version(name)
            for name in sorted(packages)}

  def tensor(self, array: np.ndarray):
    """The array as a tensor; masks are float32, as their formulas want."""
    if array.dtype == bool:
      array = array.astype(np.float32)
    return self.torch.from_numpy(array)


def load() -> Peers:
  """Imports the peers that are installed.

  Returns:
    Peers, without the attributes that are in its `missing`.
  """
  # verl imports ray, which no cluster is asked of here.
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
  found, missing = {}, {}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for name, module in _MODULES.items():
      try:
        found[name] = importlib.import_module(module)
      except Exception as error:  # Whatever keeps a package from importing.
        missing[name] = f'{module}: {type(error).__name__}: {error}'
  if 'torch' in found:
    found['torch'].set_num_threads(os.cpu_count() or 1)
  return Peers(**found, missing=missing)


def actor(config, policy_loss: dict | None = None, **fields):
  """verl's settings of a policy loss."""
  return config.ActorConfig(
      strategy='fsdp', rollout_n=1, ppo_micro_batch_size_per_gpu=1, **fields,
      policy_loss=config.PolicyLossConfig(**(policy_loss or {})))


def stand_in(**attributes) -> types.SimpleNamespace:
  """What TRL's methods read of their trainer, on one device."""
  return types.SimpleNamespace(
      accelerator=types.SimpleNamespace(
          device='cpu', num_processes=1, gather=lambda x: x,
          reduce=lambda x, reduction: x), **attributes)


def trl_loss(loss_type: str, level: str = 'token') -> Callable:
  """TRL's `GRPOTrainer._compute_loss`, without a trainer around it.

  The method is the library's own; what it reads of its trainer is a namespace,
  and the forward pass hands over the log-probabilities as they are.
  """
  args = types.SimpleNamespace(
      delta=None, vespo_k_pos=2., vespo_lambda_pos=3., vespo_k_neg=3.,
      vespo_lambda_neg=2., steps_per_generation=1)

  def run(torch, grpo, log_probs, old, row_advantages, mask, entropy):
    trainer = stand_in(
        args=args, loss_type=loss_type, importance_sampling_level=level,
        beta=0., epsilon_low=.2, epsilon_high=.2, top_entropy_quantile=1.,
        off_policy_mask_threshold=None, use_vllm=False,
        aux_loss_enabled=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=types.SimpleNamespace(training=True),
        get_gamma_weights=grpo.GRPOTrainer.get_gamma_weights,
        _metrics=collections.defaultdict(
            lambda: collections.defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            log_probs, entropy, None))
    nothing = torch.zeros((mask.shape[0], 0), dtype=torch.int8)
    loss = grpo.GRPOTrainer._compute_loss(trainer, None, {
        'prompt_ids': nothing, 'prompt_mask': nothing,
        'completion_ids': mask.to(torch.int8), 'completion_mask': mask,
        'advantages': row_advantages[:, 0], 'old_per_token_logps': old,
        'num_items_in_batch': mask.sum()})
    return {'loss': loss}

  return run
