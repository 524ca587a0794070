"""MaxRL on the demo task.

"Maximum Likelihood Reinforcement Learning", Tajwar et al., 2026,
arXiv 2602.02710.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/maxrl.py --workdir=runs/maxrl
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'maxrl'
  config.method_kw.update(eps=1e-6)
  return common.adjust(config, arg)
