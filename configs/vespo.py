"""VESPO on the demo task.

"VESPO: Variational Sequence-Level Soft Policy Optimization for Stable
Off-Policy LLM Training", 2026, arXiv 2602.10693.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/vespo.py --workdir=runs/vespo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'vespo'
  config.method_kw.update(
      power_positive=2., rate_positive=3., power_negative=3., rate_negative=2.)
  return common.adjust(config, arg)
