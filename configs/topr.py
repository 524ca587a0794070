"""TOPR on the demo task.

"Tapered Off-Policy REINFORCE: Stable and efficient reinforcement learning for
LLMs", Le Roux et al., 2025, arXiv 2503.14286.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/topr.py --workdir=runs/topr
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'topr'
  # The task rewards with 1 and 0; the method needs negative rows too.
  config.method_kw.update(offset=0.5)
  return common.adjust(config, arg)
