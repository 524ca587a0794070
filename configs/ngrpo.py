"""NGRPO on the demo task.

"NGRPO: Negative-enhanced Group Relative Policy Optimization", Nan et al., 2025,
arXiv 2509.18851.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/ngrpo.py --workdir=runs/ngrpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'ngrpo'
  config.method_kw.update(
      virtual=1, reward_max=1.0, clip_low=0.16, clip_high=0.24, rounds=3)
  return common.adjust(config, arg)
