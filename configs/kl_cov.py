"""KL-Cov on the demo task.

"The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
Cui et al., 2025, arXiv 2505.22617.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/kl_cov.py --workdir=runs/kl_cov
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'kl_cov'
  config.method_kw.update(fraction=2e-4, coef=0.1)
  return common.adjust(config, arg)
