"""Online DPO on the demo task.

"Direct Preference Optimization: Your Language Model is Secretly a Reward
Model", Rafailov et al., 2023, arXiv 2305.18290.
Cost as in configs/grpo.py, and a forward pass of the reference model.

  python experiments/train.py --config=configs/dpo.py --workdir=runs/dpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'dpo'
  config.method_kw.update(kind='sigmoid', beta=0.1)
  return common.adjust(config, arg)
