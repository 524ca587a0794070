"""Online SimPO on the demo task.

"SimPO: Simple Preference Optimization with a Reference-Free Reward", Meng, Xia,
Chen, 2024, arXiv 2405.14734.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/simpo.py --workdir=runs/simpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'simpo'
  config.method_kw.update(beta=2., margin=0.5)
  return common.adjust(config, arg)
