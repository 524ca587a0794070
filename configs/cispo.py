"""CISPO on the demo task.

"MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
MiniMax, 2025, arXiv 2506.13585.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/cispo.py --workdir=runs/cispo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'cispo'
  config.method_kw.update(clip_low=1., clip_high=4.)
  return common.adjust(config, arg)
