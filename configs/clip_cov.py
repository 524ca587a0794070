"""Clip-Cov on the demo task.

"The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
Cui et al., 2025, arXiv 2505.22617.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/clip_cov.py --workdir=runs/cov
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'clip_cov'
  config.method_kw.update(fraction=2e-4, cov_low=1., cov_high=5.)
  return common.adjust(config, arg)
