"""GRPO on the demo task.

"DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language
Models", Shao et al., 2024, arXiv 2402.03300. About four minutes on two cores:

  python experiments/train.py --config=configs/grpo.py --workdir=runs/grpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'grpo'
  config.method_kw.update(std='sample', eps=1e-6, clip_low=0.2, clip_high=0.2)
  return common.adjust(config, arg)
