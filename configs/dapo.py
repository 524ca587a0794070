"""DAPO on the demo task.

"DAPO: An Open-Source LLM Reinforcement Learning System at Scale", Yu et al.,
2025, arXiv 2503.14476.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/dapo.py --workdir=runs/dapo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'dapo'
  config.method_kw.update(clip_low=0.2, clip_high=0.28, rounds=3)
  return common.adjust(config, arg)
