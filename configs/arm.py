"""ARM on the demo task: what the policy is sure of counts less.

"Back to Basics: Revisiting Exploration in Reinforcement Learning for LLM
Reasoning via Generative Probabilities", Li et al., 2026, arXiv 2602.05281.
Cost as in configs/grpo.py, and one more forward pass for the prompts.

  python experiments/train.py --config=configs/arm.py --workdir=runs/arm
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'arm'
  config.method_kw.update(alpha=0.3, low_fraction=0.2)
  return common.adjust(config, arg)
