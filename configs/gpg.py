"""GPG on the demo task.

"GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning",
Chu et al., 2025, arXiv 2504.02546.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/gpg.py --workdir=runs/gpg
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'gpg'
  config.method_kw.update(scale_by='valid', f_norm=1.0)
  return common.adjust(config, arg)
