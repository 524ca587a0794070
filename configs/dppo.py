"""DPPO on the demo task.

"Rethinking the Trust Region in LLM Reinforcement Learning", Qi et al., 2026,
arXiv 2602.04879.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/dppo.py --workdir=runs/dppo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'dppo'
  config.method_kw.update(divergence='tv', ratio_cap=20.)
  return common.adjust(config, arg)
