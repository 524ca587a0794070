"""RLOO on the demo task.

"Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
Feedback in LLMs", Ahmadian et al., 2024, arXiv 2402.14740.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/rloo.py --workdir=runs/rloo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'rloo'
  config.method_kw.update(singleton='zero')
  return common.adjust(config, arg)
