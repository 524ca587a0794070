"""BNPO on the demo task.

"BNPO: Beta Normalization Policy Optimization", Xiao, Zhang, Cao, 2025,
arXiv 2506.02864.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/bnpo.py --workdir=runs/bnpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'bnpo'
  config.method_kw.update(
      reward_min=0.0, reward_max=1.0, decompose=False)
  return common.adjust(config, arg)
