"""Sums that are generated and judged by JAX programs, on the device.

About two minutes on two cores:

  python experiments/train.py --config=configs/arithmetic.py --workdir=runs/sum
"""

from configs import common


def get_config(arg=''):
  config = common.base()
  common.set_task(config, 'arithmetic', digits=1, operators=('+', '-'))
  config.sampler.max_tokens = 4
  config.warm_start.steps = 100
  config.steps = 200
  return common.adjust(config, arg)
