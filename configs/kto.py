"""Online KTO on the demo task.

"KTO: Model Alignment as Prospect Theoretic Optimization", Ethayarajh et al.,
2024, arXiv 2402.01306.
Cost as in configs/grpo.py, and a forward pass of the reference model.

  python experiments/train.py --config=configs/kto.py --workdir=runs/kto
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'kto'
  config.method_kw.update(kind='kto', beta=0.1)
  return common.adjust(config, arg)
