"""VERL (Velocity-Exploiting Rank-Learning) on the demo task.

"Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for LLM
Reasoning in RLVR", Huang et al., 2025, arXiv 2509.23808.
Cost as in configs/grpo.py, and one more forward pass per step; the singular
values of a response's hidden states, once per window, on top.

  python experiments/train.py --config=configs/verl_hidden.py \
      --workdir=runs/verl_hidden
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'verl_hidden'
  # Responses of eight tokens: the paper's stride of 40 would see one window.
  config.method_kw.update(stride=2, kappa=2.0, gain=2.0)
  return common.adjust(config, arg)
