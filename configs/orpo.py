"""Online ORPO on the demo task.

"ORPO: Monolithic Preference Optimization without Reference Model", Hong, Lee,
Thorne, 2024, arXiv 2403.07691.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/orpo.py --workdir=runs/orpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'orpo'
  config.method_kw.update(beta=0.1, nll_coef=1.)
  return common.adjust(config, arg)
