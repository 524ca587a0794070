r"""REINFORCE with a batch-mean baseline on the demo task.

"Simple Statistical Gradient-Following Algorithms for Connectionist
Reinforcement Learning", Williams, 1992, Machine Learning 8:229-256.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/reinforce.py \
      --workdir=runs/reinforce
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'reinforce'
  config.method_kw.update(baseline='batch')
  return common.adjust(config, arg)
