"""A-GRAE on the demo task.

"Unveiling Implicit Advantage Symmetry: Why GRPO Struggles with Exploration and
Difficulty Adaptation", 2026, arXiv 2602.05548.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/agrae.py --workdir=runs/agrae
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'agrae'
  config.method_kw.update(alpha=1.0, gamma=0.5)
  return common.adjust(config, arg)
