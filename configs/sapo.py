"""SAPO on the demo task.

"Soft Adaptive Policy Optimization", 2025, arXiv 2511.20347.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/sapo.py --workdir=runs/sapo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'sapo'
  config.method_kw.update(tau_positive=1., tau_negative=1.05)
  return common.adjust(config, arg)
