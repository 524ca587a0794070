"""DVAO on the demo task.

"DVAO: Dynamic Variance-adaptive Advantage Optimization for Multi-reward
Reinforcement Learning", 2026, arXiv 2605.25604.
Cost as in configs/grpo.py.

The demo gives one reward channel, with which it is GRPO; a task with several
needs no change here.

  python experiments/train.py --config=configs/dvao.py --workdir=runs/dvao
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'dvao'
  config.method_kw.update(combine='adaptive', std='population')
  return common.adjust(config, arg)
