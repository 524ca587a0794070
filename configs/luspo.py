"""LUSPO on the demo task.

"Length-Unbiased Sequence Policy Optimization: Revealing and Controlling
Response Length Variation in RLVR", 2026, arXiv 2602.05261.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/luspo.py --workdir=runs/luspo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'luspo'
  config.method_kw.update(clip_low=2e-3, clip_high=2.5e-3)
  return common.adjust(config, arg)
