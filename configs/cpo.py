"""Online CPO on the demo task.

"Contrastive Preference Optimization: Pushing the Boundaries of LLM Performance
in Machine Translation", Xu et al., 2024, arXiv 2401.08417.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/cpo.py --workdir=runs/cpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'cpo'
  config.method_kw.update(kind='sigmoid', beta=0.1, nll_coef=1.)
  return common.adjust(config, arg)
