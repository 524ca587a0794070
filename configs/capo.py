"""CAPO on the demo task.

"Stabilizing Policy Gradients for Sample-Efficient Reinforcement Learning in
LLM Reasoning", Melo, Abate, Gal, 2025, arXiv 2510.00819.
Cost as in configs/grpo.py, and one more forward pass per step.

  python experiments/train.py --config=configs/capo.py --workdir=runs/capo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'capo'
  # The published limits, of a model thirty times as wide, reject a tenth of
  # the tokens here.
  config.method_kw.update(
      tau_h=0.05, tau_f=1e-3, optimizer_model='adam',
      b1=config.optimizer.kw.b1, b2=config.optimizer.kw.b2)
  return common.adjust(config, arg)
