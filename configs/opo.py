"""OPO on the demo task.

"On-Policy RL with Optimal Reward Baseline", Hao et al., 2025, arXiv 2505.23585.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/opo.py --workdir=runs/opo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'opo'
  config.method_kw.update(aggregation='token_mean')
  return common.adjust(config, arg)
