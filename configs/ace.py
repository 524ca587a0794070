"""ACE on the demo task: errors that became more likely count more.

"Overconfident Errors Need Stronger Correction: Asymmetric Confidence Penalties
for Reinforcement Learning", Xu et al., 2026, arXiv 2602.21420.
Cost as in configs/grpo.py, whose reference model it also reads.

  python experiments/train.py --config=configs/ace.py --workdir=runs/ace
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'ace'
  config.method_kw.update(alpha=1.0, length_normalised=True)
  return common.adjust(config, arg)
