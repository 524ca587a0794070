r"""REINFORCE++ on the demo task.

"REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage
Normalization", Hu et al., 2025, arXiv 2501.03262.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/reinforce_pp.py \
      --workdir=runs/reinforce_pp
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'reinforce_pp'
  config.method_kw.update(gamma=1.0, beta=1e-4)
  return common.adjust(config, arg)
