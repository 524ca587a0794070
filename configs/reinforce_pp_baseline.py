r"""REINFORCE++ with a group baseline on the demo task.

"REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Advantage
Normalization", Hu et al., 2025, arXiv 2501.03262.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/reinforce_pp_baseline.py \
      --workdir=runs/reinforce_pp_baseline
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'reinforce_pp_baseline'
  config.method_kw.update(beta=1e-5, kl='k2')
  return common.adjust(config, arg)
