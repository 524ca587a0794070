r"""GRPO for pass@k on the demo task.

"Optimizing Language Models for Inference Time Objectives using Reinforcement
Learning", Tang et al., 2025, arXiv 2503.19595.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/passk_grpo.py \
      --workdir=runs/passk_grpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'passk_grpo'
  config.method_kw.update(std='sample')
  return common.adjust(config, arg)
