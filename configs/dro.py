"""DRO on the demo task.

"Offline Regularised Reinforcement Learning for Large Language Models
Alignment", Richemond et al., 2024, arXiv 2405.19107.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/dro.py --workdir=runs/dro
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'dro'
  config.method_kw.update(beta=0.05)
  return common.adjust(config, arg)
