"""COPO on the demo task, whose answers are compared as texts.

"COPO: Consistency-Aware Policy Optimization", Han et al., 2025,
arXiv 2508.04138.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/copo.py --workdir=runs/copo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'copo'
  config.method_kw.update(mode='soft_with_zero', steepness=5.0, centre=1.0)
  return common.adjust(config, arg)
