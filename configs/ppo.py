"""PPO with a value head on the demo task.

"Proximal Policy Optimization Algorithms", Schulman et al., 2017,
arXiv 1707.06347.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/ppo.py --workdir=runs/ppo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'ppo'
  config.method_kw.update(gamma=1.0, lam=0.95, value_coef=0.5)
  return common.adjust(config, arg)
