"""The optimal token baseline on the demo task.

"The Optimal Token Baseline: Variance Reduction for Long-Horizon LLM-RL", Li et
al., 2026, arXiv 2602.07078.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/otb.py --workdir=runs/otb
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'otb'
  config.method_kw.update(variant='position')
  return common.adjust(config, arg)
