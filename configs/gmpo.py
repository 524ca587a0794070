"""GMPO on the demo task.

"Geometric-Mean Policy Optimization", 2025, arXiv 2507.20673.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/gmpo.py --workdir=runs/gmpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'gmpo'
  config.method_kw.update(clip_low=0.4, clip_high=0.4)
  return common.adjust(config, arg)
