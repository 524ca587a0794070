"""ReMax on the demo task.

"ReMax: A Simple, Effective, and Efficient Reinforcement Learning Method for
Aligning Large Language Models", Li et al., 2023, arXiv 2310.10505.
Cost as in configs/grpo.py, and an eighth more samples.

  python experiments/train.py --config=configs/remax.py --workdir=runs/remax
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'remax'
  config.method_kw.update(aggregation='sequence_sum')
  return common.adjust(config, arg)
