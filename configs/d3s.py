"""D3S on the demo task: a growing part of the rows and of their tokens.

"Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for
Efficient Policy Optimization", Wang et al., 2025, arXiv 2509.22115.
Cost as in configs/grpo.py, and one more forward pass for the entropy.

  python experiments/train.py --config=configs/d3s.py --workdir=runs/d3s
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'd3s'
  config.method_kw.update(rows_init=0.25, rows_final=0.75,
                          tokens_init=0.2, tokens_final=0.6)
  return common.adjust(config, arg)
