"""M2PO on the demo task.

"Prosperity before Collapse: How Far Can Off-Policy RL Reach with Stale Data on
LLMs?", Zheng, Zhao, Chen, 2025, arXiv 2510.01161.
Cost as in configs/grpo.py, plus a forward pass of the policy per step.

  python experiments/train.py --config=configs/m2po.py --workdir=runs/m2po
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'm2po'
  config.method_kw.update(m2_threshold=0.04)
  return common.adjust(config, arg)
