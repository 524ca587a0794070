"""CANON on the demo task: groups cut in two by their entropy.

"Conditional Advantage Estimation for Reinforcement Learning in Large Reasoning
Models", Chen et al., 2025, arXiv 2509.23962.
Cost as in configs/grpo.py, and one more forward pass for the entropy.

  python experiments/train.py --config=configs/canon.py --workdir=runs/canon
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'canon'
  config.method_kw.update(metric='entropy', mu=1.0)
  return common.adjust(config, arg)
