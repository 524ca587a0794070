"""GSPO on the demo task.

"Group Sequence Policy Optimization", Zheng et al., 2025, arXiv 2507.18071.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/gspo.py --workdir=runs/gspo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'gspo'
  config.method_kw.update(clip_low=3e-4, clip_high=4e-4)
  return common.adjust(config, arg)
