"""GDPO on the demo task.

"GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward
RL Optimization", Liu et al., 2026, arXiv 2601.05242.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/gdpo.py --workdir=runs/gdpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'gdpo'
  config.method_kw.update(whiten_over='sequence')
  return common.adjust(config, arg)
