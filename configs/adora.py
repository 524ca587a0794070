"""ADORA on the demo task.

"ADORA: Training Reasoning Models with Dynamic Advantage Estimation on
Reinforcement Learning", 2026, arXiv 2602.10019.
Cost as in configs/grpo.py.

The right answer to a word of the demo has one length, so that the criterion of
length tells little there; `method_kw.criterion=difficulty` is the other one.

  python experiments/train.py --config=configs/adora.py --workdir=runs/adora
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'adora'
  config.method_kw.update(mode='attenuate', criterion='length', lam=0.1)
  return common.adjust(config, arg)
