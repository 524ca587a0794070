"""Dr. GRPO on the demo task.

"Understanding R1-Zero-Like Training: A Critical Perspective", Liu et al., 2025,
arXiv 2503.20783.
Cost as in configs/grpo.py.

  python experiments/train.py --config=configs/dr_grpo.py --workdir=runs/dr_grpo
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  config.method = 'dr_grpo'
  config.method_kw.update(max_tokens=config.sampler.max_tokens)
  return common.adjust(config, arg)
