"""HAPO on the demo task.

"From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's
Nature", Liu et al., 2025, arXiv 2509.16591.
Cost as in configs/grpo.py, and one more forward pass per step.

  python experiments/train.py --config=configs/hapo.py --workdir=runs/hapo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'hapo'
  config.method_kw.update(tau=0.1, adv_beta=1.0, clip_alpha=1.0, rounds=3)
  return common.adjust(config, arg)
